//! GRUB for BIOS and for UEFI, made by `grub-mkimage`, and its menu.
//!
//! For BIOS this does what `grub-bios-setup` does on a mounted disk, on plain bytes: the boot sector
//! learns where the core's first sector is, and that sector where the rest is. The offsets are those
//! of GRUB 2's `boot.S` and `diskboot.S` (its manual, "BIOS installation").

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cmd;

use super::SECTOR;

/// In the boot sector: the core's first sector (8 bytes).
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// In the boot sector: a jump that trusts the BIOS's drive number only for a floppy's; two `nop`s make
/// it right for a hard disk, where some BIOSes pass a wrong one.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// In the core's first sector: the first (last in memory) list entry of where the rest is.
const DISKBOOT_BLOCKLIST: usize = 512 - 12;
/// The real-mode segment at which the core's second sector is loaded.
const CORE_SEGMENT: u16 = 0x820;

const MODULES: &[&str] = &[
    "normal",
    "configfile",
    "part_gpt",
    "fat",
    "multiboot2",
    "serial",
    "terminal",
    "echo",
    "test",
    "ls",
    "cat",
    "boot",
    "reboot",
    "halt",
];

/// The boot sector and the core image to be put at sector `core_lba`.
pub fn for_bios(work: &Path, core_lba: u64) -> Result<([u8; 512], Vec<u8>)> {
    let file = work.join("core.img");
    // no disk named: the one that was booted from
    make("i386-pc", "(,gpt2)/grub", &["biosdisk"], &file)?;
    let mut core = cmd::read(&file)?;
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let sectors = u16::try_from(core.len() as u64 / SECTOR)?;
    let entry = &mut core[DISKBOOT_BLOCKLIST..512];
    entry[..8].copy_from_slice(&(core_lba + 1).to_le_bytes());
    entry[8..10].copy_from_slice(&(sectors - 1).to_le_bytes());
    entry[10..12].copy_from_slice(&CORE_SEGMENT.to_le_bytes());
    if core.len() as u64 > super::ALIGNMENT {
        bail!("GRUB's core is {} KiB: too large for its partition", core.len() >> 10);
    }

    let boot = cmd::read(Path::new("/usr/lib/grub/i386-pc/boot.img"))?;
    let Ok(mut boot) = <[u8; 512]>::try_from(boot) else {
        bail!("GRUB's boot.img is not one sector");
    };
    boot[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&core_lba.to_le_bytes());
    boot[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    Ok((boot, core))
}

/// GRUB as a UEFI program. Its prefix names no device: the one it was loaded from.
pub fn for_uefi(work: &Path) -> Result<PathBuf> {
    let file = work.join("bootx64.efi");
    make("x86_64-efi", "/grub", &["efi_gop"], &file)?;
    Ok(file)
}

fn make(format: &str, prefix: &str, drivers: &[&str], output: &Path) -> Result<()> {
    let mut command = cmd::program("grub-mkimage");
    command.args(["-O", format, "-p", prefix, "-d", &format!("/usr/lib/grub/{format}"), "-o"]).arg(output);
    cmd::run(command.args(MODULES).args(drivers))
}

/// The menu: one entry, started after a second in which Escape shows it. A machine without a serial port
/// boots too: its screen shows all, but nobody can type.
pub fn menu(hypervisor_args: &str, dom0_args: &str) -> String {
    format!(
        r#"if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
fi
set timeout_style=hidden
set timeout=1
menuentry "Oxen" {{
    echo "Oxen's console is the first serial port, 115200 8N1. The screen shows it as well."
    set gfxpayload=auto
    multiboot2 /oxen {hypervisor_args}
    module2 /dom0 {dom0_args}
    module2 /dom0.tar
}}
"#
    )
}
