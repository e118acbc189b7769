//! The library OS's own checks, from inside a guest.

use anyhow::{Result, bail};

use crate::build::Built;
use crate::machine::Options;
use crate::test::lab::Lab;
use crate::test::{kit, peer};

/// All checks pass on Debian's Xen, with little memory too.
pub fn on_xen(lab: &mut Lab) -> Result<()> {
    let guest = Built { hypervisor: peer::xen()?, ..kit::with_dom0(kit::built()?, "test-library-os")? };
    for memory in ["12M", "256M"] {
        checks_pass(lab, &guest, memory)?;
    }
    Ok(())
}

fn checks_pass(lab: &mut Lab, guest: &Built, memory: &str) -> Result<()> {
    let mut options = Options::direct(guest);
    options.content.hypervisor_args = format!("console=com1 com1=115200 dom0_mem={memory}");
    let mut machine = lab.boot(&options)?;
    let verdict = machine.wait_for("library-os: ")?;
    if !verdict.contains(" 0 failed") {
        bail!("with {memory}: {verdict}");
    }
    Ok(())
}
