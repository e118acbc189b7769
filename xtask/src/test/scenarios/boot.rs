//! Every way in: from each loader to dom0's first word.

use anyhow::Result;

use crate::machine::{DOM0_SPEAKS, Options};
use crate::qemu::Boot;
use crate::test::kit;
use crate::test::lab::Lab;

/// QEMU's `-kernel`: Multiboot 1.
pub fn multiboot1(lab: &mut Lab) -> Result<()> {
    let mut machine = lab.boot(&Options::direct(kit::built()?))?;
    machine.wait_for("(Multiboot 1)")?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
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

fn disk(lab: &mut Lab, boot: Boot) -> Result<()> {
    let built = kit::built()?;
    let mut machine = lab.boot(&Options { boot, disk: Some(kit::image()?), ..Options::direct(built) })?;
    machine.wait_for("(Multiboot 2)")?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
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
