//! Our guests on the Xen that Debian packages: the referee between our two halves.

use anyhow::{Result, bail};

use crate::build;
use crate::machine::{DOM0_SPEAKS, Options};
use crate::test::lab::Lab;
use crate::test::peer;

/// dom0 starts on Xen and sees its command line.
pub fn dom0_starts(lab: &mut Lab) -> Result<()> {
    let built = build::with(Some(&peer::xen()?), None)?;
    let mut options = Options::direct(&built);
    options.content.hypervisor_args += " noreboot";
    options.content.dom0_args = "ip=10.0.2.10/24 word=42".into();
    let mut machine = lab.boot(&options)?;
    machine.wait_for("Xen version 4.")?;
    let line = machine.wait_for(DOM0_SPEAKS)?;
    if !line.contains("word=42") {
        bail!("dom0 did not see its command line: {line}");
    }
    Ok(())
}
