//! Debian as dom0: its Linux, xenstored, xenconsoled and `xl`, its drivers' backends, on Oxen as on Debian's Xen.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::services::{curl, forwards};
use crate::build::Built;
use crate::machine::{Machine, Options};
use crate::test::initramfs::{Archive, Node};
use crate::test::lab::Lab;
use crate::test::{debian, initramfs, kit, peer};
use crate::{cmd, paths};

/// What dom0's first process does then. Each command's words and its exit code are on the console.
const SESSION: &str = r#"try() { echo "+ $*"; "$@"; echo "= $?"; }
finish() {
    echo "complaints begin"
    dmesg -r | grep '^<[0-4]>'
    echo "complaints end"
    reboot -f
}
ip link set eth1 up
ip addr add 10.0.3.10/24 dev eth1
echo "net $(basename $(readlink /sys/class/net/eth1/device/driver)), disk $(basename $(readlink /sys/block/sda/device/driver))"
try cmp -n 8388608 /dev/sda /dev/vda
try ping -c 3 -W 20 10.0.3.2
try xl info
try xl list
if grep -q brief /proc/cmdline; then finish; fi
try xl vcpu-list
try xl uptime
try xl sched-credit2
try xl cpupool-list
try xl info -n
try xl create /etc/xen/web.cfg
until timeout 20 wget -q -O /tmp/page http://10.0.2.20/; do sleep 1; done
cat /tmp/page
try xl block-list web
try xl network-list web
echo "web is up"
read go
try xl pause web
try xl list web
try xl unpause web
try xl mem-set web 24
until xl list web | grep -q " 24 "; do sleep 1; done
try xl list web
try xl sched-credit2 -d web -w 512 -c 50
try xl sched-credit2 -d web
try xl vcpu-pin web 0 1
try xl vcpu-list web
try timeout 20 wget -q -O - http://10.0.2.20/
try xl destroy web
try xl create /etc/xen/debian.cfg
xl console debian
try xl vcpu-list debian
try xl mem-set debian 200
until xl list debian | grep -q " 200 "; do sleep 1; done
try xl destroy debian
try xl list
try xl debug-keys h
try xl dmesg
finish"#;

/// The Debian guest's first process.
const GUEST: &str = r#"export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo "guest of $(cat /sys/hypervisor/type) with $(grep -c ^processor /proc/cpuinfo) vcpus"
while read line; do echo "heard $line"; done"#;

const WEB: &str = r#"name = "web"
type = "pv"
kernel = "/boot/web"
memory = 32
vif = [ 'mac=00:16:3e:00:00:14,bridge=xenbr0' ]
disk = [ 'phy:/dev/vda3,xvda,r' ]
extra = "ip=10.0.2.20/24 gw=10.0.2.2 port=80"
"#;

const DEBIAN: &str = r#"name = "debian"
type = "pv"
kernel = "/boot/vmlinuz"
ramdisk = "/boot/guest.cpio"
memory = 256
vcpus = 2
extra = "console=hvc0 quiet"
"#;

/// What the console must show, in this order.
const FIRST: &[&str] = &[
    "capabilities: control_d",
    "net e1000, disk sd",
    "+ cmp",
    "= 0",
    "3 packets transmitted, 3 packets received",
    "= 0",
    "+ xl info",
    "nr_cpus                : 2",
    "virt_caps              : pv",
    "total_memory           : 1023",
    "xen_version            : 4.17.",
    "xen_caps               : xen-3.0-x86_64",
    "= 0",
    "+ xl list",
    "Domain-0                                     0   512     2     r-----",
    "= 0",
];
const UNTIL_FETCH: &[&str] = &[
    "+ xl vcpu-list",
    "0 / all",
    "1 / all",
    "= 0",
    "+ xl uptime",
    "Domain-0                             0  0:0",
    "= 0",
    "+ xl sched-credit2",
    "Domain-0                             0    256    0",
    "= 0",
    "+ xl cpupool-list",
    "Pool-0               2   credit2       y          1",
    "= 0",
    "+ xl info -n",
    "  1:       1        0        0",
    "  0:      1023",
    "= 0",
    "+ xl create /etc/xen/web.cfg",
    "= 0",
    "<h1>Oxen</h1>",
    "+ xl block-list",
    "51712 0   1      4",
    "+ xl network-list",
    "00:16:3e:00:00:14     0     4",
    "web is up",
];
const UNTIL_CONSOLE: &[&str] = &[
    "+ xl pause web",
    "= 0",
    "p---",
    "+ xl unpause web",
    "= 0",
    "+ xl mem-set web",
    "= 0",
    "    24     1     ",
    "= 0",
    "+ xl sched-credit2 -d web -w",
    "= 0",
    "web                                  1    512   50",
    "= 0",
    "+ xl vcpu-pin",
    "= 0",
    "+ xl vcpu-list web",
    "  1 / all",
    "+ timeout",
    "<h1>Oxen</h1>",
    "= 0",
    "+ xl destroy web",
    "= 0",
    "+ xl create /etc/xen/debian.cfg",
    "= 0",
    "guest of xen with 2 vcpus",
];
const UNTIL_END: &[&str] = &[
    "+ xl vcpu-list debian",
    "debian                               2     0",
    "debian                               2     1",
    "= 0",
    "+ xl mem-set debian",
    "= 0",
    "+ xl destroy debian",
    "= 0",
    "+ xl list",
    "Domain-0                                     0   512     2",
    "= 0",
    "+ xl debug-keys",
    "'h' pressed -> show",
    "= 0",
    "+ xl dmesg",
    "'h' pressed -> show",
    "= 0",
];

/// Complaints about time that passed while the host had no time for the machine.
const OF_TIME: [&str; 4] = ["clocksource:", "hrtimer:", "tsc: Marking TSC unstable", "workqueue:"];

/// The session on Oxen, and its beginning on Xen. The kernel complains of nothing on Oxen that it does not complain of on
/// Xen, and its reboot is the machine's.
pub fn session_as_on_xen(lab: &mut Lab) -> Result<()> {
    let built = built()?;
    let mut machine = start(lab, &built, "")?;
    follow(&mut machine, UNTIL_FETCH)?;
    ensure!(curl(&machine, "web", "/")?.contains("<h1>Oxen</h1>"), "web serves another page");
    machine.type_line("go on")?;
    follow(&mut machine, UNTIL_CONSOLE)?;
    machine.type_line("a word from dom0")?;
    machine.wait_for("heard a word from dom0")?;
    machine.press(b'\x1d')?; // Ctrl-]
    follow(&mut machine, UNTIL_END)?;
    let ours = complaints(machine)?;
    let on_xen = Built { hypervisor: peer::xen()?, ..built };
    let xens = complaints(start(lab, &on_xen, "brief")?)?;
    let new: Vec<&String> = ours.difference(&xens).collect();
    ensure!(new.is_empty(), "dom0's Linux complains on Oxen, and not on Xen: {new:#?}");
    Ok(())
}

/// Starts the session, to its first commands. `word` is for dom0's command line.
fn start(lab: &mut Lab, built: &Built, word: &str) -> Result<Machine> {
    let mut options = Options::direct(built);
    options.smp = 2;
    options.cpu = "Skylake-Client,-smap";
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["web"])?;
    options.content.hypervisor_args = "console=com1 com1=115200 dom0_mem=512M dom0_vcpus_pin".into();
    options.content.dom0_args = format!("console=hvc0 quiet panic=-1 {word}");
    let disk = kit::image()?.display().to_string().replace(',', ",,");
    let drive = format!("file={disk},format=raw,if=none,id=sata,snapshot=on");
    let network = "user,id=other,net=10.0.3.0/24";
    let more = ["-drive", &drive, "-device", "ide-hd,drive=sata"];
    let more = more.into_iter().chain(["-netdev", network, "-device", "e1000,netdev=other,romfile="]);
    options.more = more.map(String::from).collect();
    let mut machine = lab.boot(&options)?;
    follow(&mut machine, FIRST)?;
    Ok(machine)
}

/// What dom0's kernel complained of, its numbers taken out, when the machine has ended.
fn complaints(mut machine: Machine) -> Result<BTreeSet<String>> {
    machine.wait_for("complaints end")?;
    machine.wait_for_end()?;
    let said = machine.said();
    let said = said.split("complaints begin\n").nth(1).unwrap_or_default();
    let lines = said.split("complaints end").next().unwrap_or_default().lines();
    let lines = lines.filter_map(|line| Some(line.split_once("] ")?.1));
    let lines = lines.filter(|line| !OF_TIME.iter().any(|of_time| line.starts_with(of_time)));
    Ok(lines.map(|line| line.replace(|c: char| c.is_ascii_hexdigit(), "")).collect())
}

/// Waits for lines with each of these texts, in their order.
fn follow(machine: &mut Machine, texts: &[&str]) -> Result<()> {
    texts.iter().try_for_each(|text| machine.wait_for(text).map(drop))
}

/// Debian's kernel, toolstack and modules, and the two guests.
fn built() -> Result<Built> {
    let kernel = cmd::read(&peer::Linux::Generic.bzimage()?)?;
    // A module's name must not have a space in it: the cache folder's may.
    let dom0 = paths::out().join("vmlinuz");
    cmd::write(&dom0, &kernel)?;
    let guest = cmd::read(&initramfs::write("guest", GUEST)?)?;
    let mut files = Archive::default();
    files.add("boot", Node::Directory);
    files.add("boot/web", Node::File(&cmd::read(&paths::out().join("web"))?));
    files.add("boot/vmlinuz", Node::File(&kernel));
    files.add("boot/guest.cpio", Node::File(&guest));
    files.add("etc", Node::Directory);
    files.add("etc/xen", Node::Directory);
    files.add("etc/xen/web.cfg", Node::File(WEB.as_bytes()));
    files.add("etc/xen/debian.cfg", Node::File(DEBIAN.as_bytes()));
    let mut ramdisk = cmd::read(&debian::userland()?)?;
    ramdisk.extend(cmd::read(&debian::modules()?)?);
    ramdisk.extend(files.end());
    ramdisk.extend(cmd::read(&initramfs::write("xl", &format!("{}{SESSION}", debian::START))?)?);
    let file = paths::out().join("debian.cpio");
    cmd::write(&file, &ramdisk)?;
    Ok(Built { dom0, ramdisk: file, ..kit::built()?.clone() })
}
