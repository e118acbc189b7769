//! The distribution's Linux on Oxen.

use anyhow::{Result, ensure};

use crate::build::Built;
use crate::machine::{Machine, Options};
use crate::paths;
use crate::test::lab::Lab;
use crate::test::{initramfs, kit, peer};

/// What Linux's first process does: it says who and where it is, makes a few hundred more, and powers off.
const SCRIPT: &str = "\
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo \"userspace of $(uname -sr) on $(cat /sys/hypervisor/type) $(cat /sys/hypervisor/version/major)\"
n=0
while [ $n -lt 200 ]; do n=$(expr $n + 1); done
echo \"$n processes came and went, $(grep -c processor /proc/cpuinfo) cpu\"
cat /proc/xen/capabilities 2>/dev/null
sleep 1
poweroff -f";

/// The distribution's kernel as dom0: it gets to userspace, and switches the machine off by ACPI.
pub fn dom0(lab: &mut Lab) -> Result<()> {
    for cpu in ["Skylake-Client", "max"] {
        let mut machine = start(lab, cpu)?;
        machine.wait_for("userspace of Linux")?;
        let line = machine.wait_for("processes came and went")?;
        ensure!(line.contains("200 processes"), "{line}");
        machine.wait_for_end()?;
        let said = machine.said();
        ensure!(!said.contains("Call Trace") && !said.contains("BUG:"), "Linux complains on {cpu}");
    }
    Ok(())
}

fn start(lab: &mut Lab, cpu: &'static str) -> Result<Machine> {
    // A module's name must not have a space in it: the cache folder's may.
    let kernel = paths::out().join("vmlinux");
    std::fs::copy(peer::linux()?, &kernel)?;
    let built = Built { dom0: kernel, ramdisk: initramfs::write("linux", SCRIPT)?, ..kit::built()?.clone() };
    let mut options = Options::direct(&built);
    options.cpu = cpu;
    options.content.hypervisor_args = "console=com1 com1=115200 dom0_mem=512M".into();
    options.content.dom0_args = "console=hvc0 panic=-1".into();
    lab.boot(&options)
}
