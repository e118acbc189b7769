//! Disks that are full or damaged: the fault is told where it is seen, and everything else goes on.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::kv;
use super::services::{curl, fetch, forwards};
use super::shell::PROMPT;
use crate::machine::{Machine, Options, PATIENCE};
use crate::test::kit;
use crate::test::lab::Lab;
use crate::{cmd, paths};

/// Where the image's partition `bios` begins, and its size: GRUB's, which is not needed when QEMU boots by
/// itself, and the smallest volume there is.
const BIOS: (u64, u64) = (1 << 20, 1 << 20);
const SECTOR: u64 = 512;

/// `kv` on a volume of 1 MiB takes writes until its log is full, says so to the client, and answers on. What
/// it has acknowledged is there, then and after it was destroyed and started again.
pub fn volume_is_full(lab: &mut Lab) -> Result<()> {
    let image = image("test-full.img", |image| image.write_all_at(&vec![0; BIOS.1 as usize], BIOS.0))?;
    let mut machine = boot(lab, &image, &["hello", "kv"])?;
    create(&mut machine, "/etc/xen/hello.cfg")?;
    let small = "/etc/xen/kv.cfg 'disk=[\"phy:bios,xvda,w\"]'";
    create(&mut machine, small)?;
    kv::wait_until_it_answers(&machine)?;
    let (acknowledged, refusal) = fill(&machine)?;
    println!("after {acknowledged} writes: {refusal}");
    ensure!(refusal.starts_with("-ERR the volume is full: its log has room for "), "kv says {refusal:?}");
    ensure!(acknowledged > 1000, "1 MiB is full after {acknowledged} writes of 100 bytes");
    kv::all_there(&machine, acknowledged)?;
    curl(&machine, "hello", "/")?;
    // There is room again for what is taken away.
    ensure!(kv::cli(&machine, "DEL key:0")? == "1", "a key can't be deleted");
    ensure!(kv::cli(&machine, &format!("SET key:0 {}", kv::value(0)))? == "OK", "no room for a key deleted");
    machine.type_line("xl destroy kv")?;
    machine.wait_for_prompt(PROMPT)?;
    create(&mut machine, small)?;
    kv::wait_until_it_answers(&machine)?;
    kv::all_there(&machine, acknowledged)?;
    std::fs::remove_file(image)?;
    Ok(())
}

/// A disk's first partition table is damaged, then both: the copy serves, then nothing does but what needs no
/// disk. A file system and a log that are damaged are refused by the guests whose they are.
pub fn tables_are_damaged(lab: &mut Lab) -> Result<()> {
    let spoil = |image: &File, offset: u64| image.write_all_at(&[0x5a; 64], offset);
    let one = image("test-damaged.img", |image| spoil(image, 2 * SECTOR))?;
    let mut machine = boot(lab, &one, &["kv"])?;
    create(&mut machine, "/etc/xen/kv.cfg")?;
    kv::wait_until_it_answers(&machine)?;
    drop(machine);

    let both = image("test-damaged.img", |image| {
        spoil(image, 2 * SECTOR)?;
        spoil(image, image.metadata()?.len() - SECTOR)
    })?;
    let mut machine = boot(lab, &both, &["hello"])?;
    ensure!(machine.said().contains("partition table with a wrong checksum"), "dom0 says nothing of it");
    create(&mut machine, "/etc/xen/hello.cfg")?;
    fetch(&machine, "hello", "/")?;
    machine.type_line("xl create /etc/xen/kv.cfg")?;
    machine.wait_for("no such volume")?;
    curl(&machine, "hello", "/")?;
    drop(machine);

    // The volume `web` comes after `efi`; its superblock is its third sector.
    let tables = cmd::read(kit::image()?)?;
    let first = |entry: usize| {
        let at = 2 * SECTOR as usize + entry * 128 + 32;
        u64::from_le_bytes(std::array::from_fn(|n| tables[at + n])) * SECTOR
    };
    let (web, kv_volume) = (first(2), first(3));
    let volumes = image("test-damaged.img", |image| {
        spoil(image, web + 2 * SECTOR)?;
        spoil(image, kv_volume + 4096)?;
        spoil(image, kv_volume)
    })?;
    let mut machine = boot(lab, &volumes, &["hello"])?;
    create(&mut machine, "/etc/xen/hello.cfg")?;
    fetch(&machine, "hello", "/")?;
    for (name, complaint) in
        [("web", "web: no volume: "), ("kv", "kv: the volume holds other data; empty it to use it")]
    {
        machine.type_line(&format!("xl create -c /etc/xen/{name}.cfg"))?;
        machine.wait_for(complaint)?;
        machine.wait_for_prompt(PROMPT)?;
        curl(&machine, "hello", "/")?;
    }
    std::fs::remove_file(volumes)?;
    Ok(())
}

/// A copy of the image that `change` may spoil.
fn image(name: &str, change: impl FnOnce(&File) -> std::io::Result<()>) -> Result<PathBuf> {
    let path = paths::out().join(name);
    std::fs::copy(kit::image()?, &path)?;
    change(&File::options().write(true).open(&path)?)?;
    Ok(path)
}

fn boot(lab: &mut Lab, image: &Path, services: &[&str]) -> Result<Machine> {
    let mut options = Options::direct(kit::with_test_files()?);
    options.disk = Some(image);
    options.forwards = forwards(services)?;
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    Ok(machine)
}

fn create(machine: &mut Machine, config: &str) -> Result<()> {
    machine.type_line(&format!("xl create {config}"))?;
    machine.wait_for("Parsing config")?;
    machine.wait_for_prompt(PROMPT)
}

/// Writes key after key until that is refused; how many were acknowledged, and the refusal.
fn fill(machine: &Machine) -> Result<(usize, String)> {
    const BATCH: usize = 64;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, machine.port("kv")?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut acknowledged = 0;
    loop {
        let set = |n: usize| format!("SET key:{n} {}\r\n", kv::value(n));
        let batch: String = (acknowledged..acknowledged + BATCH).map(set).collect();
        stream.write_all(batch.as_bytes())?;
        let mut refusal = None;
        for _ in 0..BATCH {
            let answer = answers.next().context("kv closed the connection")??;
            match (answer.as_str(), &refusal) {
                ("+OK", None) => acknowledged += 1,
                (_, None) => refusal = Some(answer),
                _ => {}
            }
        }
        if let Some(refusal) = refusal {
            return Ok((acknowledged, refusal));
        }
        ensure!(acknowledged < 100_000, "1 MiB holds {acknowledged} values of 100 bytes");
    }
}
