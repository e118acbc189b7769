//! Debian's Linux as a guest, over the split drivers (`tests/bench-linux/pvio.c`): with our dom0's backends, and with
//! those of Debian's Linux as dom0, on either hypervisor.
//!
//! What is counted is every instruction that the machine executes for an operation, in whichever domain, from the
//! guest's system call to its return. So a disk of QEMU's, which our dom0's volumes are on, takes no time: while the
//! machine waits for it, it idles.

mod table;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{PATIENCE, Row, Told};
use crate::bench::{self, Waits};
use crate::build::ramdisk::{self, Entry};
use crate::build::{self, Built};
use crate::debian::linux::Linux;
use crate::debian::toolstack;
use crate::image::initramfs::{Archive, Node};
use crate::image::{self, Content, Volume, initramfs};
use crate::machine::{COUNTING_CPU, Options};
use crate::steps::Step;
use crate::{cmd, debian, paths};
pub use table::Compared;

/// What a guest's kernel has as modules.
const DRIVERS: [&str; 2] = ["xen-blkfront", "xen-netfront"];
/// The disk of the guest that measures, as Linux's RAM disk is by itself.
const DISK: u64 = 16 << 20;

/// What dom0's Linux does when its toolstack is up: it is the peer.
const SESSION: &str = "pvio serve &\nxl create /etc/xen/io.cfg && xl console io || echo PI exit 1";

/// Whose backends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dom0 {
    Ours,
    Linux,
}

/// Measures the rows whose names begin with one of `rows`, or all, everywhere.
pub fn compared(rows: &[String]) -> Result<Compared> {
    let bench = Bench::new(rows)?;
    let xen = debian::xen()?;
    let ours = build::with(None, None, &[])?;
    let disk = paths::out().join("bench-io.img");
    image::write_volumes(&disk, &[Volume { name: "io", size: DISK, content: None }])?;
    let ours = bench.under_our_dom0(&ours)?;
    let linux = bench.under_linux(&ours)?;
    let measured = |built: &Built, dom0| -> Result<[Told; 2]> {
        let on_xen = Built { hypervisor: xen.clone(), ..built.clone() };
        Ok([bench.run(built, dom0, &disk, "oxen")?, bench.run(&on_xen, dom0, &disk, "xen")?])
    };
    Compared::new(measured(&ours, Dom0::Ours)?, measured(&linux, Dom0::Linux)?)
}

/// What all runs have in common.
struct Bench {
    plugin: PathBuf,
    program: Vec<u8>,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    rows: String,
}

impl Bench {
    fn new(rows: &[String]) -> Result<Self> {
        let program = cmd::read(&super::program("pvio")?)?;
        // this kernel is unpacked quickly, and is the same for a guest
        let modules = Linux::Cloud.modules(&DRIVERS)?.into_iter();
        let mut files: Vec<_> = modules.map(|(file, data)| (format!("modules/{file}"), data)).collect();
        files.push(("bin/pvio".into(), program.clone()));
        let script = String::from_utf8(cmd::read(&super::sources().join("io-guest.sh"))?)?;
        let initramfs = cmd::read(&initramfs::with_files("bench-io-guest", &script, &files)?)?;
        let kernel = cmd::read(&Linux::Cloud.bzimage()?)?;
        Ok(Self { plugin: super::plugin()?, program, kernel, initramfs, rows: rows.join(",") })
    }

    /// A guest's configuration: `number` tells it from the others, `devices` is what it has besides the network. Xen by
    /// itself would emulate reads of QEMU's time-stamp counter, which is not told to be invariant.
    fn config(&self, name: &str, number: u8, words: &str, devices: &str) -> Vec<u8> {
        format!(
            "name = \"{name}\"\ntype = \"pv\"\nkernel = \"/boot/vmlinuz\"\nramdisk = \"/boot/guest.cpio\"\n\
             memory = 128\ntsc_mode = \"native\"\nvif = [ 'mac=00:16:3e:00:00:{number},bridge=xenbr0' ]\n{devices}\n\
             extra = \"console=hvc0 quiet ipv6.disable=1 pvio.address=10.0.2.{number} {words}\"\n"
        )
        .into_bytes()
    }

    /// The configuration of the guest that measures.
    fn measuring(&self, peer: &str, disk: &str) -> Vec<u8> {
        let words = format!("pvio.peer={peer} pvio.rows={}", self.rows);
        self.config("io", 41, &words, &format!("disk = [ 'phy:{disk},xvda,w' ]"))
    }

    /// Our dom0 with the guests; a second guest is the peer.
    fn under_our_dom0(&self, built: &Built) -> Result<Built> {
        let entry = |path: &str, data: &[u8]| Entry { path: path.into(), data: data.to_vec() };
        let files = [
            entry("boot/vmlinuz", &self.kernel),
            entry("boot/guest.cpio", &self.initramfs),
            entry("etc/xen/io.cfg", &self.measuring("10.0.2.42", "io")),
            entry("etc/xen/peer.cfg", &self.config("peer", 42, "", "")),
        ];
        let ramdisk = paths::out().join("bench-io.tar");
        cmd::write(&ramdisk, &ramdisk::archive(&files)?)?;
        Ok(Built { ramdisk, ..built.clone() })
    }

    /// Debian as dom0 with the guest.
    fn under_linux(&self, built: &Built) -> Result<Built> {
        let dom0 = super::dom0_kernel()?;
        let mut files = Archive::default();
        files.add("boot", Node::Directory);
        files.add("boot/vmlinuz", Node::File(&self.kernel));
        files.add("boot/guest.cpio", Node::File(&self.initramfs));
        files.add("etc", Node::Directory);
        files.add("etc/xen", Node::Directory);
        files.add("etc/xen/io.cfg", Node::File(&self.measuring("10.0.2.10", "/dev/ram0")));
        let script = format!("{}{SESSION}", toolstack::START);
        let first = initramfs::with_files("bench-io", &script, &[("bin/pvio".into(), self.program.clone())])?;
        let parts = [toolstack::userland()?, toolstack::modules()?].map(|part| cmd::read(&part));
        let mut ramdisk = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
        ramdisk.extend(files.end());
        ramdisk.extend(cmd::read(&first)?);
        let file = paths::out().join("bench-io.cpio");
        cmd::write(&file, &ramdisk)?;
        Ok(Built { dom0, ramdisk: file, ..built.clone() })
    }

    fn run(&self, built: &Built, dom0: Dom0, disk: &Path, hypervisor: &str) -> Result<Told> {
        let whose = if dom0 == Dom0::Ours { "our" } else { "linux" };
        let name = format!("bench-io-{whose}-dom0-{hypervisor}");
        let step = Step::new(&format!("measuring a guest's devices, {whose} dom0 on {hypervisor}"));
        let hypervisor_args = "console=com1 com1=115200 dom0_mem=512M".into();
        let mut content = Content { hypervisor_args, ..Content::default() };
        if dom0 == Dom0::Linux {
            content.dom0_args = "console=hvc0 quiet panic=-1 ipv6.disable=1".into();
        }
        let options =
            Options { cpu: COUNTING_CPU, memory: "1G", disk: Some(disk), content, ..Options::direct(built) };
        // a disk of the host's takes the host's time: a machine that skipped its waits would spend them on its timers
        let mut options = bench::counting(options, Waits::Real);
        let counted = paths::logs()?.join(format!("{name}.mix"));
        options.more.extend(super::plugin_arguments(&self.plugin, &counted));
        let mut machine = bench::start(options, &name)?;
        if dom0 == Dom0::Ours {
            machine.wait_for_prompt("oxen# ")?;
            for guest in ["peer", "io"] {
                machine.type_line(&format!("xl create /etc/xen/{guest}.cfg --json"))?;
                let answer = machine.wait_for("{\"")?;
                ensure!(!answer.contains("\"error\""), "{answer}");
            }
            machine.type_line("xl console io")?;
        }
        let end = machine.wait_at_most(PATIENCE, "PI exit ")?;
        ensure!(end.contains("PI exit 0"), "pvio failed: {end}");
        let counted = String::from_utf8_lossy(&cmd::read(&counted)?).into_owned();
        let told = told(&machine.said(), &counted)?;
        step.done(&format!("{} rows", told.rows.len()));
        Ok(told)
    }
}

/// Puts together what pvio said on the guest's console and what the plugin counted.
fn told(said: &str, counted: &str) -> Result<Told> {
    let rows: Vec<Row> = super::paired(said, &super::mix::rows(counted)?)?;
    Ok(Told { kernel: super::word(said, "kernel")?, hypervisor: super::word(said, "hypervisor")?, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_rows_are_found_on_dom0s_console() {
        let said = "oxen# xl console io\nPI kernel 6.1\nPI hypervisor 4.17.0\nPB bw.in 9.50 4\nPI exit 0\n";
        let counted =
            "POINT 3 user=1 hyp=1 kern=1 cr3=1 invlpg=1\nROW 1 user=4 hyp=16 kern=20 cr3=8 invlpg=0\n";
        let told = told(said, counted).unwrap();
        assert_eq!((told.kernel.as_str(), told.hypervisor.as_str()), ("6.1", "4.17.0"));
        let [row] = &told.rows[..] else { panic!("{} rows", told.rows.len()) };
        assert_eq!((row.name.as_str(), row.inside.all, row.inside.hypervisor), ("bw.in", 10.0, 4.0));
        assert!(super::told(said, "").is_err());
    }
}
