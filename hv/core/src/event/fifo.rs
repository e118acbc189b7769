//! The FIFO ABI: a word for each port in an array of the guest's frames, and for each vcpu a control block with the
//! heads of 16 queues, one a priority. An event that becomes pending is put at the end of a queue: the word of the
//! event before it names it as the next, or, if the guest has taken that one out already, the queue's head does.
//!
//! All of it is memory the guest writes at any time. So what is where is kept here: only the bits of a word are
//! looked at, never a link, and the ends of the queues are the hypervisor's own. A guest that writes nonsense loses
//! events of its own; what a step costs does not depend on it.
//!
//! The hardest decision: one lock for a domain's queues, taken for each event. What an event touches (its word, the
//! end of its former queue, the end of its new one, the word there) has to change as one, and the frames must not go
//! while a sender writes there. A lock for each queue would need three of them in turn, and a count of users.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use shared_abi::Port;
use shared_abi::errno::Errno;
use shared_abi::event_channel::*;
use zerocopy::FromZeros;

use super::channel::try_vec;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// Event words of a frame.
pub const WORDS: usize = 1024;
const PAGES: usize = EVTCHN_FIFO_NR_CHANNELS as usize / WORDS;
const QUEUES: usize = EVTCHN_FIFO_MAX_QUEUES as usize;
/// Words of a control block before the heads of its queues: which of them have events, and nothing.
const HEADS: usize = core::mem::offset_of!(EvtchnFifoControlBlock, head) / 4;
/// How often a word that keeps changing is tried to be linked to another.
const TRIES: usize = 5;

/// A frame of the guest's, held for as long as the value lives.
pub trait EventPage {
    /// Its words.
    fn words(&self) -> &[AtomicU32; WORDS];
}

/// What a vcpu and a priority are to an event that was in their queue last.
fn queue(vcpu: u32, priority: u32) -> u32 {
    vcpu * EVTCHN_FIFO_MAX_QUEUES + priority
}

/// A frame of event words.
struct ArrayPage<P> {
    page: P,
    /// The queue that each was in last.
    last: Box<[u32; WORDS]>,
}

/// A vcpu's queues.
struct Queues<P> {
    /// Where its control block is: the frame, and its first word in there.
    control: Option<(P, usize)>,
    /// The port that was put in each last; 0: none.
    tails: [u32; QUEUES],
}

/// A domain's event array and queues.
pub struct Fifo<P> {
    array: Vec<ArrayPage<P>>,
    vcpus: Vec<Queues<P>>,
    /// Of each port: its priority as it differs from the default, and [`EARLY`].
    ports: Vec<u8>,
}

/// The port is pending, and its word is not there yet.
const EARLY: u8 = 1 << 7;

/// What came of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raised {
    /// It was not pending before.
    pub new: bool,
    /// Its vcpu is to be told: a queue of it has events, and had none.
    pub tell: bool,
}

impl<P: EventPage> Fifo<P> {
    /// For so many vcpus and ports, with no word and no control block yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(vcpus: u32, ports: u32) -> Result<Fifo<P>, Errno> {
        let mut array = Vec::new();
        array.try_reserve_exact(PAGES).map_err(|_| Errno::ENOMEM)?;
        Ok(Fifo {
            array,
            vcpus: try_vec(vcpus as usize, || Queues { control: None, tails: [0; QUEUES] })?,
            ports: try_vec(ports as usize, || 0)?,
        })
    }

    /// Whether a vcpu has a control block.
    pub(super) fn has_control(&self, vcpu: u32) -> bool {
        self.control(vcpu, 0).is_some()
    }

    /// Gives a vcpu that has none its control block, at an offset that was checked.
    pub(super) fn set_control(&mut self, vcpu: u32, page: P, offset: u32) {
        if let Some(queues) = self.vcpus.get_mut(vcpu as usize) {
            queues.control = Some((page, offset as usize / 4));
        }
    }

    /// Whether there are words for all ports.
    pub(super) fn is_full(&self) -> bool {
        self.array.len() == PAGES
    }

    /// Adds a frame of event words, where there is room for one; the ports that they are of.
    pub(super) fn expand(&mut self, page: P, last: Box<[u32; WORDS]>) -> Range<u32> {
        let n = self.array.len();
        self.array.push(ArrayPage { page, last });
        (n * WORDS) as u32..((n + 1) * WORDS) as u32
    }

    fn word(&self, port: u32) -> Option<&AtomicU32> {
        let page = self.array.get(port as usize / WORDS)?;
        page.page.words().get(port as usize % WORDS)
    }

    /// A word of a vcpu's control block.
    fn control(&self, vcpu: u32, word: usize) -> Option<&AtomicU32> {
        let (page, first) = self.vcpus.get(vcpu as usize)?.control.as_ref()?;
        page.words().get(first + word)
    }

    /// Takes an event that came before its port's word.
    pub(super) fn take_early(&mut self, port: Port) -> bool {
        self.ports.get_mut(port.0 as usize).is_some_and(|state| {
            let early = *state & EARLY != 0;
            *state &= !EARLY;
            early
        })
    }

    /// Sets the priority of a port, 0 to 15.
    pub(super) fn set_priority(&mut self, port: Port, priority: u32) {
        if let Some(state) = self.ports.get_mut(port.0 as usize) {
            *state = *state & EARLY | (priority ^ EVTCHN_FIFO_PRIORITY_DEFAULT) as u8;
        }
    }

    /// Marks a port pending, and puts it in the queue if it is neither masked nor in one.
    pub(super) fn raise(&mut self, port: Port, vcpu: u32) -> Raised {
        let Some(word) = self.word(port.0) else {
            let Some(state) = self.ports.get_mut(port.0 as usize) else { return Raised::default() };
            let new = *state & EARLY == 0;
            *state |= EARLY;
            return Raised { new, tell: false };
        };
        let before = word.fetch_or(PENDING, SeqCst);
        let tell = before & (MASKED | LINKED) == 0 && self.link(port.0, vcpu);
        Raised { new: before & PENDING == 0, tell }
    }

    /// Unmasks a port, and puts it in the queue if it is pending and in none. Whether the vcpu is to be told.
    pub(super) fn unmask(&mut self, port: Port, vcpu: u32) -> bool {
        let Some(word) = self.word(port.0) else { return false };
        let before = word.fetch_and(!MASKED, SeqCst);
        before & (PENDING | LINKED) == PENDING && self.link(port.0, vcpu)
    }

    /// A port was closed: it is not pending, and has the default priority. Where it is in a queue it stays there: the
    /// guest skips it.
    pub(super) fn forget(&mut self, port: Port) {
        if let Some(word) = self.word(port.0) {
            word.fetch_and(!PENDING, SeqCst);
        }
        if let Some(state) = self.ports.get_mut(port.0 as usize) {
            *state = 0;
        }
    }

    /// Whether a port is pending, and whether it is masked.
    pub(super) fn marks(&self, port: Port) -> (bool, bool) {
        let word = self.word(port.0).map_or(0, |word| word.load(SeqCst));
        (word & PENDING != 0, word & MASKED != 0)
    }

    /// Whether a port is in a queue still, so that it can't be opened anew.
    pub(super) fn is_linked(&self, port: Port) -> bool {
        self.word(port.0).is_some_and(|word| word.load(SeqCst) & LINKED != 0)
    }

    /// Puts a port at the end of a queue; whether that had no events.
    fn link(&mut self, port: u32, vcpu: u32) -> bool {
        let state = self.ports.get(port as usize).map_or(0, |state| state & !EARLY);
        let priority = u32::from(state) ^ EVTCHN_FIFO_PRIORITY_DEFAULT;
        let slot = priority as usize % QUEUES;
        // A vcpu without a control block has no queues: the guest unmasked a port too early.
        if self.control(vcpu, 0).is_none() {
            return false;
        }
        let Some(word) = self.word(port) else { return false };
        if word.fetch_or(LINKED, SeqCst) & LINKED != 0 {
            return false;
        }
        // If it was the last of a queue, that one is empty now: what comes to it must not follow this port, which
        // from here on may be in another queue.
        let last = &mut self.array[port as usize / WORDS].last[port as usize % WORDS];
        let former = core::mem::replace(last, queue(vcpu, priority));
        let former = (former / EVTCHN_FIFO_MAX_QUEUES, (former % EVTCHN_FIFO_MAX_QUEUES) as usize);
        if let Some(tail) = self.vcpus.get_mut(former.0 as usize).map(|q| &mut q.tails[former.1])
            && *tail == port
        {
            *tail = 0;
        }
        let tail = core::mem::replace(&mut self.vcpus[vcpu as usize].tails[slot], port);
        let follows = self.word(tail).is_some_and(|word| tail != 0 && follow(word, port));
        if follows {
            return false;
        }
        let (Some(head), Some(ready)) = (self.control(vcpu, HEADS + slot), self.control(vcpu, 0)) else {
            return false;
        };
        head.store(port, SeqCst);
        ready.fetch_or(1 << slot, SeqCst) & 1 << slot == 0
    }
}

/// Has `port` follow the event whose word this is, if that is in its queue still.
///
/// The guest may clear and set other bits meanwhile. From the second try on the word is marked busy, which has a
/// guest wait that keeps to the ABI; one that goes on has its queue begin anew.
fn follow(word: &AtomicU32, port: u32) -> bool {
    let mut seen = word.load(SeqCst);
    for _ in 0..TRIES {
        if seen & LINKED == 0 {
            break;
        }
        let linked = seen & !(BUSY | EVTCHN_FIFO_LINK_MASK) | port;
        if word.compare_exchange(seen, linked, SeqCst, SeqCst).is_ok() {
            return true;
        }
        seen = word.fetch_or(BUSY, SeqCst) | BUSY;
    }
    word.fetch_and(!BUSY, SeqCst);
    false
}

/// Whether a control block may lie at `offset` of a frame.
///
/// # Errors
/// `EINVAL`.
pub fn check_offset(offset: u32) -> Result<(), Errno> {
    let fits = offset as usize <= shared_abi::PAGE_SIZE - size_of::<EvtchnFifoControlBlock>();
    if fits && offset.is_multiple_of(8) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Room for the queues that the events of one more frame were in.
///
/// # Errors
/// `ENOMEM`.
pub fn last_queues() -> Result<Box<[u32; WORDS]>, Errno> {
    <[u32; WORDS]>::new_box_zeroed().map_err(|_| Errno::ENOMEM)
}
