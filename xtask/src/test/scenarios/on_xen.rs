//! Our guests on the Xen that Debian packages: the referee between our two halves.

use anyhow::Result;

use crate::machine::{DOM0_SPEAKS, Options};
use crate::test::lab::Lab;
use crate::{build, debian};

/// dom0 starts on Xen.
pub fn dom0_starts(lab: &mut Lab) -> Result<()> {
    let built = build::with(Some(&debian::xen()?), None, &[])?;
    let mut options = Options::direct(&built);
    options.content.hypervisor_args += " noreboot";
    let mut machine = lab.boot(&options)?;
    machine.wait_for("Xen version 4.")?;
    machine.wait_for(DOM0_SPEAKS).map(drop)
}
