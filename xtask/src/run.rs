//! `cargo xtask run`: from a clone to a running machine.

mod kvm;

use std::io::{IsTerminal, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::image::{self, Content};
use crate::qemu::{Accel, Boot, Machine, Serial};
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
    /// RAM
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,
    /// The CPU model, as QEMU names it
    #[arg(long, value_name = "MODEL", default_value = "max")]
    cpu: String,
    /// Who executes the machine's instructions [default: KVM where it is seen to work, else TCG]
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Forward this port of 127.0.0.1 to a service, e.g. web=9090
    #[arg(long = "port", value_name = "SERVICE=PORT", value_parser = port)]
    ports: Vec<(String, u16)>,
    /// No terminal: the serial console goes to target/oxen/logs/serial.log; SIGTERM ends the machine
    #[arg(long)]
    headless: bool,
    /// Keep the volumes of the run before
    #[arg(long)]
    keep: bool,
    /// Wait for a debugger on 127.0.0.1:1234 before the first instruction
    #[arg(long)]
    gdb: bool,
    #[command(flatten)]
    content: Content,
}

fn port(text: &str) -> Result<(String, u16), String> {
    let (name, port) = text.split_once('=').ok_or("write it like web=9090")?;
    let port = port.parse().ok().filter(|&p| p != 0).ok_or_else(|| format!("{port} is not a port"))?;
    Ok((name.to_string(), port))
}

/// Runs `cargo xtask run`: its exit code is the machine's.
pub fn command(args: &Args) -> Result<ExitCode> {
    let forwards = services::forwards(&services::all()?, &args.ports)?;
    forwards.iter().try_for_each(port_is_free)?;
    setup::ensure(setup::For::Run)?;
    let built = build::with(args.content.hypervisor.as_deref(), args.content.dom0.as_deref())?;
    let disk = paths::out().join("disk.img");
    image::write(&disk, &built, &args.content, args.keep)?;

    let log = paths::out().join("logs/serial.log");
    std::fs::create_dir_all(paths::out().join("logs"))?;
    let monitor = monitor_socket();
    let serial = if args.headless { Serial::File(log.clone()) } else { Serial::Terminal(log.clone()) };
    let machine = Machine {
        boot: args.boot,
        built: &built,
        content: &args.content,
        disk: Some(&disk),
        disk_is_scratch: false,
        smp: args.smp,
        memory: &args.memory,
        cpu: &args.cpu,
        accel: args.accel.unwrap_or_else(|| kvm::probe(&built, &args.content)),
        forwards: &forwards,
        serial,
        monitor: &monitor,
        gdb: args.gdb,
        more: &[],
    };
    let mut command = machine.command()?;
    if args.headless {
        command.stdin(Stdio::null());
        eprintln!("  the serial console goes to {}", log.display());
    } else if std::io::stdin().is_terminal() {
        eprintln!("  Ctrl-A X ends the machine, Ctrl-A C is QEMU's monitor");
    }
    if args.gdb {
        eprintln!("  waiting for: gdb target/{}/release/oxen -ex 'target remote :1234'", setup::TARGET);
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let mut qemu = command.spawn().context("cannot start QEMU")?;
    let watcher = Watcher::start(forwards, Arc::clone(&ended));
    let result = wait(&mut qemu, &monitor, &ended);
    ended.store(true, Ordering::Relaxed);
    watcher.join();
    let _ = std::fs::remove_file(&monitor);
    result
}

/// Waits for QEMU's end; a signal ends it through its monitor, which leaves the disk's file complete.
fn wait(qemu: &mut Child, monitor: &Path, ended: &AtomicBool) -> Result<ExitCode> {
    loop {
        if let Some(status) = qemu.try_wait()? {
            if let Some(signal) = status.signal() {
                bail!("QEMU was ended by signal {signal}");
            }
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if ended.load(Ordering::Relaxed) {
            let asked = Qmp::connect(monitor).and_then(|mut qmp| qmp.execute("quit", json!({})));
            if asked.is_err() {
                qemu.kill()?;
            }
            qemu.wait()?;
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A socket's name for a machine's monitor, short enough for a UNIX address and not yet there.
pub fn monitor_socket() -> PathBuf {
    use std::sync::atomic::AtomicU32;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("oxen-{}-{n}.qmp", std::process::id()))
}

fn port_is_free(forward: &Forward) -> Result<()> {
    let Forward { name, host_port, .. } = forward;
    if TcpListener::bind((Ipv4Addr::LOCALHOST, *host_port)).is_err() {
        bail!(
            "port {host_port} on 127.0.0.1 is taken: choose another for {name} with --port {name}={}",
            host_port.checked_add(1000).unwrap_or(1024)
        );
    }
    Ok(())
}

/// Tells each service's address the moment it answers.
struct Watcher(std::thread::JoinHandle<()>);

impl Watcher {
    fn start(forwards: Vec<Forward>, ended: Arc<AtomicBool>) -> Self {
        Self(std::thread::spawn(move || {
            let mut silent = forwards;
            while !silent.is_empty() && !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(250));
                silent.retain(|forward| {
                    let up = answers(forward.host_port, forward.port == 80);
                    if up {
                        // the terminal is raw while the console is on it
                        eprint!("\r\n  {} is at {}\r\n", forward.name, forward.shown());
                    }
                    !up
                });
            }
        }))
    }

    fn join(self) {
        let _ = self.0.join();
    }
}

/// The service behind `port` answers. QEMU accepts a forwarded connection before the guest does, so
/// only a byte from the guest counts.
fn answers(port: u16, http: bool) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let hello: &[u8] = if http {
            b"GET /status.json HTTP/1.1\r\nHost: oxen\r\nConnection: close\r\n\r\n"
        } else {
            b"PING\r\n"
        };
        stream.write_all(hello)?;
        stream.read(&mut [0; 1])
    };
    ask().is_ok_and(|n| n > 0)
}
