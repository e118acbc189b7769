//! The web server: every byte of a site of a thousand files, what HTTP asks of it, and a crowd.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::services::{curl, fetch, forwards};
use crate::build::Built;
use crate::machine::{Machine, Options};
use crate::paths;
use crate::qemu::Boot;
use crate::test::kit;
use crate::test::lab::Lab;
use crate::test::site::{self, Site};
use crate::{cmd, debian};

/// From GRUB to the site: dom0 starts `web` by itself, each file arrives as it is, and after a crowd of
/// 64 connections the server still answers.
pub fn serves_files(lab: &mut Lab) -> Result<()> {
    let (site, image) = site::with_image()?;
    let mut options = Options::direct(kit::built()?);
    options.boot = Boot::DiskBios;
    options.disk = Some(&image);
    options.forwards = forwards(&["web"])?;
    let machine = lab.boot(&options)?;
    fetch(&machine, "web", "/status.json")?;
    for names in site.files.chunks(250) {
        compare(&machine, &site, names)?;
    }
    speaks_http(&machine, &site)?;
    crowd(&machine)?;
    compare(&machine, &site, &site.files[..10])
}

/// The same dom0 and `web` on Debian's Xen.
pub fn on_xen(lab: &mut Lab) -> Result<()> {
    let built = Built { hypervisor: debian::xen()?, ..kit::built()?.clone() };
    let mut options = Options::direct(&built);
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["web"])?;
    let machine = lab.boot(&options)?;
    let page = fetch(&machine, "web", "/")?;
    ensure!(page == String::from_utf8(cmd::read(&paths::root().join("images/site/index.html"))?)?, "{page}");
    Ok(())
}

/// Wireshark's dissectors find no fault in any frame of the machine's network.
pub fn frames(lab: &mut Lab) -> Result<()> {
    let (site, image) = site::with_image()?;
    let capture = paths::out().join("web.pcap");
    let mut options = Options::direct(kit::built()?);
    options.disk = Some(&image);
    options.forwards = forwards(&["web"])?;
    let dump = format!("filter-dump,id=capture,netdev=net,file={}", capture.display());
    options.more = vec!["-object".into(), dump];
    let machine = lab.boot(&options)?;
    fetch(&machine, "web", "/status.json")?;
    compare(&machine, &site, &site.files[site.files.len() - 60..])?;
    drop(machine);
    let frames = |filter: &str| -> Result<usize> {
        let mut tshark = cmd::program("tshark");
        Ok(cmd::output(tshark.arg("-r").arg(&capture).args(["-Y", filter]))?.lines().count())
    };
    ensure!(frames("http.response.code == 200")? >= 60, "the capture lacks the answers");
    let malformed = frames("_ws.malformed")?;
    ensure!(malformed == 0, "{malformed} malformed frames in {}", capture.display());
    Ok(())
}

/// Fetches the files `names`, many over each connection, and compares each byte.
fn compare(machine: &Machine, site: &Site, names: &[String]) -> Result<()> {
    let fetched = paths::out().join("fetched");
    if fetched.exists() {
        std::fs::remove_dir_all(&fetched)?;
    }
    let mut config = String::new();
    for name in names {
        writeln!(config, "url = \"http://127.0.0.1:{}/{name}\"", machine.port("web")?)?;
        writeln!(config, "output = \"{}\"", fetched.join(name).display())?;
    }
    let file = paths::out().join("fetch.curl");
    cmd::write(&file, config.as_bytes())?;
    let mut curl = cmd::program("curl");
    curl.args(["--silent", "--show-error", "--fail", "--create-dirs", "--max-time", "120"]);
    cmd::run(curl.args(["--parallel", "--parallel-max", "4", "--config"]).arg(&file))?;
    for name in names {
        let (sent, got) = (cmd::read(&site.dir.join(name))?, fetched_bytes(&fetched.join(name))?);
        ensure!(sent == got, "{name}: {} bytes became {} others", sent.len(), got.len());
    }
    Ok(())
}

/// What curl wrote; it makes no file for an answer without bytes.
fn fetched_bytes(file: &Path) -> Result<Vec<u8>> {
    if file.exists() { cmd::read(file) } else { Ok(Vec::new()) }
}

/// Ranges, conditions, heads, absent files, and what the server says of itself.
fn speaks_http(machine: &Machine, site: &Site) -> Result<()> {
    let name = "generated/2097152.bin";
    let whole = cmd::read(&site.dir.join(name))?;
    let part = paths::out().join("fetched.part");
    for (range, expected) in [
        ("1000000-1004999", &whole[1_000_000..1_005_000]),
        ("2097000-", &whole[2_097_000..]),
        ("-777", &whole[whole.len() - 777..]),
    ] {
        let head = ask(machine, name, &["--range", range, "--output", &part.to_string_lossy()])?;
        ensure!(head.starts_with("HTTP/1.1 206"), "range {range}: {head}");
        ensure!(cmd::read(&part)? == expected, "range {range} has other bytes");
    }
    let head = ask(machine, name, &["--head"])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "HEAD: {head}");
    ensure!(head.to_ascii_lowercase().contains("content-length: 2097152"), "HEAD: {head}");
    let field = |line: &str| line.split_once(": ").map(|(_, value)| value.trim().to_string());
    let is_tag = |line: &&str| line.to_ascii_lowercase().starts_with("etag:");
    let Some(tag) = head.lines().find(is_tag).and_then(field) else { bail!("no ETag: {head}") };
    let head = ask(machine, name, &["--header", &format!("If-None-Match: {tag}")])?;
    ensure!(head.starts_with("HTTP/1.1 304"), "If-None-Match: {head}");
    let head = ask(machine, "no/such/file", &[])?;
    ensure!(head.starts_with("HTTP/1.1 404"), "an absent file: {head}");
    let status: serde_json::Value = serde_json::from_str(&curl(machine, "web", "/status.json")?)?;
    ensure!(status["requests"].as_u64() > Some(site.files.len() as u64), "{status}");
    let metrics = curl(machine, "web", "/metrics")?;
    ensure!(metrics.contains("# TYPE web_requests_total counter"), "{metrics}");
    Ok(())
}

/// The head of the answer about `name`.
fn ask(machine: &Machine, name: &str, more: &[&str]) -> Result<String> {
    let url = format!("http://127.0.0.1:{}/{name}", machine.port("web")?);
    let output = if more.contains(&"--output") || more.contains(&"--head") {
        &[][..]
    } else {
        &["--output", "/dev/null"][..]
    };
    let heads = paths::out().join("fetched.head");
    let mut command = cmd::program("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--dump-header"]).arg(&heads);
    cmd::run(command.args(output).args(more).arg(&url))?;
    Ok(String::from_utf8(cmd::read(&heads)?)?)
}

/// Connections of [`crowd`].
const CROWD: usize = 64;

/// 64 connections at once for half a minute: none is refused, broken, left without an answer for 30 s or
/// answered by a mistake. How soon they are answered is the host's affair.
///
/// Each is opened by a `wrk` of its own, a moment after the one before: QEMU's user network listens with a backlog of
/// 1, and when all come in the same moment the host's kernel drops what doesn't fit, later and later again.
fn crowd(machine: &Machine) -> Result<()> {
    let url = format!("http://127.0.0.1:{}/generated/4097.bin", machine.port("web")?);
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let mut wrk = cmd::program("wrk");
        wrk.args(["-t1", "-c1", "-d30s", "--timeout", "30s", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        clients.push(wrk.spawn().context("cannot run wrk")?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut requests = 0;
    for client in clients {
        let output = client.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let count =
            said.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse::<u64>().ok());
        // wrk prints "Socket errors" when one of its counts (connect, read, write, timeout) is not zero.
        ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        requests += count.filter(|count| *count > 0).with_context(|| format!("no answer: {said}"))?;
    }
    println!("{CROWD} connections: {requests} requests in 30 s");
    Ok(())
}
