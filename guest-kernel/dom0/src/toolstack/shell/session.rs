//! The shell on dom0's console: keys to the line editor, lines to the commands, and the attached console.

use super::Shell;
use super::editor::{Editor, Event};
use crate::consoled::Consoles;
use crate::toolstack::hypervisor::Hypervisor;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::pin;
use guest_kernel::console;
use guest_kernel::executor::{Either, Notify, select};
use shared_abi::DomId;

/// Lines from elsewhere in dom0 that are to be shown without spoiling the line being edited.
#[derive(Default)]
pub struct Notices {
    lines: RefCell<VecDeque<String>>,
    arrived: Notify,
}

impl Notices {
    /// Shows a line as soon as the shell can.
    pub fn show(&self, line: impl Into<String>) {
        self.lines.borrow_mut().push_back(line.into());
        self.arrived.notify();
    }

    async fn next(&self) -> String {
        loop {
            let line = self.lines.borrow_mut().pop_front();
            match line {
                Some(line) => return line,
                None => self.arrived.wait().await,
            }
        }
    }
}

/// Ctrl-], which leaves an attached console.
const DETACH: u8 = 0x1d;
/// Ctrl-C, which gives up a command that takes its time.
const INTERRUPT: u8 = 3;

/// The keys that were pressed and not yet used: a pasted text goes on after the command in it.
#[derive(Default)]
struct Keyboard {
    ahead: VecDeque<u8>,
}

impl Keyboard {
    /// Waits for a key, and takes all that are there. Dropped before, it has taken none.
    async fn wait(&mut self) {
        let mut keys = [0; 64];
        let count = console::read(&mut keys).await;
        self.ahead.extend(&keys[..count]);
    }

    /// Drops the keys up to the first `last`, and that one too; true if it was among them.
    fn drop_until(&mut self, last: u8) -> bool {
        let at = self.ahead.iter().position(|key| *key == last);
        self.ahead.drain(..at.map_or(0, |at| at + 1));
        at.is_some()
    }

    /// The keys before the first `last`.
    fn before(&mut self, last: u8) -> &[u8] {
        let keys = self.ahead.make_contiguous();
        keys.split(|key| *key == last).next().unwrap_or_default()
    }
}

/// Serves the console: runs for good.
pub async fn run<H: Hypervisor>(shell: &Shell<H>, consoles: &Consoles, notices: &Notices) {
    let mut editor = Editor::new("oxen# ");
    let mut keyboard = Keyboard::default();
    let mut out = Vec::new();
    editor.show(&mut out);
    loop {
        console::write(&core::mem::take(&mut out));
        if let Either::Right(line) = select(keyboard.wait(), notices.next()).await {
            out.extend(b"\r\x1b[K");
            out.extend(line.as_bytes());
            out.extend(b"\r\n");
            editor.show(&mut out);
        }
        while let Some(key) = keyboard.ahead.pop_front() {
            match editor.feed(key, &mut out) {
                Some(Event::Line(line)) => {
                    console::write(&core::mem::take(&mut out));
                    command(shell, &line, consoles, &mut keyboard).await;
                    editor.show(&mut out);
                }
                Some(Event::Complete(line)) => editor.complete(&shell.candidates(&line), &mut out),
                None => {}
            }
        }
    }
}

/// Runs a line. Ctrl-C leaves a command that waits; what it has begun stays begun.
async fn command<H: Hypervisor>(shell: &Shell<H>, line: &str, consoles: &Consoles, keyboard: &mut Keyboard) {
    let mut running = pin!(shell.run(line));
    let (_, text, attach) = loop {
        match select(running.as_mut(), keyboard.wait()).await {
            Either::Left(answer) => break answer,
            Either::Right(()) if keyboard.ahead.contains(&INTERRUPT) => {
                keyboard.drop_until(INTERRUPT);
                return console::write(b"^C\n");
            }
            Either::Right(()) => {}
        }
    };
    console::write(text.as_bytes());
    if let Some(domain) = attach {
        attached(consoles, domain, keyboard).await;
    }
}

/// Shows a domain's console and passes keys on, until Ctrl-] or the domain's end. Keys wait for a domain that takes
/// them slowly; Ctrl-] does not wait for one that takes none.
async fn attached(consoles: &Consoles, domain: DomId, keyboard: &mut Keyboard) {
    let Some(guest) = consoles.get(domain) else {
        return console::write(b"this domain has no console here\n");
    };
    console::write(b"Ctrl-] leaves the console.\n");
    let mut position = 0;
    loop {
        let typed = guest.type_bytes(keyboard.before(DETACH));
        keyboard.ahead.drain(..typed);
        if keyboard.drop_until(DETACH) {
            return console::write(b"\n");
        }
        let waiting = !keyboard.ahead.is_empty();
        let room = async {
            match waiting {
                true => guest.room().await,
                false => core::future::pending().await,
            }
        };
        match select(guest.output(position), select(keyboard.wait(), room)).await {
            Either::Left(Some((bytes, next))) => {
                console::write(&bytes);
                position = next;
            }
            Either::Left(None) => return console::write(b"\nThe domain has ended.\n"),
            Either::Right(_) => {}
        }
    }
}
