//! The machine that everything runs on: QEMU's command line.
//!
//! A q35 PC with one virtio disk and one virtio network card, both modern only, the first serial port
//! as the console, and user-mode networking 10.0.2.0/24 with forwarded ports on the host's loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::build::Built;
use crate::image::Content;
use crate::services::Forward;
use crate::{cmd, paths};

/// The port of 127.0.0.1 on which a machine waits for its debugger.
pub const GDB_PORT: u16 = 1234;

/// How the machine finds the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Boot {
    /// PC BIOS, GRUB from the disk, Multiboot 2
    DiskBios,
    /// UEFI firmware, GRUB from the disk, Multiboot 2
    DiskUefi,
    /// QEMU loads the kernels by itself, Multiboot 1: the quickest
    Direct,
    /// QEMU loads the hypervisor by its PVH note, with dom0 as the only module: for tests
    #[value(skip)]
    Pvh,
}

/// Who executes the machine's instructions.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU's translator: works everywhere
    Tcg,
    /// The host's KVM
    Kvm,
}

/// Where the first serial port leads.
pub enum Serial {
    /// This process's terminal, and the file.
    Terminal(PathBuf),
    /// The file only.
    File(PathBuf),
    /// QEMU's standard input and output, for a program to use.
    Pipe,
}

/// A machine: what it boots, and what it has.
#[derive(Clone)]
pub struct Options<'a> {
    /// The kernels.
    pub built: &'a Built,
    /// Their arguments.
    pub content: Content,
    /// How the machine boots.
    pub boot: Boot,
    /// The disk's image; none for a machine without a disk.
    pub disk: Option<&'a Path>,
    /// The disk's image itself stays as it is: writes are forgotten.
    pub disk_is_scratch: bool,
    /// A file that is to hold every write to the disk and every flush (see `test::medium`).
    pub disk_log: Option<&'a Path>,
    /// Virtual CPUs.
    pub smp: u32,
    /// RAM, as QEMU takes it: `1G`.
    pub memory: &'a str,
    /// The CPU model, as QEMU takes it.
    pub cpu: &'a str,
    /// Who executes.
    pub accel: Accel,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
    /// More arguments for QEMU.
    pub more: Vec<String>,
}

impl<'a> Options<'a> {
    /// A machine without a disk that QEMU boots by itself.
    pub fn direct(built: &'a Built) -> Self {
        Self {
            built,
            content: Content::default(),
            boot: Boot::Direct,
            disk: None,
            disk_is_scratch: true,
            disk_log: None,
            smp: 1,
            memory: "1G",
            cpu: "Skylake-Client",
            accel: Accel::Tcg,
            forwards: Vec::new(),
            more: Vec::new(),
        }
    }
}

/// Who talks with a machine.
pub struct Lines<'a> {
    /// The console.
    pub serial: Serial,
    /// The socket on which the monitor is to listen.
    pub monitor: &'a Path,
    /// Wait for a debugger on [`GDB_PORT`] before the first instruction.
    pub gdb: bool,
}

impl Options<'_> {
    /// QEMU's command. QEMU dies with the thread that starts it, so that no machine is left behind.
    pub fn command(&self, lines: &Lines) -> Result<Command> {
        let qemu = paths::find_program("qemu-system-x86_64").context("qemu-system-x86_64 is missing")?;
        let mut command = cmd::program("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(qemu).current_dir(paths::out());
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        };
        command.args(["-name", "oxen", "-machine", "q35", "-accel", accel, "-cpu", &self.cpu_model()?]);
        command.args(["-m", self.memory, "-smp", &self.smp.to_string()]);
        command.args(["-nodefaults", "-display", "none", "-vga", "std"]);
        self.add_boot(&mut command)?;
        self.add_devices(&mut command);
        lines.add_to(&mut command);
        command.args(&self.more);
        Ok(command)
    }

    /// The CPU model. Before 9.1 QEMU's translator takes user mode's `iret` for the kernel's, which SMAP keeps from
    /// the user's stack: a paravirtual guest, whose kernel is in user mode, dies of its first one.
    fn cpu_model(&self) -> Result<String> {
        let is_old = matches!(self.accel, Accel::Tcg) && version()? < (9, 1);
        Ok(if is_old { format!("{},-smap", self.cpu) } else { self.cpu.into() })
    }

    fn add_boot(&self, command: &mut Command) -> Result<()> {
        match self.boot {
            Boot::DiskBios => {}
            Boot::DiskUefi => {
                // the firmware's variables are private to this machine and forgotten with it
                let code = "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
                let variables =
                    "if=pflash,format=raw,unit=1,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
                command.args(["-drive", code, "-drive", variables]);
            }
            Boot::Pvh => {
                command.arg("-kernel").arg(&self.built.hypervisor).arg("-initrd").arg(&self.built.dom0);
                command.args(["-append", &self.content.hypervisor_args]);
            }
            Boot::Direct => {
                let module = |file: &Path, args: &str| -> Result<String> {
                    let line = format!("{} {args}", file.to_str().context("a file name that is not UTF-8")?);
                    Ok(line.trim_end().replace(',', ",,"))
                };
                let dom0 = module(&self.relative(&self.built.dom0), &self.content.dom0_args)?;
                let ramdisk = module(&self.relative(&self.built.ramdisk), "")?;
                command.arg("-kernel").arg(&self.built.hypervisor);
                command.args(["-append", &self.content.hypervisor_args]);
                command.args(["-initrd", &format!("{dom0},{ramdisk}")]);
            }
        }
        Ok(())
    }

    /// A module's file name ends at its first space: ours are named from QEMU's working folder.
    fn relative(&self, file: &Path) -> PathBuf {
        file.strip_prefix(paths::out()).unwrap_or(file).to_path_buf()
    }

    fn add_devices(&self, command: &mut Command) {
        if let Some(disk) = self.disk {
            let snapshot = if self.disk_is_scratch { ",snapshot=on" } else { "" };
            let file = comma_safe(disk);
            let drive = match self.disk_log {
                None => format!("file={file},format=raw,if=none,id=disk{snapshot}"),
                Some(log) => format!(
                    "driver=blklogwrites,log-sector-size=512,file.driver=file,file.filename={file},\
                     log.driver=file,log.filename={},if=none,id=disk{snapshot}",
                    comma_safe(log)
                ),
            };
            command.args(["-drive", &drive]);
            // with `-kernel` the first place in the boot order is QEMU's own
            let order = if matches!(self.boot, Boot::Direct | Boot::Pvh) { 1 } else { 0 };
            let device = format!("virtio-blk-pci,drive=disk,disable-legacy=on,bootindex={order}");
            command.args(["-device", &device]);
        }
        let mut net = String::from("user,id=net,net=10.0.2.0/24");
        for forward in &self.forwards {
            let Forward { host_port, address, port, .. } = forward;
            net += &format!(",hostfwd=tcp:127.0.0.1:{host_port}-{address}:{port}");
        }
        command.args(["-netdev", &net]);
        command.args(["-device", "virtio-net-pci,netdev=net,disable-legacy=on,romfile=,id=nic"]);
    }
}

impl Lines<'_> {
    fn add_to(&self, command: &mut Command) {
        let monitor = format!("unix:{},server=on,wait=off", comma_safe(self.monitor));
        command.args(["-qmp", &monitor]);
        match &self.serial {
            Serial::Terminal(log) => {
                let terminal = format!("stdio,id=console,mux=on,signal=off,logfile={}", comma_safe(log));
                command.args(["-chardev", &terminal, "-serial", "chardev:console"]);
                command.args(["-mon", "chardev=console,mode=readline"]);
            }
            Serial::File(log) => {
                command.args(["-serial", &format!("file:{}", comma_safe(log))]);
            }
            Serial::Pipe => {
                command.args(["-serial", "stdio"]);
            }
        }
        if self.gdb {
            command.args(["-gdb", &format!("tcp:127.0.0.1:{GDB_PORT}"), "-S"]);
        }
    }
}

/// QEMU's version.
fn version() -> Result<(u32, u32)> {
    static VERSION: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let ask = || {
        let text = cmd::output(cmd::program("qemu-system-x86_64").arg("--version")).ok()?;
        let mut numbers = text.strip_prefix("QEMU emulator version ")?.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    VERSION.get_or_init(ask).context("qemu-system-x86_64 does not tell its version")
}

/// QEMU's options are separated by commas: one in a file name is doubled.
fn comma_safe(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
