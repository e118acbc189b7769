//! `cargo xtask run`: from a clone to a running machine.

mod kvm;
mod terminal;
mod watcher;

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::terminal::Terminal;
use self::watcher::Watcher;
use crate::build::Built;
use crate::image::{self, Content, DOM0_MIB};
use crate::qemu::{Accel, Boot, GDB_PORT, Lines, Options, Serial};
use crate::qmp::Qmp;
use crate::services::{self, Forward};
use crate::{build, paths, setup};

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Args {
    /// How the machine finds the hypervisor
    #[arg(long, value_enum, default_value = "disk-bios")]
    boot: Boot,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    smp: u32,
    /// RAM, e.g. 512M
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    memory: String,
    /// The CPU model, as QEMU names it
    #[arg(long, value_name = "MODEL", default_value = "max")]
    cpu: String,
    /// Who executes the machine's instructions [default: KVM where it is seen to work, else TCG]
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Forward this port of 127.0.0.1 to a guest, e.g. web=9090, or debian=8000:80 for its port 80
    #[arg(long = "port", value_name = "GUEST=PORT[:PORT]", value_parser = services::Asked::parse)]
    ports: Vec<services::Asked>,
    /// No terminal: the serial console goes to target/oxen/logs/serial.log; SIGTERM ends the machine
    #[arg(long)]
    headless: bool,
    /// Keep the volumes of the run before, also those that --volume does not name again; one may grow
    #[arg(long)]
    keep: bool,
    /// Wait for a debugger on 127.0.0.1:1234 before the first instruction
    #[arg(long)]
    gdb: bool,
    #[command(flatten)]
    content: Content,
}

/// The memory in MiB without which nothing starts.
const LEAST_MIB: u64 = 64;

/// A size of RAM as QEMU takes it, in KiB, from `512M` or `1.5G`; without a unit it is in MiB.
fn memory(text: &str) -> Result<String, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" | "M" | "m" => 1.0,
        "G" | "g" => 1024.0,
        "T" | "t" => 1024.0 * 1024.0,
        _ => return Err("write it like 512M or 2G".into()),
    };
    let mib = number.parse::<f64>().map_err(|_| "write it like 512M or 2G")? * unit;
    if mib < LEAST_MIB as f64 || !mib.is_finite() {
        return Err(format!("the machine needs {LEAST_MIB}M, and 160M to start its guests"));
    }
    Ok(format!("{}K", (mib * 1024.0) as u64))
}

/// Runs `cargo xtask run`: its exit code is the machine's.
pub fn command(args: &Args) -> Result<ExitCode> {
    let mut content = args.content.clone();
    content.resolve()?;
    let forwards = services::forwards(&services::with(&content.files)?, &args.ports)?;
    forwards.iter().try_for_each(port_is_free)?;
    if args.gdb && TcpListener::bind((Ipv4Addr::LOCALHOST, GDB_PORT)).is_err() {
        bail!("port {GDB_PORT} on 127.0.0.1, where gdb is to connect, is taken");
    }
    let _alone = the_only_run()?;
    setup::ensure(setup::For::Run)?;
    let built = content.build()?;
    has_room(&args.memory, &built)?;
    let disk = paths::out().join("disk.img");
    image::write(&disk, &built, &content, args.keep)?;

    let log = paths::logs()?.join("serial.log");
    let monitor = Qmp::socket();
    let serial = if args.headless { Serial::File(log.clone()) } else { Serial::Terminal(log.clone()) };
    let accel = args.accel.unwrap_or_else(|| kvm::probe(&built, &content));
    let options = Options {
        content,
        boot: args.boot,
        disk: Some(&disk),
        disk_is_scratch: false,
        smp: args.smp,
        memory: &args.memory,
        cpu: &args.cpu,
        accel,
        forwards: forwards.clone(),
        ..Options::direct(&built)
    };
    let mut command = options.command(&Lines { serial, monitor: &monitor, gdb: args.gdb })?;
    if args.headless {
        command.stdin(Stdio::null());
        eprintln!("  the serial console goes to {}", log.display());
    } else if std::io::stdin().is_terminal() {
        eprintln!("  Ctrl-A X ends the machine, Ctrl-A C is QEMU's monitor");
    }
    if args.gdb {
        let symbols = build::unstripped("oxen");
        eprintln!("  waiting for: gdb {} -ex 'target remote :{GDB_PORT}'", symbols.display());
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let _terminal = Terminal::keep();
    let mut qemu = command.spawn().context("cannot start QEMU")?;
    let qmp = Qmp::connect(&monitor, &mut qemu);
    let watcher = Watcher::start(forwards, Arc::clone(&ended));
    let result = wait(&mut qemu, qmp, &ended);
    ended.store(true, Ordering::Relaxed);
    watcher.join();
    result
}

/// Waits for QEMU's end; a signal ends it through its monitor, which leaves the disk's file complete.
fn wait(qemu: &mut Child, mut qmp: Result<Qmp>, ended: &AtomicBool) -> Result<ExitCode> {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = qemu.try_wait()? {
            if asked.is_some() || status.signal().is_some() {
                eprintln!(); // the console's last line is unfinished
            }
            return match status.signal() {
                Some(signal) if asked.is_none() => bail!("QEMU was ended by signal {signal}"),
                _ if asked.is_some() || status.success() => Ok(ExitCode::SUCCESS),
                _ => Ok(ExitCode::FAILURE),
            };
        }
        match asked {
            Some(when) if when.elapsed() > LIMIT => qemu.kill()?,
            None if ended.load(Ordering::Relaxed) => {
                asked = Some(Instant::now());
                let quit = qmp.as_mut().is_ok_and(|qmp| qmp.execute("quit", json!({})).is_ok());
                if !quit {
                    qemu.kill()?;
                }
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Holds the lock of this tree's disk and log: two machines would write over each other's.
fn the_only_run() -> Result<File> {
    let file = paths::logs()?.join("run.lock");
    let lock = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("`cargo xtask run` is running already in this tree, with the same disk: end it first")
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", file.display()))
        }
    }
}

/// A machine with this `memory` starts dom0 with what was added to its ramdisk.
fn has_room(memory: &str, built: &Built) -> Result<()> {
    let mib = memory.trim_end_matches('K').parse::<u64>()? >> 10;
    // the boot loader's copy of the ramdisk, beside dom0's own
    let needed = LEAST_MIB + DOM0_MIB + built.added_mib + (std::fs::metadata(&built.ramdisk)?.len() >> 20);
    if built.added_mib > 0 && mib < needed {
        bail!(
            "with these files dom0 needs a machine of {needed} MiB, without any guest: --memory {}M",
            needed + 512
        );
    }
    Ok(())
}

fn port_is_free(forward: &Forward) -> Result<()> {
    let Forward { name, host_port, .. } = forward;
    let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, *host_port)) else { return Ok(()) };
    let other = match host_port {
        ..1024 => host_port + 8000,
        _ => host_port.checked_add(1000).unwrap_or(1024),
    };
    let fault = match error.kind() {
        ErrorKind::AddrInUse => "is taken",
        ErrorKind::PermissionDenied => "needs root's rights",
        _ => bail!("port {host_port} on 127.0.0.1 cannot be used: {error}"),
    };
    bail!("port {host_port} on 127.0.0.1 {fault}: choose another for {name} with --port {name}={other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_built() {
        let sizes = ["1G", "1.5g", "512", "64M", "1t"].map(|text| memory(text).ok());
        let kib = ["1048576K", "1572864K", "524288K", "65536K", "1073741824K"];
        assert_eq!(sizes, kib.map(|size| Some(size.into())));
        for bad in ["", "G", "x", "1G,x=y", "63M", "0", "nan", "infM", "1P", "1GB", "1 G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
