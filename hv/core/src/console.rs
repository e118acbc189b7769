//! The machine's console: the serial line, the screen until the control domain takes it over, the log ring behind
//! `xl dmesg`, and the control domain's input and output through it.
//!
//! What the hypervisor prints is shown and goes into the ring; what the control domain does is only shown, or
//! a reader of the ring who prints it there would never come to its end. Guests' complaints are rate-limited so that no
//! guest can hold a CPU at the speed of a serial line or push the log's history out.

use crate::console_switch::{Switch, Typed};
use crate::log_levels::{Levels, Limit};
use crate::screen::Screen;
use alloc::boxed::Box;
use alloc::vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use hv_machine::boot;
use hv_machine::lock::{Mutex, rank};
use hv_machine::x86_64::{clock, screen, uart};
use log::LevelFilter;

/// Bytes of log kept.
const RING: usize = 32 << 10;
/// Bytes of input kept for the control domain.
const INPUT: usize = 512;
/// Keys kept that the hypervisor has not obeyed yet.
const KEYS: usize = 16;

struct Console {
    ring: Option<Box<[u8]>>,
    screen: Option<Screen<screen::Memory>>,
    /// Bytes ever written.
    written: u64,
    /// Bytes before this were cleared by a reader.
    cleared: u64,
    switch: Switch,
    input: heapless::Deque<u8, INPUT>,
    keys: heapless::Deque<Key, KEYS>,
}

/// What the hypervisor is to do for who sits at the console.
#[derive(Clone, Copy)]
pub enum Key {
    /// Obey a key.
    Press(u8),
    /// Say who listens now.
    Switched {
        /// Whether the hypervisor does.
        own: bool,
    },
}

static CONSOLE: Mutex<Console> = Mutex::new(
    rank::LOG,
    Console {
        ring: None,
        screen: None,
        written: 0,
        cleared: 0,
        switch: Switch::new(None),
        input: heapless::Deque::new(),
        keys: heapless::Deque::new(),
    },
);
/// Whether the hypervisor's console is on the serial line (`console=com1`).
static SERIAL: AtomicBool = AtomicBool::new(true);

impl Console {
    /// Takes input from the serial line as long as there is room; says whether there was any. The rest stays in the
    /// UART, where it holds the sender up, until the control domain has read. It interrupts but once, so the
    /// queue's end is not the end of a read.
    fn take_input(&mut self) -> bool {
        let before = self.input.len();
        while !self.input.is_full()
            && let Some(b) = uart::read()
        {
            // Input has room; of more keys than fit the last are left out.
            let _ = match self.switch.typed(b) {
                Typed::Input => self.input.push_back(b).is_ok(),
                Typed::Key => self.keys.push_back(Key::Press(b)).is_ok(),
                Typed::Switched { own } => self.keys.push_back(Key::Switched { own }).is_ok(),
            };
        }
        self.input.len() > before
    }

    fn print(&mut self, bytes: &[u8]) {
        if SERIAL.load(Relaxed) {
            uart::write(bytes);
        }
        if let Some(screen) = &mut self.screen {
            screen.print(bytes);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.print(bytes);
        if let Some(ring) = &mut self.ring {
            for &b in bytes {
                ring[(self.written % RING as u64) as usize] = b;
                self.written += 1;
            }
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.put(s.as_bytes());
        Ok(())
    }
}

struct Logger;
impl log::Log for Logger {
    fn enabled(&self, m: &log::Metadata<'_>) -> bool {
        m.level() <= log::max_level()
    }
    fn log(&self, r: &log::Record<'_>) {
        if self.enabled(r.metadata()) {
            line(*r.args());
        }
    }
    fn flush(&self) {}
}

fn line(args: fmt::Arguments<'_>) {
    let now = clock::now();
    let (s, us) = (now / 1_000_000_000, now / 1000 % 1_000_000);
    let _ = writeln!(CONSOLE.lock(), "(oxen) [{s:5}.{us:06}] {args}");
}

/// Starts logging to the serial line (before there is a heap), of the hypervisor and of guests.
pub fn init(own: Levels, guests: Levels) {
    let _ = log::set_logger(&Logger);
    // What the hypervisor says of itself nobody can make it repeat.
    log::set_max_level(own.limited);
    GUESTS_ALWAYS.store(guests.always as usize, Relaxed);
    GUESTS_LIMITED.store(guests.limited as usize, Relaxed);
}

static GUESTS_ALWAYS: AtomicUsize = AtomicUsize::new(LevelFilter::Off as usize);
static GUESTS_LIMITED: AtomicUsize = AtomicUsize::new(LevelFilter::Warn as usize);
/// The guests' common limit.
static GUESTS_LIMIT: Limit = Limit::new();

/// Logs something that a guest caused (`guest_loglvl=`).
pub fn guest_line(level: log::Level, args: fmt::Arguments<'_>) {
    let level = level as usize;
    if level <= GUESTS_ALWAYS.load(Relaxed)
        || level <= GUESTS_LIMITED.load(Relaxed) && GUESTS_LIMIT.allow(clock::now())
    {
        line(args);
    }
}

/// Starts keeping the log, once there is a heap.
pub fn init_ring() {
    CONSOLE.lock().ring = Some(vec![0; RING].into_boxed_slice());
}

/// Turns output on the serial line on or off.
pub fn set_serial(on: bool) {
    SERIAL.store(on, Relaxed);
}

/// Shows on a screen what is printed from now on; no more where it is `None`. Whether it is one that can be used.
pub fn set_screen(of: Option<&boot::Screen>) -> bool {
    let screen = of.and_then(|of| Screen::new(of, screen::map(of)?));
    let usable = screen.is_some();
    let before = core::mem::replace(&mut CONSOLE.lock().screen, screen);
    drop(before);
    usable
}

/// Output of a domain, as it is.
pub fn write(bytes: &[u8]) {
    CONSOLE.lock().print(bytes);
}

/// Last words: goes to the line without waiting for a lock that may never come free, and to the screen if it is.
pub fn panic_write(args: fmt::Arguments<'_>) {
    struct Raw;
    impl Write for Raw {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            uart::write(s.as_bytes());
            if let Some(Console { screen: Some(screen), .. }) = CONSOLE.try_lock().as_deref_mut() {
                screen.print(s.as_bytes());
            }
            Ok(())
        }
    }
    let _ = writeln!(Raw, "\n(oxen) {args}");
}

/// Sets who gets what is typed (`conswitch=`).
pub fn set_switch(switch: Switch) {
    CONSOLE.lock().switch = switch;
}

/// The first key that the hypervisor has not obeyed yet.
pub fn next_key() -> Option<Key> {
    CONSOLE.lock().keys.pop_front()
}

/// Moves what came on the serial line into the input queue; says whether anything did.
pub fn poll_input() -> bool {
    CONSOLE.lock().take_input()
}

/// Takes input for the control domain (`CONSOLEIO_read`).
pub fn read(into: &mut [u8]) -> usize {
    let mut c = CONSOLE.lock();
    let mut n = 0;
    while n < into.len() {
        match c.input.pop_front() {
            Some(b) => into[n] = b,
            None if c.take_input() => continue,
            None => break,
        }
        n += 1;
    }
    n
}

/// Copies the log from byte `from` of its history on (`XEN_SYSCTL_readconsole`'s incremental reads): the
/// bytes and the index after them. `None`: no memory for them, and nothing is cleared.
pub fn log_from(from: u64, max: usize, clear: bool) -> Option<(alloc::vec::Vec<u8>, u64)> {
    let mut c = CONSOLE.lock();
    let first = from.max(c.cleared).max(c.written.saturating_sub(RING as u64)).min(c.written);
    let n = (c.written - first).min(max as u64);
    let mut out = alloc::vec::Vec::new();
    out.try_reserve_exact(n as usize).ok()?;
    if let Some(ring) = &c.ring {
        out.extend((first..first + n).map(|i| ring[(i % RING as u64) as usize]));
    }
    if clear {
        c.cleared = c.written;
    }
    Some((out, first + n))
}
