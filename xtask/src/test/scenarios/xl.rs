//! Debian as dom0: its Linux, xenstored, xenconsoled and `xl`, its drivers' backends, on Oxen as on Debian's Xen.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::services::{curl, forwards};
use crate::build::Built;
use crate::debian::linux::Linux;
use crate::debian::toolstack;
use crate::image::initramfs::{self, Archive, Node};
use crate::machine::{Machine, Options};
use crate::test::kit;
use crate::test::lab::Lab;
use crate::{cmd, debian, image, paths};

/// What dom0's first process does then. Each command's words and its exit code are on the console.
const SESSION: &str = r#"try() { echo "+ $*"; "$@"; echo "= $?"; }
finish() {
    echo "complaints begin"
    dmesg -r | grep '^<[0-4]>'
    echo "complaints end"
    reboot -f
}
mount -t tmpfs -o size=60% tmpfs /tmp
ip link set eth1 up
ip addr add 10.0.3.10/24 dev eth1
echo "net $(basename $(readlink /sys/class/net/eth1/device/driver)), disk $(basename $(readlink /sys/block/sda/device/driver))"
try cmp -n 8388608 /dev/sda /dev/vda
try ping -c 3 -W 20 10.0.3.2
try xl info
try xl list
echo "questions begin"
while read line; do try $line 2>&1 < /dev/null; done < /etc/questions
echo "questions end"
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
xl info | grep free_memory >/tmp/free
try xl create /etc/xen/debian.cfg
xl console debian
try xl vcpu-list debian
try xl mem-set debian 110
until xl list debian | grep -q " 110 "; do sleep 1; done
try xl rename debian ubuntu
try xl domid ubuntu
try xl rename ubuntu debian
try xl trigger debian nmi
try xl pause debian
# dumped beside the creation of others: a tool maps its pages one by one
try xl dump-core debian /tmp/core >/tmp/dumped 2>&1 &
dump=$!
for n in 1 2 3; do dd if=/dev/zero of=/tmp/disk$n bs=1M count=4; done 2>/dev/null
losetup /dev/loop5 /tmp/disk1
ip addr add 10.9.0.9/24 dev xenbr0
for n in 1 2 3; do
    disk=$(echo phy:/dev/loop5 file:/tmp/disk2 /tmp/disk3,raw | cut -d' ' -f$n)
    try xl create -pq /etc/xen/peer.cfg "name=\"peer$n\"" "extra=\"console=hvc0 quiet peer=$n\"" \
        "vif=['mac=00:16:3e:00:00:3$n,bridge=xenbr0']" "disk=['$disk,xvda,w']"
done
wait $dump
cat /tmp/dumped
for n in 1 2 3; do try xl unpause peer$n; done
try xl unpause debian
try readnotes /tmp/core
rm /tmp/core
xl save debian /tmp/save >/tmp/saved 2>&1 && echo "it was saved"
grep -o "xsave context (38 = Function not implemented)" /tmp/saved | head -n 1
rm /tmp/save
try xl list debian
xl console debian
try xl destroy debian

for n in 1 2 3; do
    until dd if=/tmp/disk$n bs=4k skip=513 2>/dev/null | grep -q done; do sleep 1; done
    dd if=/tmp/disk$n of=/tmp/page bs=4k count=512 2>/dev/null
    dd if=/tmp/disk$n bs=4k skip=512 count=1 2>/dev/null | head -n 1 >/tmp/sum
    md5sum </tmp/page | cmp - /tmp/sum && echo "disk $n is as written"
done
try xentop -b -i 1
try xl sysrq peer3 c
try xl destroy peer2 >/tmp/destroyed 2>&1 &
destroy=$!
try xl shutdown -w peer1
wait $destroy
cat /tmp/destroyed
until [ $(xl list | wc -l) = 2 ]; do sleep 1; done
try xl list
until xl info | grep free_memory | cmp -s - /tmp/free; do sleep 1; done
echo "all memory is back"
try xl debug-keys 0degmqth
try xl dmesg
finish"#;

/// Commands that ask, and some that can't be done: the answers are Xen's, but for their numbers.
const QUESTIONS: &str = "\
xl info -n
xl list -v
xl list -Z
xl claims
xl cpupool-list -c
xl cpupool-create name=\"second\" cpus=[\"1\"]
xl sched-credit2
xl sched-credit2 -s -r 10
xl sched-credit2 -s -r 0
xl sched-credit2 -d 0 -w 300
xl sched-credit2 -d 0 -c 1000
xl sched-credit -d 0
xl vcpu-pin 0 0 9
xl vcpu-pin 0 7 0
xl trigger 0 nmi 7
xl trigger 0 power
xl trigger 0 sleep
xl trigger 0 reset
xl domid Domain-0
xl domname 7
xl network-list 0
xl block-list 0
xl pci-assignable-list
xl getenforce
xl loadpolicy /etc/modules
xl psr-hwinfo
xl psr-cat-show
xentop -b -i 2 -d 0.5
xenpm get-cpu-topology
xenpm get-cpufreq-para
xenpm enable-turbo-mode
xen-hptool smt-disable
xen-diag gnttab_query_size 0
xenlockprof
xenperf
xencov read
";

/// The Debian guest's first process.
const GUEST: &str = r#"export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo "guest of $(cat /sys/hypervisor/type) with $(grep -c ^processor /proc/cpuinfo) vcpus"
while read line; do echo "heard $line"; done"#;

/// What each of several guests beside each other does: it writes to its disk what it also serves to the others, and gets
/// theirs. `dom0` sees on the disk that it is done.
const PEER: &str = r#"export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
peer=$(sed -n 's/.*peer=\([0-9]\).*/\1/p' /proc/cmdline)
echo 1 >/proc/sys/kernel/sysrq
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
until [ -b /dev/xvda ] && [ -e /sys/class/net/eth0 ]; do sleep 1; done
ip link set lo up
ip link set eth0 up
ip addr add 10.9.0.$peer/24 dev eth0
dd if=/dev/urandom of=/page bs=4k count=512 2>/dev/null
md5sum < /page > /sum
cat /page /sum > /whole
dd if=/page of=/dev/xvda bs=4k conv=fsync 2>/dev/null
dd if=/sum of=/dev/xvda bs=4k seek=512 conv=sync,fsync 2>/dev/null
dd if=/dev/xvda iflag=direct bs=64k count=32 2>/dev/null | md5sum | cmp - /sum || exec sleep 1000
nc -ll -p 9 -e cat /whole &
for other in 1 2 3; do
    until nc 10.9.0.$other 9 </dev/null >/got 2>/dev/null &&
        [ "$(head -c 2097152 /got | md5sum)" = "$(tail -c +2097153 /got)" ]; do sleep 1; done
done
dmesg | grep -qE 'WARNING: CPU|BUG:|Call Trace|Oops' ||
    echo done | dd of=/dev/xvda bs=4k seek=513 conv=sync,fsync 2>/dev/null
while read line; do :; done"#;

/// What the kernel runs when the guest is to power off.
const POWER_OFF: &str = "#!/bin/busybox sh\n/bin/busybox poweroff -f\n";

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

/// One of several: its kernel is packed with LZ4, which takes a tenth of the time that xz takes.
const PEER_CONFIG: &str = r#"type = "pv"
kernel = "/boot/vmlinuz-cloud"
ramdisk = "/boot/peer.cpio"
memory = 112
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
    "questions end",
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
    "Domain-0                             0    300    0",
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
    "+ xl domid ubuntu",
    "2",
    "= 0",
    "+ xl rename ubuntu debian",
    "= 0",
    "+ xl trigger debian nmi",
    "= 0",
    "+ xl create -pq /etc/xen/peer.cfg name=\"peer1\"",
    "= 0",
    "+ xl create -pq /etc/xen/peer.cfg name=\"peer2\"",
    "= 0",
    "+ xl create -pq /etc/xen/peer.cfg name=\"peer3\"",
    "= 0",
    "+ xl dump-core debian",
    "= 0",
    "+ xl unpause peer1",
    "= 0",
    "+ xl unpause peer2",
    "= 0",
    "+ xl unpause peer3",
    "= 0",
    "+ xl unpause debian",
    "= 0",
    "+ readnotes",
    "using notes from SHT_NOTE section",
    "= 0",
    // save is not there yet: it is refused at its end, and the guest goes on
    "xsave context (38 = Function not implemented)",
    "+ xl list debian",
    "debian                                       2   110     2     ",
    "= 0",
];
const AND_AT_THE_END: &[&str] = &[
    "+ xl destroy debian",
    "= 0",
    "disk 1 is as written",
    "disk 2 is as written",
    "disk 3 is as written",
    "+ xentop",
    "peer1",
    "peer2",
    "peer3",
    "= 0",
    "+ xl sysrq peer3 c",
    "= 0",
    "+ xl shutdown -w peer1",
    "= 0",
    "+ xl destroy peer2",
    "= 0",
    "+ xl list",
    "Domain-0                                     0   512     2",
    "= 0",
    "all memory is back",
    "+ xl debug-keys",
    "'0' pressed -> dump Dom0 registers",
    "'e' pressed -> dump evtchn info",
    "d0: version 1, ",
    "'h' pressed -> show",
    "= 0",
    "+ xl dmesg",
    "'h' pressed -> show",
    "= 0",
];

/// Complaints about time that passed while the host had no time for the machine; netback's is of a packet for a guest
/// whose interface closes at that moment.
const OF_TIME: [&str; 6] = [
    "clocksource:",
    "hrtimer:",
    "tsc: Marking TSC unstable",
    "workqueue:",
    "xen-blkback: Scheduled work from previous purge",
    "xen_netback:xenvif_start_xmit: Invalid queue",
];

/// The session on Oxen, and its beginning on Xen beside it. The kernel complains of nothing on Oxen that it does not
/// complain of on Xen, and its reboot is the machine's.
pub fn session_as_on_xen(lab: &mut Lab) -> Result<()> {
    let built = built()?;
    let on_xen = Built { hypervisor: debian::xen()?, ..built.clone() };
    let ((answers_here, ours), (answers_there, xens)) =
        lab.beside(|lab| session(lab, &built), |lab| beginning(lab, &on_xen))?;
    for (ours, xens) in answers_here.iter().zip(&answers_there) {
        ensure!(ours == xens, "Oxen answers {ours:?}, Xen {xens:?}");
    }
    ensure!(answers_here.len() == answers_there.len(), "Oxen gives {} lines of answers", answers_here.len());
    let new: Vec<&String> = ours.difference(&xens).collect();
    ensure!(new.is_empty(), "dom0's Linux complains on Oxen, and not on Xen: {new:#?}");
    Ok(())
}

/// The whole session on Oxen: the answers to [`QUESTIONS`], and what dom0's kernel complains of.
fn session(lab: &Lab, built: &Built) -> Result<(Vec<String>, BTreeSet<String>)> {
    let mut machine = start(lab, built, "")?;
    let answers = answers(&machine);
    follow(&mut machine, UNTIL_FETCH)?;
    ensure!(curl(&machine, "web", "/")?.contains("<h1>Oxen</h1>"), "web serves another page");
    machine.type_line("go on")?;
    follow(&mut machine, UNTIL_CONSOLE)?;
    machine.type_line("a word from dom0")?;
    machine.wait_for("heard a word from dom0")?;
    machine.press(b'\x1d')?; // Ctrl-]
    follow(&mut machine, UNTIL_END)?;
    machine.type_line("another word")?;
    machine.wait_for("heard another word")?;
    machine.press(b'\x1d')?;
    follow(&mut machine, AND_AT_THE_END)?;
    let said = machine.said();
    ensure!(!said.contains("broken ELF"), "the dump of the guest's memory is no whole file");
    ensure!(!said.contains("it was saved"), "the guest was saved, and nobody could restore it");
    Ok((answers, complaints(machine)?))
}

/// Its beginning, of which the same is known, on Xen.
fn beginning(lab: &Lab, on_xen: &Built) -> Result<(Vec<String>, BTreeSet<String>)> {
    let machine = start(lab, on_xen, "brief")?;
    Ok((answers(&machine), complaints(machine)?))
}

/// Starts the session, to its first commands. `word` is for dom0's command line.
fn start(lab: &Lab, built: &Built, word: &str) -> Result<Machine> {
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

/// The answers to [`QUESTIONS`]: each line without numbers, and without what the hypervisors say of themselves.
fn answers(machine: &Machine) -> Vec<String> {
    /// Words of `xl info` and logs of a hypervisor's own, and states of a moment.
    const OWN: [&str; 11] = [
        "(oxen)",
        "(XEN)",
        "hw_caps",
        "xen_extra",
        "xen_version",
        "xen_changeset",
        "xen_commandline",
        "cc_",
        "build_id",
        "free_memory",
        "Cpupool",
    ];
    let said = machine.said();
    let said = said.split("questions begin\n").nth(1).unwrap_or_default();
    let lines = said.split("questions end").next().unwrap_or_default().lines();
    let lines = lines.filter(|line| !OWN.iter().any(|own| line.starts_with(own)));
    let no_number = |word: &str| match word.contains(|c: char| c.is_ascii_digit()) && !word.contains("VCPU") {
        true => "#".to_string(),
        false => word.to_string(),
    };
    lines.map(|line| line.split_whitespace().map(no_number).collect::<Vec<_>>().join(" ")).collect()
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
    let kernel = cmd::read(&Linux::Generic.bzimage()?)?;
    // A module's name must not have a space in it: the cache folder's may.
    let dom0 = paths::out().join("vmlinuz");
    cmd::write(&dom0, &kernel)?;
    let power_off = ("sbin/poweroff".to_string(), POWER_OFF.as_bytes().to_vec());
    let guest = cmd::read(&initramfs::with_files("guest", GUEST, &[power_off.clone()])?)?;
    let mut additions = Linux::Cloud.modules(&image::linux::MODULES)?;
    additions.retain(|(name, _)| name.ends_with("front.ko"));
    additions.iter_mut().for_each(|(name, _)| name.insert_str(0, "modules/"));
    additions.push(power_off);
    let peer = cmd::read(&initramfs::with_files("peer", PEER, &additions)?)?;
    let mut files = Archive::default();
    files.add("boot", Node::Directory);
    files.add("boot/web", Node::File(&cmd::read(&paths::out().join("web"))?));
    files.add("boot/vmlinuz", Node::File(&kernel));
    files.add("boot/vmlinuz-cloud", Node::File(&cmd::read(&Linux::Cloud.bzimage()?)?));
    files.add("boot/guest.cpio", Node::File(&guest));
    files.add("boot/peer.cpio", Node::File(&peer));
    files.add("etc", Node::Directory);
    files.add("etc/questions", Node::File(QUESTIONS.as_bytes()));
    files.add("etc/xen", Node::Directory);
    files.add("etc/xen/web.cfg", Node::File(WEB.as_bytes()));
    files.add("etc/xen/debian.cfg", Node::File(DEBIAN.as_bytes()));
    files.add("etc/xen/peer.cfg", Node::File(PEER_CONFIG.as_bytes()));
    let mut ramdisk = cmd::read(&toolstack::userland()?)?;
    ramdisk.extend(cmd::read(&toolstack::modules()?)?);
    ramdisk.extend(files.end());
    ramdisk.extend(cmd::read(&initramfs::write("xl", &format!("{}{SESSION}", toolstack::START))?)?);
    let file = paths::out().join("debian.cpio");
    cmd::write(&file, &ramdisk)?;
    Ok(Built { dom0, ramdisk: file, ..kit::built()?.clone() })
}
