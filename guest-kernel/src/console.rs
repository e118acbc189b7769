//! The console: text out from anywhere, bytes and lines in for tasks, and the `log` crate's sink.
//!
//! A domU has a ring to xenconsoled, the initial domain the hypervisor's own console. Output
//! never waits: what the ring has no room for goes to a bounded backlog that a task empties, and
//! past that it is dropped and the loss is told. A slow or hostile reader costs us 16 KiB.

use crate::Local;
use crate::events::EventChannel;
use crate::executor::Notify;
use crate::time::Instant;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::mem::offset_of;
use guest_machine::start::Ring;
use guest_machine::{emergency, hypercall};
use shared_abi::io::console::{IN_SIZE, XenconsInterface};
use shared_abi::io::ring::bytes;
use shared_abi::xen::VIRQ_CONSOLE;

/// Bytes of output that may wait for room in the ring.
const BACKLOG: usize = 16 << 10;
/// Bytes of input that may wait for a reader.
const INPUT: usize = 4 << 10;

struct Console {
    ring: Option<Ring>,
    channel: Option<Rc<EventChannel>>,
    backlog: VecDeque<u8>,
    /// Bytes dropped since the backlog was last empty.
    lost: usize,
    input: VecDeque<u8>,
    arrived: Rc<Notify>,
}

static CONSOLE: Local<Console> = Local::new(|| Console {
    ring: None,
    channel: None,
    backlog: VecDeque::new(),
    lost: 0,
    input: VecDeque::new(),
    arrived: Rc::default(),
});

/// Writes bytes to the console, without waiting.
pub fn write(text: &[u8]) {
    CONSOLE.with(|c| c.write(text));
}

impl Console {
    fn write(&mut self, text: &[u8]) {
        let Some(ring) = self.ring else {
            let _ = hypercall::console_write(text);
            return;
        };
        let now = if self.backlog.is_empty() { emergency::ring_write(ring.page, text) } else { 0 };
        let room = BACKLOG - self.backlog.len();
        let later = &text[now..];
        self.lost += later.len().saturating_sub(room);
        self.backlog.extend(&later[..later.len().min(room)]);
        self.notify();
    }

    fn notify(&self) {
        if let Some(channel) = &self.channel {
            channel.notify();
        }
    }

    /// Moves the backlog on into the ring, and what came in to the input.
    fn service(&mut self) {
        let Some(ring) = self.ring else {
            let mut chunk = [0; 128];
            loop {
                let room = chunk.len().min(self.room());
                match hypercall::console_read(&mut chunk[..room]) {
                    Ok(count @ 1..) if room > 0 => self.take_input(&chunk[..count]),
                    _ => return,
                }
            }
        };
        let written = emergency::ring_write(ring.page, self.backlog.make_contiguous());
        self.backlog.drain(..written);
        if self.backlog.is_empty() && self.lost > 0 {
            let mut note = String::new();
            let _ = writeln!(note, "[{} bytes of output lost]", core::mem::take(&mut self.lost));
            self.backlog.extend(note.as_bytes());
        }
        let read = self.read_ring(ring);
        if read > 0 || written > 0 {
            self.notify();
        }
    }

    fn read_ring(&mut self, ring: Ring) -> usize {
        let (prod_at, cons_at) =
            (offset_of!(XenconsInterface, in_prod), offset_of!(XenconsInterface, in_cons));
        let cons = ring.page.load_u32(cons_at);
        let used = bytes::used(ring.page.load_u32(prod_at), cons, IN_SIZE as u32).unwrap_or(0);
        let used = used.min(self.room() as u32);
        let (start, first, second) = bytes::split(cons, used, IN_SIZE as u32);
        let mut chunk = [0; IN_SIZE];
        let at = offset_of!(XenconsInterface, r#in);
        ring.page.read_bytes(at + start, &mut chunk[..first]);
        ring.page.read_bytes(at, &mut chunk[first..first + second]);
        ring.page.store_u32(cons_at, cons.wrapping_add(used));
        self.take_input(&chunk[..used as usize]);
        used as usize
    }

    /// How much input there is room for. What comes above that is left where it is until a reader has taken some.
    fn room(&self) -> usize {
        INPUT - self.input.len()
    }

    fn take_input(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.arrived.notify();
    }
}

/// Connects the console and serves it: runs for good, as a task.
pub(crate) fn start(ring: Option<Ring>) {
    let channel = match ring {
        Some(ring) => Ok(EventChannel::adopt(ring.port)),
        None => EventChannel::bind_virq(VIRQ_CONSOLE),
    };
    // Without input the console still prints.
    let Ok(channel) = channel else { return };
    let channel = Rc::new(channel);
    CONSOLE.with(|c| (c.ring, c.channel) = (ring, Some(channel.clone())));
    crate::executor::spawn(async move {
        loop {
            CONSOLE.with(Console::service);
            channel.wait().await;
        }
    });
}

/// Writes what still waits for room, as far as a bounded wait allows: before the domain ends.
pub(crate) fn flush() {
    let rest = CONSOLE.with(|c| core::mem::take(&mut c.backlog));
    if let Ok(text) = core::str::from_utf8(Vec::from(rest).as_slice()) {
        emergency::print(format_args!("{text}"));
    }
}

/// Reads bytes as they come, at least one.
pub async fn read(buffer: &mut [u8]) -> usize {
    let arrived = CONSOLE.with(|c| c.arrived.clone());
    loop {
        let count = CONSOLE.with(|c| {
            let was_full = c.room() == 0;
            let count = buffer.len().min(c.input.len());
            for (to, from) in buffer.iter_mut().zip(c.input.drain(..count)) {
                *to = from;
            }
            if was_full {
                c.service();
            }
            count
        });
        if count > 0 || buffer.is_empty() {
            return count;
        }
        arrived.wait().await;
    }
}

/// Reads a line, without its end. Input that is not UTF-8 is replaced; nothing is echoed.
pub async fn read_line() -> String {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        read(&mut byte).await;
        match byte[0] {
            b'\r' | b'\n' => return String::from_utf8_lossy(&line).into_owned(),
            byte if line.len() < INPUT => line.push(byte),
            _ => {}
        }
    }
}

/// Collects formatted text so that it goes out in few pieces.
struct Buffer {
    text: [u8; 256],
    used: usize,
}

impl Buffer {
    fn flush(&mut self) {
        write(&self.text[..core::mem::take(&mut self.used)]);
    }
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(self.text.len()) {
            if part.len() > self.text.len() - self.used {
                self.flush();
            }
            self.text[self.used..][..part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        Ok(())
    }
}

/// What [`crate::print!`] calls.
#[doc(hidden)]
pub fn print(args: fmt::Arguments) {
    let mut buffer = Buffer { text: [0; 256], used: 0 };
    let _ = buffer.write_fmt(args);
    buffer.flush();
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            let micros = Instant::now().as_nanos() / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            let (level, target) = (record.level(), record.target());
            print(format_args!("[{seconds:5}.{micros:06} {level:5} {target}] {}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Makes the `log` crate's macros print here, from `level` (a word such as `debug`) up.
pub(crate) fn start_log(level: Option<&str>) {
    let level = level.and_then(|word| word.parse().ok()).unwrap_or(log::LevelFilter::Info);
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor;
    use crate::memory::Pages;
    use shared_abi::Port;
    use shared_abi::io::console::OUT_SIZE;

    fn word(field: usize, page: &Pages) -> u32 {
        page.load_u32(field)
    }

    /// What xenconsoled does: takes all output.
    fn drain(page: &Pages) -> Vec<u8> {
        let (prod, cons) = (
            word(offset_of!(XenconsInterface, out_prod), page),
            word(offset_of!(XenconsInterface, out_cons), page),
        );
        let used = bytes::used(prod, cons, OUT_SIZE as u32).unwrap();
        let (start, first, second) = bytes::split(cons, used, OUT_SIZE as u32);
        let mut text = alloc::vec![0; first + second];
        let at = offset_of!(XenconsInterface, out);
        page.read_bytes(at + start, &mut text[..first]);
        page.read_bytes(at, &mut text[first..]);
        page.store_u32(offset_of!(XenconsInterface, out_cons), prod);
        text
    }

    #[test]
    fn output_waits_for_room_keeps_its_order_and_tells_what_it_lost() {
        let page: &'static Pages = alloc::boxed::Box::leak(alloc::boxed::Box::new(Pages::new(1).unwrap()));
        executor::block_on(async move {
            start(Some(Ring { page, port: Port(3) }));
            executor::yield_now().await;
            let sent: Vec<u8> = (0..30_000u32).flat_map(|n| n.to_be_bytes()).collect();
            for part in sent[..OUT_SIZE + BACKLOG + 100].chunks(97) {
                write(part);
            }
            let mut got = Vec::new();
            while got.len() < OUT_SIZE + BACKLOG + 27 {
                got.extend(drain(page));
                guest_machine::shared_info::raise(Port(3));
                executor::yield_now().await;
                executor::sleep(core::time::Duration::from_millis(1)).await;
            }
            assert_eq!(got[..OUT_SIZE + BACKLOG], sent[..OUT_SIZE + BACKLOG]);
            assert_eq!(&got[OUT_SIZE + BACKLOG..], b"[100 bytes of output lost]\n");
        });
    }

    #[test]
    fn a_line_comes_in_whole_and_a_wild_index_is_ignored() {
        let page: &'static Pages = alloc::boxed::Box::leak(alloc::boxed::Box::new(Pages::new(1).unwrap()));
        executor::block_on(async move {
            start(Some(Ring { page, port: Port(4) }));
            page.store_u32(offset_of!(XenconsInterface, in_prod), 77_777);
            guest_machine::shared_info::raise(Port(4));
            let line = executor::spawn(read_line());
            executor::sleep(core::time::Duration::from_millis(1)).await;
            assert!(!line.is_finished());
            page.write_bytes(0, b"xl list\rmore");
            page.store_u32(offset_of!(XenconsInterface, in_prod), 12);
            guest_machine::shared_info::raise(Port(4));
            assert_eq!(line.await.as_deref(), Some("xl list"));
        });
    }
}
