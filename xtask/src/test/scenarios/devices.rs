//! The frontends against dom0's backends, from inside a guest (`tests/guests/devices`): a file system read
//! through, a disk written all over, bytes echoed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};

use super::services::forwards;
use super::shell::PROMPT;
use crate::build::Built;
use crate::machine::{Machine, Options, PATIENCE};
use crate::services::Forward;
use crate::test::kit;
use crate::test::lab::Lab;
use crate::test::site::{self, Site};
use crate::{cmd, debian};

/// On Oxen.
pub fn on_oxen(lab: &mut Lab) -> Result<()> {
    work(lab, kit::with_test_files()?)
}

/// The same dom0 and guest on Debian's Xen.
pub fn on_xen(lab: &mut Lab) -> Result<()> {
    work(lab, &Built { hypervisor: debian::xen()?, ..kit::with_test_files()?.clone() })
}

fn work(lab: &mut Lab, built: &Built) -> Result<()> {
    let (site, image) = site::with_image()?;
    let mut options = Options::direct(built);
    options.disk = Some(&image);
    options.forwards = vec![forward("echo", 7)?, forward("count", 9)?];
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create -c /etc/xen/test/devices.cfg")?;
    machine.wait_for("disk: ok, ")?;
    machine.wait_for("devices: serving")?;
    files_are_right(&machine, &site)?;
    bytes_come_back(&machine)
}

/// Each file of the site was read as it is, by its length and sum, and none besides.
fn files_are_right(machine: &Machine, site: &Site) -> Result<()> {
    let said = machine.said();
    let mut read: BTreeMap<&str, &str> = BTreeMap::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("file /")) {
        let (path, sum) = line.split_once(' ').context("no sum")?;
        read.insert(path, sum);
    }
    for name in &site.files {
        let bytes = cmd::read(&site.dir.join(name))?;
        let expected = format!("{} {:016x}", bytes.len(), fnv(&bytes));
        ensure!(read.remove(name.as_str()) == Some(&expected), "{name} was not read as {expected}");
    }
    ensure!(read.is_empty(), "files that nobody put there: {read:?}");
    Ok(())
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// A megabyte to the echo and back while it is sent, and one to the counter.
fn bytes_come_back(machine: &Machine) -> Result<()> {
    let sent: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    for (service, expected) in [("echo", sent.clone()), ("count", format!("{}\n", sent.len()).into_bytes())] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, machine.port(service)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut sending, bytes) = (stream.try_clone()?, sent.clone());
        let sender = std::thread::spawn(move || {
            sending.write_all(&bytes)?;
            sending.shutdown(Shutdown::Write)
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).context(service)?;
        sender.join().ok().context("the sender died")??;
        ensure!(got == expected, "{service}: {} bytes came back", got.len());
    }
    Ok(())
}

/// A free port of the host that leads to the guest's `port`.
fn forward(name: &str, port: u16) -> Result<Forward> {
    // `hello`'s is one of the host's free ports; only that is taken of it.
    let host_port = forwards(&["hello"])?.first().context("no port")?.host_port;
    Ok(Forward { name: name.into(), host_port, address: "10.0.2.30".into(), port })
}
