//! The library OS's own checks, from inside a guest.

use anyhow::{Result, bail};

use super::shell::PROMPT;
use crate::build::Built;
use crate::debian;
use crate::machine::Options;
use crate::test::kit;
use crate::test::lab::Lab;

/// All checks pass as dom0 on Oxen, with little memory too, and as an ordinary guest.
pub fn on_oxen(lab: &mut Lab) -> Result<()> {
    as_dom0(lab, kit::built()?)?;
    as_guest(lab, kit::with_test_files()?)
}

/// The same on Debian's Xen.
pub fn on_xen(lab: &mut Lab) -> Result<()> {
    as_dom0(lab, &Built { hypervisor: debian::xen()?, ..kit::built()?.clone() })?;
    as_guest(lab, &Built { hypervisor: debian::xen()?, ..kit::with_test_files()?.clone() })
}

fn as_dom0(lab: &mut Lab, built: &Built) -> Result<()> {
    let guest = kit::with_dom0(built, "test-library-os")?;
    for memory in ["12M", "256M"] {
        checks_pass(lab, &guest, memory)?;
    }
    Ok(())
}

fn as_guest(lab: &mut Lab, built: &Built) -> Result<()> {
    let mut machine = lab.boot(&Options::direct(built))?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create -c /etc/xen/test/library-os.cfg")?;
    let verdict = machine.wait_for("library-os: ")?;
    if !verdict.contains(" 0 failed") {
        bail!("as a guest: {verdict}");
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
