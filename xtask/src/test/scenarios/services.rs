//! The services, from a program on the host over the split network driver.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::shell::PROMPT;
use crate::build::Built;
use crate::machine::{Machine, Options, PATIENCE};
use crate::services::{self, Asked, Forward};
use crate::test::kit;
use crate::test::lab::Lab;
use crate::{cmd, debian};

/// `hello` is created from its configuration and greets whoever connects.
pub fn hello_on_oxen(lab: &mut Lab) -> Result<()> {
    hello_greets(lab, kit::with_test_files()?)
}

/// The same dom0 and `hello` on Debian's Xen.
pub fn hello_on_xen(lab: &mut Lab) -> Result<()> {
    hello_greets(lab, &Built { hypervisor: debian::xen()?, ..kit::with_test_files()?.clone() })
}

fn hello_greets(lab: &mut Lab, built: &Built) -> Result<()> {
    let mut options = Options::direct(built);
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["hello"])?;
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create /etc/xen/hello.cfg")?;
    let page = fetch(&machine, "hello", "/")?;
    if !page.contains("hello from an Oxen guest") {
        bail!("hello says {page:?}");
    }
    for _ in 0..100 {
        curl(&machine, "hello", "/")?;
    }
    Ok(())
}

/// A guest without an address asks for one by DHCP: it says when nobody answers, goes on asking, and
/// serves at the address that it gets.
pub fn address_by_dhcp(lab: &mut Lab) -> Result<()> {
    let mut options = Options::direct(kit::with_test_files()?);
    options.disk = Some(kit::image()?);
    let mut forward = forwards(&["hello"])?.remove(0);
    forward.address = "10.0.2.15".into(); // the first that QEMU's server gives
    options.forwards = vec![forward];
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.monitor("set_link", json!({ "name": "nic", "up": false }))?;
    machine.type_line("xl create -c /etc/xen/test/dhcp.cfg")?;
    machine.wait_for("no DHCP server has answered for 10 s")?;
    machine.monitor("set_link", json!({ "name": "nic", "up": true }))?;
    machine.wait_for("hello: 10.0.2.15/24 via 10.0.2.2, port 80")?;
    let page = fetch(&machine, "hello", "/")?;
    if !page.contains("hello from an Oxen guest") {
        bail!("hello says {page:?}");
    }
    Ok(())
}

/// The network cable is pulled and put back: the shell goes on, and then the service too.
pub fn cable_pulled(lab: &mut Lab) -> Result<()> {
    let mut machine = serving_hello(lab, &Options::direct(kit::with_test_files()?))?;
    machine.monitor("set_link", json!({ "name": "nic", "up": false }))?;
    let url = format!("http://127.0.0.1:{}/", machine.port("hello")?);
    let mut unanswered = cmd::program("curl");
    if cmd::run(unanswered.args(["--silent", "--max-time", "2", &url])).is_ok() {
        bail!("a page came through a pulled cable");
    }
    machine.type_line("xl domid hello")?;
    machine.wait_for("\n1")?;
    machine.monitor("set_link", json!({ "name": "nic", "up": true }))?;
    fetch(&machine, "hello", "/").map(drop)
}

/// A free port of the host, another one each time: one that was given away is free until somebody listens there.
fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if GIVEN.lock().is_ok_and(|mut given| given.insert(port)) {
            return Ok(port);
        }
    }
}

/// A machine of `options` with our disk, whose only guest, `hello`, has answered.
pub(super) fn serving_hello(lab: &Lab, options: &Options) -> Result<Machine> {
    let options = Options { disk: Some(kit::image()?), forwards: forwards(&["hello"])?, ..options.clone() };
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create /etc/xen/hello.cfg")?;
    fetch(&machine, "hello", "/")?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine)
}

/// A free port of the host for each service in `names`.
pub(super) fn forwards(names: &[&str]) -> Result<Vec<Forward>> {
    let mut asked = Vec::new();
    for name in names {
        let host_port = free_port()?;
        asked.push(Asked { name: (*name).to_string(), host_port, port: None });
    }
    let mut forwards = services::forwards(&services::all()?, &asked)?;
    forwards.retain(|forward| names.contains(&forward.name.as_str()));
    Ok(forwards)
}

/// What `service` serves at `path`, waiting until it answers at all.
pub(super) fn fetch(machine: &Machine, service: &str, path: &str) -> Result<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match curl(machine, service, path) {
            Ok(text) => return Ok(text),
            Err(error) if Instant::now() > until => {
                return Err(error).context(format!("{service} is silent"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// What `service` serves at `path`.
pub(super) fn curl(machine: &Machine, service: &str, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{}{path}", machine.port(service)?);
    cmd::output(cmd::program("curl").args(["--silent", "--show-error", "--fail", "--max-time", "20", &url]))
}
