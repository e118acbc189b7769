//! The key-value store: its commands, and that what it has acknowledged outlives any end.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::services::forwards;
use super::shell::PROMPT;
use crate::machine::{Machine, Options, PATIENCE};
use crate::test::lab::Lab;
use crate::test::{kit, medium};
use crate::{cmd, paths};

/// `redis-cli` and `redis-benchmark` get the answers that they expect.
pub fn commands(lab: &mut Lab) -> Result<()> {
    let mut options = Options::direct(kit::built()?);
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["kv"])?;
    let machine = lab.boot(&options)?;
    wait_until_it_answers(&machine)?;
    for (command, expected) in [
        ("SET greeting hello", "OK"),
        ("APPEND greeting !", "6"),
        ("GET greeting", "hello!"),
        ("STRLEN greeting", "6"),
        ("INCRBY count 41", "41"),
        ("INCR count", "42"),
        ("EXISTS greeting count nothing", "2"),
        ("EXPIRE count 1000", "1"),
        ("PERSIST count", "1"),
        ("TTL count", "-1"),
        ("RENAME greeting word", "OK"),
        ("DEL word nothing", "1"),
        ("DBSIZE", "1"),
    ] {
        let said = cli(&machine, command)?;
        ensure!(said == expected, "{command}: {said:?}");
    }
    let port = machine.port("kv")?.to_string();
    let mut benchmark = cmd::program("redis-benchmark");
    benchmark.args(["-p", &port, "-n", "2000", "-c", "20", "-P", "16", "-q", "-t", "set,get,incr"]);
    let said = cmd::output(&mut benchmark)?;
    ensure!(said.matches("requests per second").count() >= 3 && !said.contains("rror"), "{said}");
    let said = cli(&machine, "GET counter:__rand_int__")?;
    ensure!(said == "2000", "2000 times INCR gave {said}");
    Ok(())
}

/// The machine loses its power in the middle of writes, at several moments of one run: from what each has
/// left on the disk's medium the machine starts again.
pub fn survives_power_cut(lab: &mut Lab) -> Result<()> {
    const MOMENTS: [usize; 5] = [1, 100, 250, 400, 500];
    let (disk, log) = (own_image("test-kv-power.img")?, paths::out().join("test-kv-power.log"));
    cmd::write(&log, &[])?;
    let mut options = Options::direct(kit::built()?);
    options.disk = Some(&disk);
    options.disk_is_scratch = false;
    options.disk_log = Some(&log);
    options.forwards = forwards(&["kv"])?;
    let machine = lab.boot(&options)?;
    wait_until_it_answers(&machine)?;
    let writer = Writer::start(machine.port("kv")?)?;
    let mut moments = Vec::new();
    for count in MOMENTS {
        writer.wait_for(count)?;
        let acknowledged = writer.acknowledged();
        // What was acknowledged before now is in what the log has by now.
        moments.push((acknowledged, std::fs::metadata(&log)?.len()));
    }
    drop(machine); // SIGKILL
    writer.end()?;

    let medium = paths::out().join("test-kv-medium.img");
    for (seed, &(acknowledged, length)) in moments.iter().enumerate() {
        // Anywhere up to the next moment, where the writes of a commit are under way more often than not.
        let next = moments.get(seed + 1).map_or(length, |&(_, next)| next);
        let length = (length + next) / 2;
        let cut = medium::after_cut(kit::image()?, &log, length, seed as u64, &medium)?;
        println!("the power fails after {acknowledged} acknowledgements: {cut:?}");
        options.disk = Some(&medium);
        options.disk_log = None;
        options.forwards = forwards(&["kv"])?;
        let machine = lab.boot(&options)?;
        wait_until_it_answers(&machine)?;
        all_there(&machine, acknowledged)?;
    }
    for file in [disk, log, medium] {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

/// A machine whose only guest, `kv`, answers.
pub fn serving(lab: &mut Lab) -> Result<Machine> {
    let mut options = Options::direct(kit::with_test_files()?);
    options.disk = Some(kit::image()?);
    options.forwards = forwards(&["kv"])?;
    let mut machine = lab.boot(&options)?;
    machine.wait_for_prompt(PROMPT)?;
    machine.type_line("xl create /etc/xen/kv.cfg")?;
    machine.wait_for_prompt(PROMPT)?;
    wait_until_it_answers(&machine)?;
    Ok(machine)
}

/// The guest is destroyed in the middle of writes and created again.
pub fn survives_destroy(lab: &mut Lab) -> Result<()> {
    let mut machine = serving(lab)?;
    let writer = Writer::start(machine.port("kv")?)?;
    writer.wait_for(500)?;
    machine.type_line("xl destroy kv")?;
    machine.wait_for_prompt(PROMPT)?;
    let acknowledged = writer.end()?;
    machine.type_line("xl create /etc/xen/kv.cfg")?;
    wait_until_it_answers(&machine)?;
    all_there(&machine, acknowledged)
}

/// A copy of the image, to be written to.
fn own_image(name: &str) -> Result<PathBuf> {
    let image = paths::out().join(name);
    std::fs::copy(kit::image()?, &image)?;
    Ok(image)
}

pub(super) fn cli(machine: &Machine, command: &str) -> Result<String> {
    let mut cli = cmd::program("redis-cli");
    cli.args(["-p", &machine.port("kv")?.to_string()]).args(command.split(' '));
    Ok(cmd::output(cmd::program("timeout").arg("20").arg(cli.get_program()).args(cli.get_args()))?
        .trim()
        .into())
}

pub(super) fn wait_until_it_answers(machine: &Machine) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !cli(machine, "PING").is_ok_and(|said| said == "PONG") {
        ensure!(Instant::now() < until, "kv is silent");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The value that the key `index` gets.
pub(super) fn value(index: usize) -> String {
    format!("{index:0>100}")
}

/// Writes key after key, sixteen at a time, until the other side is gone or it is told to end.
pub(super) struct Writer {
    acknowledged: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let (acknowledged, gone) = (Arc::default(), Arc::default());
        let (count, end) = (Arc::clone(&acknowledged), Arc::clone(&gone));
        let thread = std::thread::spawn(move || write_until(stream, &count, &end));
        Ok(Self { acknowledged, gone, thread })
    }

    /// Waits until at least `count` writes are acknowledged.
    pub(super) fn wait_for(&self, count: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.acknowledged() < count {
            ensure!(Instant::now() < until && !self.thread.is_finished(), "kv stops taking writes");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// How many writes were acknowledged so far.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends; how many writes were acknowledged.
    pub(super) fn end(self) -> Result<usize> {
        self.gone.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer died")?;
        Ok(self.acknowledged.load(Ordering::Relaxed))
    }
}

fn write_until(mut stream: TcpStream, acknowledged: &AtomicUsize, gone: &AtomicBool) {
    const BATCH: usize = 16;
    let Ok(reading) = stream.try_clone() else { return };
    let mut reading = BufReader::new(reading);
    for batch in 0.. {
        if gone.load(Ordering::Relaxed) {
            return;
        }
        let set = |n: usize| format!("SET key:{n} {}\r\n", value(n));
        let text: String = (batch * BATCH..(batch + 1) * BATCH).map(set).collect();
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
        for _ in 0..BATCH {
            let mut line = String::new();
            while let Err(error) = reading.read_line(&mut line) {
                let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                if !waits || gone.load(Ordering::Relaxed) {
                    return;
                }
            }
            if line != "+OK\r\n" {
                return;
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Each of the `acknowledged` first keys has its value.
pub(super) fn all_there(machine: &Machine, acknowledged: usize) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, machine.port("kv")?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reading = BufReader::new(stream.try_clone()?).lines();
    for index in 0..acknowledged {
        stream.write_all(format!("GET key:{index}\r\n").as_bytes())?;
        let length = reading.next().context("kv closed the connection")??;
        ensure!(length == "$100", "key:{index} of {acknowledged} acknowledged ones: {length:?}");
        let found = reading.next().context("kv closed the connection")??;
        ensure!(found == value(index), "key:{index} is {found:?}");
    }
    println!("{acknowledged} acknowledged writes are there");
    Ok(())
}
