//! consoled: reads the guests' consoles, keeps the last of each, and lets one look at them and type.
//!
//! A guest that prints without end costs a bounded share of dom0: what it may print per period is limited, and
//! it waits for room in its own ring meanwhile.

use crate::byte_ring::{Corrupt, Inward, Outward, Place};
use crate::toolstack::build::Built;
use crate::toolstack::manager::ConsoleHub;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::time::Duration;
use guest_kernel::events::EventChannel;
use guest_kernel::executor::{JoinHandle, Notify, select, sleep, spawn};
use guest_kernel::log::warn;
use guest_kernel::memory::Mapping;
use shared_abi::io::console::{IN_SIZE, OUT_SIZE, XenconsInterface};
use shared_abi::{DomId, Errno, Gfn, Mfn, Port};

/// Bytes kept of each console.
const KEPT: usize = 64 << 10;
/// Bytes a guest may print per [`PERIOD`].
const ALLOWANCE: usize = 32 << 10;
const PERIOD: Duration = Duration::from_millis(200);
/// Bytes typed that may wait for the guest.
const TYPED_MAX: usize = 4096;

const OUT: Place = Place {
    data: offset_of!(XenconsInterface, out),
    size: OUT_SIZE as u32,
    prod: offset_of!(XenconsInterface, out_prod),
    cons: offset_of!(XenconsInterface, out_cons),
};
const IN: Place = Place {
    data: offset_of!(XenconsInterface, r#in),
    size: IN_SIZE as u32,
    prod: offset_of!(XenconsInterface, in_prod),
    cons: offset_of!(XenconsInterface, in_cons),
};

/// The last bytes of a stream, and how many there were before them.
#[derive(Default)]
pub struct Backlog {
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl Backlog {
    /// Adds to the end; the oldest go.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }

    /// What there is from byte `position` of the stream on, and the position after it.
    pub fn since(&self, position: u64) -> (Vec<u8>, u64) {
        let skip = position.saturating_sub(self.dropped).min(self.bytes.len() as u64) as usize;
        (self.bytes.iter().skip(skip).copied().collect(), self.dropped + self.bytes.len() as u64)
    }
}

/// One guest's console.
#[derive(Default)]
pub struct Console {
    backlog: RefCell<Backlog>,
    typed: RefCell<VecDeque<u8>>,
    printed: Notify,
    wanted: Notify,
    taken: Notify,
    ended: Cell<bool>,
}

impl Console {
    /// Waits for output after `position`; the bytes and the position after them. `None` once the domain is
    /// gone and all has been read.
    pub async fn output(&self, position: u64) -> Option<(Vec<u8>, u64)> {
        loop {
            let (bytes, next) = self.backlog.borrow().since(position);
            if !bytes.is_empty() {
                return Some((bytes, next));
            }
            if self.ended.get() {
                return None;
            }
            self.printed.wait().await;
        }
    }

    /// Everything that is kept.
    pub fn kept(&self) -> Vec<u8> {
        self.backlog.borrow().since(0).0
    }

    /// Types as much of `bytes` as there is room for: how many of them.
    pub fn type_bytes(&self, bytes: &[u8]) -> usize {
        let mut typed = self.typed.borrow_mut();
        let count = bytes.len().min(TYPED_MAX - typed.len());
        typed.extend(&bytes[..count]);
        self.wanted.notify();
        count
    }

    /// Waits until there is room for what is typed.
    pub async fn room(&self) {
        while self.typed.borrow().len() == TYPED_MAX {
            self.taken.wait().await;
        }
    }
}

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    all: RefCell<BTreeMap<DomId, (Rc<Console>, JoinHandle<()>)>>,
}

impl Consoles {
    /// Starts serving the console of a domain.
    pub fn add(&self, domain: DomId, ring: Mfn, port: Port) -> Result<(), Errno> {
        let page = Mapping::foreign(domain, &[Gfn(ring.0)])?;
        let channel = EventChannel::bind_interdomain(domain, port)?;
        let console = Rc::new(Console::default());
        let served = console.clone();
        let task = spawn(async move {
            if serve(&served, &page, &channel).await.is_err() {
                warn!("consoled: dom{} corrupted its console ring and is ignored from now on", domain.0);
            }
        });
        self.all.borrow_mut().insert(domain, (console, task));
        Ok(())
    }

    /// Stops serving a domain's console and lets go of its page.
    pub fn remove(&self, domain: DomId) {
        if let Some((console, task)) = self.all.borrow_mut().remove(&domain) {
            task.abort();
            console.ended.set(true);
            console.printed.notify();
        }
    }

    /// A domain's console.
    pub fn get(&self, domain: DomId) -> Option<Rc<Console>> {
        self.all.borrow().get(&domain).map(|(console, _)| console.clone())
    }
}

impl ConsoleHub for Consoles {
    fn add(&self, built: &Built) -> Result<(), Errno> {
        Consoles::add(self, built.domain, built.console, built.console_port)
    }

    fn remove(&self, domain: DomId) {
        Consoles::remove(self, domain);
    }
}

async fn serve(console: &Console, page: &Mapping, channel: &EventChannel) -> Result<(), Corrupt> {
    let (mut from, mut to) = (Inward::new(page, OUT), Outward::new(page, IN));
    let mut taken = 0;
    loop {
        let mut moved = false;
        let mut chunk = [0; OUT_SIZE];
        let count = from.take(page, &mut chunk)?;
        if count > 0 {
            console.backlog.borrow_mut().push(&chunk[..count]);
            console.printed.notify();
            taken += count;
            moved = true;
        }
        let sent = to.put(page, console.typed.borrow_mut().make_contiguous())?;
        console.typed.borrow_mut().drain(..sent);
        if sent > 0 {
            console.taken.notify();
        }
        if moved || sent > 0 {
            channel.notify();
        }
        if taken > ALLOWANCE {
            sleep(PERIOD).await;
            taken = 0;
        } else if count == 0 {
            select(channel.wait(), console.wanted.wait()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_waits_for_the_guest_and_is_never_lost() {
        guest_kernel::executor::block_on(async {
            let console = Rc::new(Console::default());
            let text: Vec<u8> = (0..3 * TYPED_MAX + 7).map(|n| n as u8).collect();
            let guest = console.clone();
            let taken = spawn(async move {
                let mut all = Vec::new();
                while all.len() < 3 * TYPED_MAX + 7 {
                    let count = guest.typed.borrow().len().min(100);
                    all.extend(guest.typed.borrow_mut().drain(..count));
                    guest.taken.notify();
                    guest_kernel::executor::yield_now().await;
                }
                all
            });
            let mut rest = &text[..];
            while !rest.is_empty() {
                rest = &rest[console.type_bytes(rest)..];
                assert!(console.typed.borrow().len() <= TYPED_MAX);
                console.room().await;
            }
            assert!(taken.await == Some(text));
        });
    }

    #[test]
    fn a_backlog_keeps_the_last_bytes_and_readers_follow_it() {
        let mut backlog = Backlog::default();
        backlog.push(b"first ");
        let (text, position) = backlog.since(0);
        assert_eq!((text.as_slice(), position), (&b"first "[..], 6));
        backlog.push(b"second");
        assert_eq!(backlog.since(position), (b"second".to_vec(), 12));
        assert_eq!(backlog.since(12), (Vec::new(), 12));
        backlog.push(&[b'x'; KEPT]);
        assert_eq!(backlog.since(0).0.len(), KEPT);
        assert_eq!(backlog.since(12), (alloc::vec![b'x'; KEPT], 12 + KEPT as u64));
        backlog.push(b"end");
        let (text, _) = backlog.since(12);
        assert!(text.len() == KEPT && text.ends_with(b"xend"));
    }
}
