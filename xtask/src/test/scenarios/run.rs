//! `cargo xtask run` itself, as a person has it: on a terminal, and twice with the same disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::services::forwards;
use super::shell::PROMPT;
use crate::machine::PATIENCE;
use crate::services::{self, Forward};
use crate::test::lab::Lab;
use crate::{cmd, paths};

/// The console on a terminal: keys reach the shell one by one, Ctrl-C among them; Ctrl-A X ends the
/// machine. The terminal is as it was afterwards, and also when QEMU is killed and cannot see to it.
pub fn on_a_terminal(_: &mut Lab) -> Result<()> {
    for end in [End::CtrlAX, End::QemuKilled] {
        let mut screen = Screen::start(run("run-terminal", &["--boot", "direct", "--accel", "tcg"])?)?;
        let before = tcgetattr(&screen.keyboard)?;
        screen.wait_for(PROMPT)?;
        let raw = tcgetattr(&screen.keyboard)?;
        ensure!(!raw.local_modes.intersects(LocalModes::ECHO | LocalModes::ISIG), "the terminal is not raw");
        // four times left and a letter: the shell's own line editing; then a line that is given up
        screen.press(b"xl domnme 0\x1b[D\x1b[D\x1b[D\x1b[Da\r")?;
        screen.wait_for("\nDomain-0")?;
        screen.wait_for(PROMPT)?;
        screen.press(b"xl destroy all\x03")?;
        screen.wait_for("^C")?;
        screen.wait_for(PROMPT)?;
        match end {
            End::CtrlAX => screen.press(b"\x01x")?,
            End::QemuKilled => kill_child_of(&screen.child)?,
        }
        let status = screen.child.wait()?;
        ensure!(status.success() == (end == End::CtrlAX), "the program ended with {status}");
        let after = tcgetattr(&screen.keyboard)?;
        ensure!(
            (before.local_modes, before.input_modes) == (after.local_modes, after.input_modes),
            "the terminal was {:?} and is left as {:?}",
            before.local_modes,
            after.local_modes
        );
    }
    Ok(())
}

/// Without `--keep` each run begins with an empty store; with it, what was stored is there again.
pub fn keeps_volumes(_: &mut Lab) -> Result<()> {
    for (arguments, found) in [(&[][..], "$-1"), (&["--keep"], "$4"), (&[], "$-1")] {
        store("run-keep", "kv", arguments, found)?;
    }
    Ok(())
}

/// A user's configuration in dom0's ramdisk starts a domain with a volume of the user's. With `--keep` that stays
/// although nobody names it, and grows when it is named larger.
pub fn adds_files_and_volumes(_: &mut Lab) -> Result<()> {
    let config = String::from_utf8(cmd::read(&paths::root().join("images/kv.cfg"))?)?;
    let config = config.replace("\"kv\"", "\"mine\"").replace("phy:kv", "phy:data");
    let file = paths::out().join("mine.cfg");
    cmd::write(&file, config.replace("10.0.2.21", "10.0.2.31").replace(":15,", ":31,").as_bytes())?;
    let config = format!("/etc/xen/auto/mine.cfg={}", file.display());
    for (arguments, found) in [
        (&["--volume", "data=16M"][..], "$-1"),
        (&["--keep"], "$4"),
        (&["--keep", "--volume", "data=32M"], "$4"),
        (&["--volume", "data=16M"], "$-1"),
    ] {
        store("run-files", "mine", &[&["--file", &config], arguments].concat(), found)?;
    }
    // a volume that is kept does not shrink
    let mut shrinks = run("run-files", &["--keep", "--volume", "data=8M"])?;
    let told = shrinks.stdout(Stdio::null()).output()?;
    let complaint = "the volume data to keep has 16 MiB, and does not fit into 8 MiB";
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.lines().last().is_some_and(|line| line.ends_with(complaint)), "{told}");
    Ok(())
}

/// Debian's Linux as a guest: the README's lines, typed as they stand there. By the forwarded port its ssh server
/// answers, what it wrote to its disk is there in the next run, and it ends when dom0 asks.
pub fn linux(_: &mut Lab) -> Result<()> {
    let readme = String::from_utf8(cmd::read(&paths::root().join("README.md"))?)?;
    let section = readme.split_once("\n## A Linux guest\n").context("the README's section")?.1;
    let mut lines = section.split("```").nth(1).context("its lines")?.trim().lines();
    let first = lines.next().and_then(|line| line.strip_prefix("cargo xtask run ")).context("the command")?;
    let port = forwards(&["web"])?[0].host_port;
    let mut command = run("run-linux", &first.split(' ').collect::<Vec<_>>())?;
    // the last one counts
    command.args(["--accel", "tcg", "--port", &format!("debian={port}")]);
    let mut screen = Screen::start(command)?;
    let mut typed = String::new();
    for line in lines {
        let at = line.find(['#', ':']).context("a prompt")? + 2;
        let (prompt, words) = line.split_at(at);
        typed += &screen.wait_at_most(BOOT, prompt)?;
        if words == "poweroff" {
            ensure!(ask(port, "")?.starts_with("SSH-2.0-"), "port {port} does not lead to the ssh server");
            paste(&mut screen)?;
            screen.press(b"echo 'it stays' >/root/kept\r")?;
            screen.wait_for(prompt)?;
        }
        screen.press(format!("{words}\r").as_bytes())?;
    }
    for seen in ["3 packets received", "\"requests\"", "/dev/xvda", "The domain has ended."] {
        ensure!(typed.contains(seen), "{seen} is not among {typed}");
    }
    // it is taken apart a moment after its end
    let until = Instant::now() + PATIENCE;
    while {
        screen.wait_for("Domain-0 ")?;
        screen.wait_for(PROMPT)?.contains("debian ")
    } {
        ensure!(Instant::now() < until, "the domain stays in the list");
        screen.press(b"xl list\r")?;
    }
    drop(screen);

    let again = run("run-linux", &["--linux", "--keep", "--boot", "direct", "--accel", "tcg"])?;
    let mut screen = Screen::start(again)?;
    for (prompt, words) in
        [(PROMPT, "xl create -c debian.cfg"), ("debian login: ", "root"), ("debian# ", "cat /root/kept")]
    {
        screen.wait_at_most(BOOT, prompt)?;
        screen.press(format!("{words}\r").as_bytes())?;
    }
    screen.wait_for("\nit stays\n")?;
    screen.wait_for("debian# ")?;
    screen.press(b"\x1d")?; // Ctrl-]
    screen.wait_for(PROMPT)?;
    screen.press(b"xl shutdown -w debian\r")?;
    screen.wait_for("Waiting for 1 domains")?;
    screen.wait_for("\"debian\" has powered off").map(drop)
}

/// A text that is pasted at once into a domain's console, longer than anybody keeps of it on its way: all arrives.
fn paste(screen: &mut Screen) -> Result<()> {
    let text: String = (0..400).map(|n| format!("line {n} {}\r", "of a long text ".repeat(3))).collect();
    let file = paths::out().join("pasted");
    cmd::write(&file, text.replace('\r', "\n").as_bytes())?;
    let sum = cmd::output(Command::new("md5sum").arg(&file))?;
    screen.press(b"stty -echo; echo rea'dy'; cat >/tmp/pasted; stty echo; md5sum </tmp/pasted\r")?;
    screen.wait_for("ready\n")?;
    screen.press(text.as_bytes())?;
    screen.press(b"\x04")?;
    screen.wait_for(sum.split(' ').next().context("md5sum said nothing")?)?;
    screen.wait_for("debian# ").map(drop)
}

/// A run in which the key-value store `name` is asked for what was stored, which must be `found`, and stores it.
fn store(out: &str, name: &str, arguments: &[&str], found: &str) -> Result<()> {
    let port = forwards(&["kv"])?[0].host_port;
    let mut command = run(out, &["--headless", "--boot", "direct", "--accel", "tcg"])?;
    // the last one counts
    command.args(arguments).args(["--port", &format!("{name}={port}")]);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start this program")?;
    let answered = ask(port, "GET horn").and_then(|value| Ok((value, ask(port, "SET horn long")?)));
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = child.wait()?;
    let (value, stored) = answered?;
    ensure!(value == found, "with {arguments:?} GET gave {value}");
    ensure!(stored == "+OK" && status.success(), "SET gave {stored}, the run ended with {status}");
    Ok(())
}

/// How long Linux may take to boot, and all that is built and fetched before.
const BOOT: Duration = Duration::from_secs(400);

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    CtrlAX,
    QemuKilled,
}

/// This program's `run`, with results in a folder of its own and ports that nobody has.
fn run(out: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(paths::OUT, paths::out().join(out)).env("TERM", "dumb").arg("run").args(arguments);
    let auto: Vec<String> = services::all()?.into_iter().filter(|s| s.auto).map(|s| s.name).collect();
    let names: Vec<&str> = auto.iter().map(String::as_str).collect();
    for Forward { name, host_port, .. } in forwards(&names)? {
        command.args(["--port", &format!("{name}={host_port}")]);
    }
    Ok(command)
}

/// A terminal and the program on it.
struct Screen {
    child: Child,
    keyboard: File,
    shown: Receiver<Vec<u8>>,
    /// What was shown since what was last waited for.
    text: String,
}

impl Screen {
    fn start(mut command: Command) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = PathBuf::from(ptsname(&ours, Vec::new())?.into_string()?);
        let theirs = File::options().read(true).write(true).open(name)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        let child = command.spawn().context("cannot start this program")?;
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone()?;
        let (to_us, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // an error is the end: nobody has the terminal any more
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                let _ = to_us.send(bytes[..n].to_vec());
            }
        });
        Ok(Self { child, keyboard, shown, text: String::new() })
    }

    /// Waits until `text` is shown; what was until then.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_at_most(PATIENCE, text)
    }

    fn wait_at_most(&mut self, limit: Duration, text: &str) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            if let Some(at) = self.text.find(text) {
                return Ok(self.text.drain(..at + text.len()).collect());
            }
            match self.shown.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(more) => self.text += &String::from_utf8_lossy(&more).replace('\r', ""),
                Err(_) => bail!("the terminal does not show {text:?} but {:?}", self.text),
            }
        }
    }

    fn press(&mut self, keys: &[u8]) -> Result<()> {
        self.keyboard.write_all(keys).context("the terminal is gone")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // QEMU ends with the program that started it
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills the one child of `program`, QEMU.
fn kill_child_of(program: &Child) -> Result<()> {
    let file = format!("/proc/{0}/task/{0}/children", program.id());
    let children = std::fs::read_to_string(&file).context(file)?;
    let child = children.trim().parse().ok().and_then(Pid::from_raw).context("QEMU is not there")?;
    Ok(kill_process(child, Signal::KILL)?)
}

/// What `kv` at `port` answers to `command`, waiting until it answers at all; of a value its length.
fn ask(port: u16, command: &str) -> Result<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(format!("{command}\r\n").as_bytes())?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line.trim_end().to_string())
        };
        match answer() {
            Ok(line) if !line.is_empty() => return Ok(line),
            _ if Instant::now() > until => bail!("kv does not answer {command}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
