//! Every way in: from each loader to dom0's first word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::machine::{DOM0_SPEAKS, Machine, Options, PATIENCE};
use crate::qemu::Boot;
use crate::test::lab::Lab;
use crate::test::{kit, screen};

/// QEMU's `-kernel`: Multiboot 1. The screen, in the text mode that the firmware left, has what the serial line has.
pub fn multiboot1(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options::direct(kit::built()?))?;
    machine.wait_for("(Multiboot 1)")?;
    machine.wait_for(DOM0_SPEAKS)?;
    machine.wait_for("port of xenbr0")?;
    shows(&mut machine, screen::text, 80)
}

/// QEMU's `-kernel` with an ELF64 that only PVH describes.
pub fn pvh(lab: &mut Lab) -> Result<()> {
    let built = kit::pvh_only(kit::built()?)?;
    let mut machine = lab.boot(&Options { boot: Boot::Pvh, ..Options::direct(&built) })?;
    machine.wait_for("(PVH)")?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
}

/// The disk on a PC with a BIOS: GRUB, Multiboot 2.
pub fn disk_by_bios(lab: &mut Lab) -> Result<()> {
    disk(lab, Boot::DiskBios)
}

/// The disk on a PC with UEFI: GRUB, Multiboot 2.
pub fn disk_by_uefi(lab: &mut Lab) -> Result<()> {
    disk(lab, Boot::DiskUefi)
}

/// The screen, which GRUB has put into a mode of pixels, has what the serial line has.
fn disk(lab: &mut Lab, boot: Boot) -> Result<()> {
    let built = kit::built()?;
    let mut machine = lab.boot(&Options { boot, disk: Some(kit::image()?), ..Options::direct(built) })?;
    machine.wait_for("(Multiboot 2)")?;
    machine.wait_for(DOM0_SPEAKS)?;
    machine.wait_for("etc/xen/auto/web.cfg: domain")?;
    shows(&mut machine, screen::pixels, usize::MAX)
}

/// Whether a screen that is `read` comes to show the last lines that the machine said, but those that have more than
/// `width` characters.
fn shows(machine: &mut Machine, read: fn(&mut Machine) -> Result<Vec<String>>, width: usize) -> Result<()> {
    let said = machine.said();
    let said: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let begin = said.iter().rposition(|line| line.contains(DOM0_SPEAKS)).context("dom0 said nothing")?;
    let last = &said[begin.max(said.len().saturating_sub(15))..];
    // the shell's prompt has an escape sequence
    let is_plain = |line: &str| line.bytes().all(|b| (b' '..=b'~').contains(&b));
    let expected: Vec<_> = last.iter().filter(|line| line.len() < width && is_plain(line)).collect();
    let start = Instant::now();
    loop {
        let shown = read(machine)?;
        // the serial line is written first
        match expected.iter().find(|line| !shown.iter().any(|s| s == **line)) {
            None => return Ok(()),
            Some(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(200)),
            Some(line) => bail!("the screen does not show \"{line}\":\n{}", shown.join("\n")),
        }
    }
}

/// Four processors.
pub fn four_processors(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options { smp: 4, ..Options::direct(kit::built()?) })?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
}

/// The processor model that has all that QEMU can do, AMD-like.
pub fn processor_max(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options { cpu: "max", ..Options::direct(kit::built()?) })?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
}
