//! The user's terminal while QEMU has it.
//!
//! QEMU makes the terminal raw, so that every key (Ctrl-C too) goes to the guest, and puts it back when
//! it ends by itself. When it is killed, or this program fails, nobody else does: so its state is kept
//! here and put back whatever happens. Only SIGKILL leaves no chance; then `stty sane` does it.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::panic;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Puts the terminal's state back when dropped, and before a panic's message.
pub struct Terminal {
    state: State,
}

/// What QEMU changes, of standard input and output; nothing of what is no terminal.
#[derive(Clone)]
struct State {
    modes: Option<Termios>,
    input: Option<OFlags>,
    output: Option<OFlags>,
}

impl Terminal {
    /// Remembers the terminal's state.
    pub fn keep() -> Self {
        let flags = |fd: &dyn AsFd| fcntl_getfl(fd.as_fd()).ok();
        let state =
            State { modes: tcgetattr(stdin()).ok(), input: flags(&stdin()), output: flags(&stdout()) };
        // a panic aborts: nothing is dropped
        let (kept, before) = (state.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            kept.put_back();
            before(info);
        }));
        Self { state }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.state.put_back();
    }
}

impl State {
    /// What can't be put back belongs to a terminal that is gone.
    fn put_back(&self) {
        if let Some(modes) = &self.modes {
            let _ = tcsetattr(stdin(), OptionalActions::Drain, modes);
        }
        if let Some(flags) = self.input {
            let _ = fcntl_setfl(stdin(), flags);
        }
        if let Some(flags) = self.output {
            let _ = fcntl_setfl(stdout(), flags);
        }
    }
}

/// Shows `line` above the line in which the cursor is, so that one who types there is not disturbed;
/// where there is no terminal, as a line of its own.
pub fn show_above(line: &str) {
    let plain = !stderr().is_terminal() || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let text = if plain { format!("  {line}\n") } else { above(line) };
    // in one piece: QEMU writes to the same terminal
    let _ = stderr().write_all(text.as_bytes());
}

/// Goes one line down and back, which scrolls at the lower edge; keeps the place, makes room by a new
/// line (`CSI L`), fills it, and returns to the place, which is one line further down now.
fn above(line: &str) -> String {
    format!("\x1bD\x1b[A\x1b7\r\x1b[L  {line}\x1b8\x1b[B")
}
