//! The shell on dom0's console: keys to the line editor, lines to the commands, and the attached console.

use super::Shell;
use super::editor::{Editor, Event};
use crate::consoled::Consoles;
use crate::toolstack::hypervisor::Hypervisor;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
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

/// Serves the console: runs for good.
pub async fn run<H: Hypervisor>(shell: &Shell<H>, consoles: &Consoles, notices: &Notices) {
    let mut editor = Editor::new("oxen# ");
    let mut keys = [0; 64];
    loop {
        show(&editor);
        loop {
            let count = match select(console::read(&mut keys), notices.next()).await {
                Either::Left(count) => count,
                Either::Right(line) => {
                    console::write(b"\r\x1b[K");
                    console::write(line.as_bytes());
                    console::write(b"\n");
                    show(&editor);
                    continue;
                }
            };
            let mut out = Vec::new();
            let mut prompt_again = false;
            for key in &keys[..count] {
                match editor.feed(*key, &mut out) {
                    Some(Event::Line(line)) => {
                        console::write(&core::mem::take(&mut out));
                        let (_, text, attach) = shell.run(&line).await;
                        console::write(text.as_bytes());
                        if let Some(domain) = attach {
                            attached(consoles, domain).await;
                        }
                        prompt_again = true;
                    }
                    Some(Event::Complete(line)) => editor.complete(&shell.candidates(&line), &mut out),
                    None => {}
                }
            }
            console::write(&out);
            if prompt_again {
                break;
            }
        }
    }
}

fn show(editor: &Editor) {
    let mut out = Vec::new();
    editor.show(&mut out);
    console::write(&out);
}

/// Shows a domain's console and passes keys on, until Ctrl-] or the domain's end.
async fn attached(consoles: &Consoles, domain: DomId) {
    let Some(guest) = consoles.get(domain) else {
        return console::write(b"this domain has no console here\n");
    };
    let mut position = 0;
    let mut keys = [0; 64];
    loop {
        match select(guest.output(position), console::read(&mut keys)).await {
            Either::Left(Some((bytes, next))) => {
                console::write(&bytes);
                position = next;
            }
            Either::Left(None) => return console::write(b"\n"),
            Either::Right(count) => {
                let end = keys[..count].iter().position(|key| *key == DETACH);
                guest.type_bytes(&keys[..end.unwrap_or(count)]);
                if end.is_some() {
                    return console::write(b"\n");
                }
            }
        }
    }
}
