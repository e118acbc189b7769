//! The distribution's Linux as a domain of our dom0.

mod guest;
mod host;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use self::guest::Guest;
use self::host::{Iperf, Page, Sink};
use super::services::{curl, fetch, forwards};
use super::shell::{PROMPT, free_memory};
use crate::build::Built;
use crate::build::ramdisk::Entry;
use crate::debian::linux::Linux;
use crate::machine::{Options, PATIENCE};
use crate::test::lab::Lab;
use crate::test::{kit, userland};
use crate::{cmd, debian, paths};

/// What the domain that does everything has.
const CONFIG: &str = "\
name = \"debian\"
memory = 256
maxmem = 512
vcpus = 2
maxvcpus = 4
disk = [ 'phy:root,xvda,w', 'phy:data,xvdb,w' ]
vif = [ 'mac=00:16:3e:00:00:40,bridge=xenbr0' ]
";

/// A kernel that dom0 has.
const KERNEL: &str = "\
kernel = \"/boot/vmlinuz\"
ramdisk = \"/boot/initramfs\"
extra = \"console=hvc0 quiet\"
";

/// Seconds by which the domain's clock may be wrong: from when it reads the date until it uses Xen's clock the kernel
/// counts timer interrupts, and misses those that come while it has them off (seconds, on Xen too). And QEMU's RTC
/// begins with a whole second whenever it is started.
const BOOT_LOSS: f64 = 30.0;

/// One that only looks at what it has.
const PROBE: &str = "\
name = \"probe\"
kernel = \"/boot/vmlinuz\"
ramdisk = \"/boot/initramfs\"
extra = \"console=hvc0 probe\"
memory = 128
";

/// It does what a domain does.
pub fn works(lab: &mut Lab) -> Result<()> {
    let mut guest = start(lab)?;
    let free = free_memory(&mut guest.machine)?;
    guest.create("debian.cfg")?;
    guest.log_in()?;
    knows_where_it_is(&mut guest)?;
    let clock = clock_runs_ahead(&mut guest)?;
    network(&mut guest)?;
    let said = guest.run("disk xvdb")?;
    ensure!(said.contains("fsck: clean") && said.contains("fio: verified"), "{said}");
    println!("{said}");
    processors(&mut guest, &[4, 1, 3])?;
    memory(&mut guest, &[400, 180, 256])?;
    devices(&mut guest)?;
    changes_under_load(&mut guest)?;
    let later = clock_runs_ahead(&mut guest)?;
    ensure!(clock.0 <= later.1 && later.0 <= clock.1, "the clock goes wrong: from {clock:?} to {later:?}");
    guest.does("xl sysrq debian h")?;
    guest.run("wait-for sh -c 'dmesg | grep sysrq:.HELP'")?;
    let complaints = guest.run("dmesg | grep -cE 'WARNING: CPU|BUG:|Call Trace|Oops|hung'; true")?;
    ensure!(complaints.trim() == "0", "the kernel complains {complaints} times");
    guest.does("xl trigger debian nmi")?;
    guest.run("wait-for grep -q 'NMI: *[1-9]' /proc/interrupts")?;
    floods(&mut guest)?;
    abuses(&mut guest)?;
    ends(&mut guest)?;
    guest.gave_back(&free)
}

/// A machine with the kernels, and a disk.
fn start(lab: &Lab) -> Result<Guest> {
    let (built, disk) = built()?;
    boot(lab, &built, &disk)
}

/// The kernels and their configurations in dom0's ramdisk, and the disk.
fn built() -> Result<(Built, PathBuf)> {
    let disk = userland::disk("linux-domu.img", &[("data", 256 << 20), ("more", 64 << 20)])?;
    let mut files = Vec::new();
    for (linux, name) in [(Linux::Generic, ""), (Linux::Cloud, "-cloud")] {
        files.push(Entry { path: format!("boot/vmlinuz{name}"), data: cmd::read(&linux.bzimage()?)? });
        let initramfs = cmd::read(&userland::initramfs(linux)?)?;
        files.push(Entry { path: format!("boot/initramfs{name}"), data: initramfs });
    }
    for (name, config) in [
        ("debian", format!("{CONFIG}{KERNEL}")),
        ("by-grub", format!("{CONFIG}kernel = \"/boot/grub\"\n")),
        ("probe", PROBE.to_string()),
        ("hello", String::from_utf8(cmd::read(&paths::root().join("images/hello.cfg"))?)?),
    ] {
        files.push(Entry { path: format!("etc/xen/{name}.cfg"), data: config.into_bytes() });
    }
    files.extend(bad_kernels(&cmd::read(&Linux::Generic.bzimage()?)?)?);
    files.push(Entry { path: "boot/hello".into(), data: cmd::read(&paths::out().join("hello"))? });
    files.push(Entry { path: "boot/grub".into(), data: cmd::read(&debian::grub()?)? });
    Ok((kit::with_files("linux-domu", &files)?, disk))
}

fn boot(lab: &Lab, built: &Built, disk: &Path) -> Result<Guest> {
    let mut options = Options::direct(built);
    options.disk = Some(disk);
    options.forwards = forwards(&["hello"])?;
    options.smp = 2;
    options.memory = "3G";
    options.content.hypervisor_args = "console=com1 com1=115200 dom0_mem=512M".into();
    Guest::new(lab.boot(&options)?, "debian")
}

/// `/sys/hypervisor` and the clock say what dom0 and the host say.
fn knows_where_it_is(guest: &mut Guest) -> Result<()> {
    let said = guest.run("cd /sys/hypervisor; cat type guest_type version/major version/minor; cd")?;
    ensure!(said.split_whitespace().eq(["xen", "PV", "4", "17"]), "/sys/hypervisor says {said}");
    let uuid = guest.run("cat /sys/hypervisor/uuid")?;
    let list = guest.dom0("xl list -v debian")?;
    ensure!(uuid.trim().len() == 36 && list.contains(uuid.trim()), "uuid {uuid}, {list}");
    let (earliest, latest) = clock_runs_ahead(guest)?;
    ensure!(
        earliest <= BOOT_LOSS && latest >= -BOOT_LOSS,
        "the date is between {earliest:.1} s and {latest:.1} s ahead of the host's"
    );
    Ok(())
}

/// How many seconds the domain's clock is ahead of the host's: at least, and at most.
fn clock_runs_ahead(guest: &mut Guest) -> Result<(f64, f64)> {
    let host = || Ok::<_, anyhow::Error>(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
    let before = host()?;
    let date: f64 = guest.run("date +%s")?.trim().parse().context("date")?;
    Ok((date - host()?, date + 1.0 - before))
}

/// Addresses of both kinds, downloads that arrive as they were sent, throughput both ways.
fn network(guest: &mut Guest) -> Result<()> {
    let (page, iperf) = (Page::serve(8 << 20)?, Iperf::serve()?);
    let said = guest.run(&format!("net {} {} {}", page.port, page.md5, iperf.port))?;
    ensure!(said.matches("bits/sec").count() == 2, "iperf3 says {said}");
    println!("{said}");
    Ok(())
}

/// Processors come and go while it runs.
fn processors(guest: &mut Guest, counts: &[u32]) -> Result<()> {
    for count in counts {
        guest.does(&format!("xl vcpu-set -i debian {count}"))?;
        guest.run(&format!("cpus {count}"))?;
        let list = guest.dom0("xl list debian")?;
        ensure!(list.lines().any(|l| l.split_whitespace().nth(3) == Some(&count.to_string())), "{list}");
    }
    Ok(())
}

/// Memory is given and taken back by its balloon.
fn memory(guest: &mut Guest, sizes: &[u64]) -> Result<()> {
    for &mib in sizes {
        guest.does(&format!("xl mem-set debian {mib}"))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let list = guest.dom0("xl list debian")?;
            if list.lines().any(|line| line.split_whitespace().nth(2) == Some(&mib.to_string())) {
                break;
            }
            ensure!(Instant::now() < until, "the domain does not get to {mib} MiB: {list}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let said = guest.run("grep MemTotal /proc/meminfo")?;
        let kib: u64 = said.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("MemTotal")?;
        ensure!(is_about(kib, mib), "{mib} MiB: {said}");
    }
    Ok(())
}

/// Whether a kernel that says it has `kib` may have been given `mib`: what it keeps for itself from the start is not
/// counted.
fn is_about(kib: u64, mib: u64) -> bool {
    ((mib - mib / 32 - 75) << 10..mib << 10).contains(&kib)
}

/// Disks and network interfaces come and go while it runs; one disk goes while it is written to.
fn devices(guest: &mut Guest) -> Result<()> {
    // What no backend can have is refused, and neither this guest nor another one sees anything of it.
    for (command, complaint) in [
        ("xl block-attach debian phy:data xvdd w", "disk xvdd (data): in use already"),
        ("xl block-attach debian phy:nothing xvdd w", "no such volume; there are "),
        ("xl network-attach debian bridge=br7", "network interface 1: no bridge \"br7\""),
        ("xl create probe.cfg 'disk=[\"phy:root,xvda,w\"]'", "disk xvda (root): in use already"),
        ("xl domid probe", "does not exist"),
    ] {
        let said = guest.dom0(command)?;
        ensure!(said.contains(complaint), "{command}: {said}");
    }
    guest.does("xl block-attach debian phy:more xvdc w")?;
    guest.run("wait-for [ -b /dev/xvdc ]")?;
    guest.run("disk xvdc")?;
    guest.does("xl block-detach debian xvdc")?;
    guest.run("wait-for [ ! -e /sys/block/xvdc ]")?;
    guest.does("xl network-attach debian mac=00:16:3e:00:00:41")?;
    guest.run("wait-for [ -e /sys/class/net/eth1 ]")?;
    guest.run("ip link set eth1 up && ip addr add 10.0.2.65/24 dev eth1 && ping -c 1 -I eth1 10.0.2.2")?;
    guest.does("xl network-detach debian 1")?;
    guest.run("wait-for [ ! -e /sys/class/net/eth1 ]")?;

    guest.does("xl block-attach debian phy:more xvdc w")?;
    guest.run("wait-for [ -b /dev/xvdc ]")?;
    guest.run("busy xvdc")?;
    // field 8: writes that are done
    guest.run("wait-for awk '/xvdc/ && $8 > 50 {ok = 1} END {exit !ok}' /proc/diskstats")?;
    guest.does("xl block-detach --force debian xvdc")?;
    let said = guest.run("wait-for grep -q err= /tmp/busy; grep err= /tmp/busy")?;
    // a disk that is gone has no sectors for Linux
    let is_told = said.contains("Input/output error") || said.contains("No space left");
    ensure!(is_told, "whoever wrote to the disk that vanished got {said}");
    guest.run("wait-for [ ! -e /sys/block/xvdc ]")?;
    guest.run("disk xvdb")?;
    Ok(())
}

/// Processors and memory come and go while it has a lot to do.
fn changes_under_load(guest: &mut Guest) -> Result<()> {
    const ROUNDS: u32 = 2;
    guest.run("load 4")?;
    for _ in 0..ROUNDS {
        processors(guest, &[1, 4])?;
        // fio and the others need some of it
        memory(guest, &[256, 400])?;
    }
    guest.run("rm /tmp/load")?;
    let until = Instant::now() + PATIENCE;
    while guest.attempt("[ -e /tmp/load.over ]")?.1 != "0" {
        if Instant::now() > until {
            let said = guest.attempt("ps; dmesg | tail -n 40; cat /tmp/load.failed")?.0;
            bail!("its requests to the disk don't end: {said}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let said = guest.run("cat /tmp/load.fio; ! cat /tmp/load.failed")?;
    ensure!(said.contains("err= 0"), "{said}");
    Ok(())
}

/// A program of it asks of event channels and grants what it can get: another domain serves all the while.
fn abuses(guest: &mut Guest) -> Result<()> {
    guest.dom0("xl create hello.cfg")?;
    fetch(&guest.machine, "hello", "/")?;
    abuse(guest)?;
    for _ in 0..30 {
        let page = curl(&guest.machine, "hello", "/")?;
        ensure!(page.contains("hello from an Oxen guest"), "hello says {page:?}");
    }
    let said = guest.run("kill $(pidof abuse); wait-for grep -q got /tmp/abuse; cat /tmp/abuse")?;
    ensure!(!said.contains("sent 0,") && !said.contains("got 0\n"), "{said}");
    ensure!(said.contains("forged 0") && said.contains(" 0 of dom0's"), "it got what is not its own: {said}");
    println!("{said}");
    guest.does("xl destroy hello")
}

/// Starts that program, to where it floods.
fn abuse(guest: &mut Guest) -> Result<()> {
    let list = guest.dom0("xl list debian")?;
    let id = list.lines().find_map(|line| line.strip_prefix("debian ")?.split_whitespace().next());
    let id = id.context("no such domain")?;
    guest.run(&format!("(/checks/abuse {id} >/tmp/abuse 2>&1 </dev/null &)"))?;
    guest.run("wait-for grep -q granted /tmp/abuse").map(drop)
}

/// It floods its console and its network: dom0's shell answers.
fn floods(guest: &mut Guest) -> Result<()> {
    guest.run("(timeout 2 yes >/dev/hvc0 2>&1 &)")?;
    guest.run("(timeout 2 nc -u 10.0.2.2 9 </dev/zero >/dev/null 2>&1 &)")?;
    for _ in 0..5 {
        ensure!(guest.dom0("xl list debian")?.contains("debian"), "dom0 does not know its domain");
    }
    guest.run("wait-for sh -c '! pidof yes nc'").map(drop)
}

/// It is started again, stops, and crashes.
fn ends(guest: &mut Guest) -> Result<()> {
    guest.dom0("xl reboot debian")?;
    guest.machine.wait_for("\"debian\" is running again")?;
    guest.log_in()?;
    guest.dom0("xl shutdown -w debian")?;
    guest.machine.wait_for("\"debian\" has powered off")?;
    guest.create("debian.cfg vcpus=1")?;
    guest.log_in()?;
    abuse(guest)?;
    // Linux does not look for another backend
    let said = guest.dom0("backend-restart debian")?;
    ensure!(said.contains("the frontend of vbd 51712 has not noticed"), "{said}");
    guest.does("xl sysrq debian c")?;
    guest.machine.wait_for("\"debian\" has crashed").map(drop)
}

/// Files that are no kernel, or not one for here, and a domain too small for what it boots: each is refused by a
/// message about its fault.
fn bad_input(guest: &mut Guest) -> Result<()> {
    for (words, complaint) in [
        ("'kernel=\"/boot/no-notes\"'", "not a Xen kernel: it has no Xen notes"),
        ("'kernel=\"/boot/32-bit\"'", "not an x86-64 kernel"),
        ("'kernel=\"/boot/bent\"'", "broken xz payload"),
        ("'kernel=\"/boot/cut\"'", "truncated bzImage"),
        ("'disk=[\"phy:nothing,xvda,w\"]'", "probe.cfg: disk xvda (nothing): no such volume"),
        ("'vif=[\"bridge=br7\"]'", "probe.cfg: network interface 0: no bridge \"br7\""),
        ("memory=72", "not enough memory for this kernel and ramdisk"),
    ] {
        guest.machine.type_line(&format!("xl create probe.cfg {words}"))?;
        guest.machine.wait_for(complaint)?;
        guest.machine.wait_for_prompt(PROMPT)?;
    }
    Ok(())
}

/// The files that [`bad_input`] names, made from the good `bzimage`.
fn bad_kernels(bzimage: &[u8]) -> Result<Vec<Entry>> {
    let hello = cmd::read(&paths::out().join("hello"))?;
    let (mut no_notes, mut bent) = (hello, bzimage.to_vec());
    let notes: Vec<usize> = (0..no_notes.len() - 4).filter(|&at| &no_notes[at..at + 4] == b"Xen\0").collect();
    for at in notes {
        no_notes[at] = b'x';
    }
    // the header of an ELF file for EM_386, with nothing behind it
    let mut narrow = b"\x7fELF\x01\x01\x01".to_vec();
    narrow.resize(52, 0);
    for (at, value) in [(16, 2), (18, 3), (20, 1), (40, 52), (42, 32), (46, 40)] {
        narrow[at] = value;
    }
    let middle = bent.len() / 2;
    bent[middle..middle + 64].fill(0x5a);
    let files =
        [("no-notes", no_notes), ("32-bit", narrow), ("cut", bent[..middle].to_vec()), ("bent", bent)];
    Ok(files.into_iter().map(|(name, data)| Entry { path: format!("boot/{name}"), data }).collect())
}

/// It starts on one processor and on many, with little memory and with much, and so does the kernel for clouds. What
/// can't start is refused.
pub fn sizes(lab: &mut Lab) -> Result<()> {
    let mut guest = start(lab)?;
    let free = free_memory(&mut guest.machine)?;
    for (kernel, vcpus, mib) in [("-cloud", 1, 128), ("", 1, 128), ("", 4, 512), ("", 32, 2048)] {
        let files = format!("'kernel=\"/boot/vmlinuz{kernel}\"' 'ramdisk=\"/boot/initramfs{kernel}\"'");
        guest.machine.type_line(&format!("xl create -c probe.cfg {files} vcpus={vcpus} memory={mib}"))?;
        let line = guest.machine.wait_at_most(PATIENCE * 4, "probe: ")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let seen: u64 = words.get(4).and_then(|kib| kib.parse().ok()).context("no MemTotal")?;
        ensure!(words[1] == vcpus.to_string(), "{vcpus} vcpus: {line}");
        ensure!(is_about(seen, mib), "{mib} MiB: {line}");
        guest.machine.wait_for("has ended")?;
        guest.machine.wait_for("powered off")?;
    }
    ensure!(!guest.machine.said().contains("probe: complaints"), "the kernel complains");
    bad_input(&mut guest)?;
    guest.gave_back(&free)
}

/// GRUB for Xen as a domain: it loads the kernel from the domain's disk.
pub fn by_grub(lab: &mut Lab) -> Result<()> {
    let mut guest = start(lab)?;
    let free = free_memory(&mut guest.machine)?;
    guest.create("by-grub.cfg")?;
    guest.log_in()?;
    let said = guest.run("cat /proc/cmdline")?;
    ensure!(said.trim() == "console=hvc0 quiet by-grub", "{said}");
    guest.dom0("xl shutdown -w debian")?;
    guest.machine.wait_for("\"debian\" has powered off")?;
    guest.gave_back(&free)
}

/// Beginnings of lines that may be on one of the two alone, and why.
const UNLIKE_XEN: [(&str, &str); 4] = [
    ("clocksource: timekeeping watchdog", "a slow host"),
    ("tsc: Marking TSC unstable", "a slow host"),
    ("hrtimer: interrupt took", "a slow host"),
    ("clocksource: Long readout", "a slow host"),
];

/// Its log on Oxen has nothing that it does not have on Xen.
pub fn log_is_xens(lab: &mut Lab) -> Result<()> {
    let (on_oxen, disk) = built()?;
    let on_xen = Built { hypervisor: debian::xen()?, ..on_oxen.clone() };
    let (ours, theirs) = lab.beside(|lab| log(lab, &on_oxen, &disk), |lab| log(lab, &on_xen, &disk))?;
    cmd::write(&paths::logs()?.join("linux-on-oxen"), ours.join("\n").as_bytes())?;
    cmd::write(&paths::logs()?.join("linux-on-xen"), theirs.join("\n").as_bytes())?;
    let is_known = |line: &&String| UNLIKE_XEN.iter().any(|(known, _)| line.starts_with(known));
    let news: Vec<&String> = ours.iter().filter(|l| !theirs.contains(l) && !is_known(l)).collect();
    ensure!(news.is_empty(), "lines that it does not have on Xen:\n{news:#?}");
    Ok(())
}

/// What the kernel logs from its start until somebody has logged in and its network is up: each line without what
/// differs from one start to the next.
fn log(lab: &Lab, built: &Built, disk: &Path) -> Result<Vec<String>> {
    let mut guest = boot(lab, built, disk)?;
    guest.create("debian.cfg")?;
    guest.log_in()?;
    guest.run("ip link set eth0 up; ip addr add 10.0.2.64/24 dev eth0")?;
    let sink = Sink::open()?;
    guest.run(&format!("dmesg -r | nc 10.0.2.2 {}", sink.port))?;
    Ok(sink.text()?.lines().map(normal).collect())
}

/// A line of the kernel's log without its time, and without words that have a number in them: addresses, sizes, how
/// long something took.
fn normal(line: &str) -> String {
    let text = line.split_once("] ").map_or(line, |(_, text)| text);
    let words =
        text.split(' ').map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
