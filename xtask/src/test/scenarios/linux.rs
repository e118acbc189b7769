//! The distribution's Linux on Oxen.

use anyhow::{Result, ensure};

use super::services::{curl, fetch, forwards};
use crate::build::Built;
use crate::build::ramdisk::{self, Entry};
use crate::debian::linux::Linux;
use crate::image::initramfs;
use crate::machine::{Machine, Options};
use crate::qemu::Boot;
use crate::test::kit;
use crate::test::lab::Lab;
use crate::{cmd, image, paths};

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
echo \"firmware: $(ls /sys/firmware | sort | xargs), $(ls /sys/firmware/acpi/tables | grep -c APIC) MADT\"
sleep 1
poweroff -f";

/// The processor models. Up to QEMU 8 an `iret` in user mode, which a PV kernel's is, reads the stack as a supervisor
/// would: with SMAP that faults, on Xen as well.
const CPUS: [&str; 2] = ["Skylake-Client,-smap", "max,-smap"];

/// The distribution's bzImage as dom0: it gets to userspace, and switches the machine off by ACPI.
pub fn dom0(lab: &mut Lab) -> Result<()> {
    let built = built(&std::fs::read(Linux::Generic.bzimage()?)?)?;
    for (cpu, smp, size, vcpus) in
        [(CPUS[0], 4, "dom0_mem=256M,min:512M,max:75% dom0_max_vcpus=3", 3), (CPUS[1], 1, SIZE, 1)]
    {
        let mut options = Options { cpu, smp, ..options(&built) };
        options.content.hypervisor_args = options.content.hypervisor_args.replace(SIZE, size);
        to_power_off(&mut lab.boot(&options)?, vcpus)?;
    }
    Ok(())
}

/// The same by GRUB, from a disk: by BIOS and by UEFI.
pub fn dom0_by_grub(lab: &mut Lab) -> Result<()> {
    let built = built(&std::fs::read(Linux::Generic.bzimage()?)?)?;
    let image = paths::out().join("linux.img");
    let mut options = Options { disk: Some(&image), smp: 2, ..options(&built) };
    options.content.dom0 = Some(built.dom0.clone());
    image::write(&image, &built, &options.content, false)?;
    for boot in [Boot::DiskBios, Boot::DiskUefi] {
        let mut machine = lab.boot(&Options { boot, ..options.clone() })?;
        machine.wait_for("(Multiboot 2)")?;
        let said = to_power_off(&mut machine, 2)?;
        let (firmware, screen) = match boot {
            Boot::DiskUefi => ("acpi dmi efi memmap, 1 MADT", "EFI VGA frame buffer device"),
            _ => ("acpi dmi memmap, 1 MADT", "VESA VGA frame buffer device"),
        };
        ensure!(said.contains(&format!("firmware: {firmware}")), "dom0 finds other firmware than {firmware}");
        ensure!(said.contains(screen), "dom0 does not find the screen, an {screen}");
    }
    Ok(())
}

/// A bzImage whose packed kernel is damaged, or that is cut short: one line says what it is.
pub fn dom0_is_damaged(lab: &mut Lab) -> Result<()> {
    let good = std::fs::read(Linux::Generic.bzimage()?)?;
    let mut bent = good.clone();
    let middle = bent.len() / 2;
    bent[middle..middle + 64].fill(0x5a);
    for (file, why) in [
        (&bent[..], "its kernel: broken xz payload"),
        (&good[..middle], "its kernel: truncated bzImage: its payload lies outside the file"),
        (&good[..100], "its kernel: not a kernel: neither ELF nor bzImage"),
    ] {
        let built = built(file)?;
        let mut machine = lab.boot(&options(&built))?;
        machine.wait_for(&format!("(oxen) dom0 can't be built: {why}"))?;
    }
    Ok(())
}

/// While dom0 unpacks a guest's bzImage, which takes long, another guest serves: that dom0's backends do, too. One
/// that is damaged ends as an error in the shell, and the guest beside it serves on.
pub fn guest_is_unpacked_beside_a_server(lab: &mut Lab) -> Result<()> {
    /// So many answers come at least while one kernel is unpacked; it takes some thousand times as long as one.
    const ANSWERS: usize = 3;
    let good = std::fs::read(Linux::Generic.bzimage()?)?;
    let mut bent = good.clone();
    let end = bent.len() - bent.len() / 8;
    bent[end..end + 64].fill(0x5a);
    let mut files = ramdisk::entries(&kit::built()?.guests)?;
    for (name, kernel) in [("linux", good), ("bent", bent)] {
        let config = format!("name = \"{name}\"\nkernel = \"/boot/{name}\"\nmemory = 256\n");
        files.push(Entry { path: format!("etc/xen/{name}.cfg"), data: config.into() });
        files.push(Entry { path: format!("boot/{name}"), data: kernel });
    }
    let ramdisk = paths::out().join("unpack.tar");
    cmd::write(&ramdisk, &ramdisk::archive(&files)?)?;
    let built = Built { ramdisk, ..kit::built()?.clone() };
    let mut options = Options::direct(&built);
    options.cpu = CPUS[0];
    options.content.hypervisor_args =
        options.content.hypervisor_args.replace("dom0_mem=128M", "dom0_mem=256M");
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["web"])?;
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt("oxen# ")?;
    fetch(&machine, "web", "/")?;
    for (name, outcome) in [("bent", "broken xz payload"), ("linux", "unpacked")] {
        machine.type_line(&format!("xl create /etc/xen/{name}.cfg"))?;
        let begun = format!("/boot/{name}: unpacking");
        machine.wait_for(&begun)?;
        let mut answers = 0;
        while answers < ANSWERS {
            curl(&machine, "web", "/")?;
            let said = machine.said();
            let since = said.rfind(&begun).map_or("", |at| &said[at..]);
            ensure!(!since.contains(outcome), "only {answers} answers while {name} was unpacked");
            answers += 1;
        }
        machine.wait_for(&format!("/boot/{name}: {outcome}"))?;
    }
    machine.type_line("xl destroy linux --json")?;
    machine.wait_for("{\"ok\":true}")?;
    fetch(&machine, "web", "/").map(drop)
}

/// What a boot of `kernel` and [`SCRIPT`] takes.
fn built(kernel: &[u8]) -> Result<Built> {
    // A module's name must not have a space in it: the cache folder's may.
    let dom0 = paths::out().join("vmlinuz");
    cmd::write(&dom0, kernel)?;
    Ok(Built { dom0, ramdisk: initramfs::write("linux", SCRIPT)?, ..kit::built()?.clone() })
}

/// How much dom0 gets: 512 MiB.
const SIZE: &str = "dom0_mem=512M,max:512M dom0_max_vcpus=1-4";

/// A machine with the lines that Debian's GRUB gives Xen, and an administrator's.
fn options(built: &Built) -> Options<'_> {
    let mut options = Options::direct(built);
    options.cpu = CPUS[0];
    options.content.hypervisor_args = format!("placeholder console=com1 com1=115200,8n1 {SIZE} edd=off");
    options.content.dom0_args = "placeholder console=hvc0 panic=-1".into();
    options
}

/// Follows it to its end, and gives all that the machine said.
fn to_power_off(machine: &mut Machine, vcpus: u32) -> Result<String> {
    machine.wait_for("parameter \"placeholder\" unknown!")?;
    machine.wait_for("userspace of Linux")?;
    let line = machine.wait_for("processes came and went")?;
    ensure!(line.contains(&format!("200 processes came and went, {vcpus} cpu")), "{line}");
    machine.wait_for_end()?;
    let said = machine.said();
    ensure!(said.contains("dom0: 512 MiB, "), "dom0 has not 512 MiB");
    ensure!(said.contains("Using FIFO-based ABI"), "Linux uses no FIFO event channels");
    ensure!(!said.contains("Call Trace") && !said.contains("BUG:"), "Linux complains");
    Ok(said)
}
