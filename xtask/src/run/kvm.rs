//! Whether KVM works here.
//!
//! A `/dev/kvm` that opens and even creates a virtual machine may still not run a kernel (nested, or
//! filtered by a sandbox). So the very kernels that are about to run are booted under it, without a
//! disk, until dom0 says its first word. Nothing is remembered: a host changes.

use std::fs::OpenOptions;
use std::time::Duration;

use crate::build::Built;
use crate::image::Content;
use crate::machine::{DOM0_SPEAKS, Machine, Options};
use crate::paths;
use crate::qemu::Accel;
use crate::steps::Step;

/// Where KVM works, dom0 speaks within a second.
const LIMIT: Duration = Duration::from_secs(5);

/// KVM where it is seen to boot `built`, else TCG.
pub fn probe(built: &Built, content: &Content) -> Accel {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Accel::Tcg;
    }
    let step = Step::new("trying KVM");
    let options =
        Options { content: content.clone(), accel: Accel::Kvm, cpu: "max", ..Options::direct(built) };
    let spoke = paths::logs()
        .and_then(|logs| Machine::start(&options, &logs.join("kvm-probe.log")))
        .and_then(|mut machine| machine.wait_at_most(LIMIT, DOM0_SPEAKS));
    let (accel, result) = match spoke {
        Ok(_) => (Accel::Kvm, "it works"),
        Err(_) => (Accel::Tcg, "it does not boot the hypervisor here; QEMU translates instead"),
    };
    step.done(result);
    accel
}
