//! The FIFO ABI of event channels, played through a word at a time. The last questions: they take the library's own
//! ports away, which it does not miss any more.

use guest_kernel::memory::Pages;

use crate::answer;
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, nr, peek, poke, word};

const CLOSE: usize = 3;
const SEND: usize = 4;
const ALLOC_UNBOUND: usize = 6;
const BIND_IPI: usize = 7;
const BIND_VCPU: usize = 8;
const UNMASK: usize = 9;
const RESET: usize = 10;
const INIT_CONTROL: usize = 11;
const EXPAND_ARRAY: usize = 12;
const SET_PRIORITY: usize = 13;

const SELF: u64 = 0x7ff0;
const MASKED: u32 = 1 << 30;

fn op(operation: usize, words: &[u64]) -> i64 {
    fill(words);
    call(nr::EVENT_CHANNEL_OP, [operation, buffer(0), 0, 0, 0])
}

/// `EVTCHNOP_init_control`: control_gfn; offset, vcpu; link_bits.
fn init(frame: u64, offset: u64, vcpu: u64) -> i64 {
    op(INIT_CONTROL, &[frame, offset | vcpu << 32])
}

fn bind_ipi() -> u64 {
    op(BIND_IPI, &[0]);
    word(0) >> 32
}

/// The guest's frames: words of events, and the control blocks.
struct Frames {
    array: usize,
    control: usize,
}

impl Frames {
    fn half(at: usize) -> u32 {
        (peek(at & !7) >> (at % 8 * 8)) as u32
    }

    fn set_half(at: usize, value: u32) {
        let shift = at % 8 * 8;
        poke(at & !7, peek(at & !7) & !(0xffff_ffff << shift) | u64::from(value) << shift);
    }

    fn event(&self, port: u64) -> usize {
        self.array + port as usize * 4
    }

    /// What each of `ports` and the queues say.
    fn show(&self, ports: &[u64]) {
        for (n, port) in ports.iter().enumerate() {
            answer(format_args!("  event {n}"), Self::half(self.event(*port)).into());
        }
        for (vcpu, offset) in [(0, 0), (1, SECOND as usize)] {
            answer(format_args!("  ready of vcpu {vcpu}"), Self::half(self.control + offset).into());
            for priority in 0..16 {
                let head = Self::half(self.control + offset + 8 + priority * 4);
                if head != 0 {
                    answer(format_args!("  head {priority} of vcpu {vcpu}"), head.into());
                }
            }
        }
    }
}

/// Where in its frame the second vcpu's control block is.
const SECOND: u64 = 128;

/// Every question about it.
pub fn ask() {
    let Ok(pages) = Pages::new(3) else { return };
    let (array, control) = (pages.mfn(0).0, pages.mfn(1).0);
    let (Some(array_at), Some(control_at)) = (address_of(array), address_of(control)) else { return };
    let frames = Frames { array: array_at, control: control_at };
    let port = bind_ipi();
    answer(format_args!("fifo: expanded too early"), op(EXPAND_ARRAY, &[array]));
    answer(format_args!("fifo: priority too early"), op(SET_PRIORITY, &[port | 3 << 32]));
    for (name, frame, offset, vcpu) in [
        ("no vcpu", control, 0u64, 9999u64),
        ("no vcpu, odd place", control, 4, 9999),
        ("odd place", control, 4, 0),
        ("over the end", control, 4096 - 64, 0),
        ("far over", control, 0xffff_fff8, 0),
        ("no frame", 1 << 40, 0, 0),
        ("frame 0", 0, 0, 0),
        ("a page table", crate::raw::l4_frame(), 0, 0),
    ] {
        answer(format_args!("fifo: control block, {name}"), init(frame, offset, vcpu));
    }
    answer(format_args!("fifo: still not expanded"), op(EXPAND_ARRAY, &[array]));
    for (vcpu, offset) in [(0, 0), (0, 64), (1, SECOND), (1, 0)] {
        answer(format_args!("fifo: control block of {vcpu} at {offset}"), init(control, offset, vcpu));
        answer(format_args!("  link bits"), (word(2) & 0xff).cast_signed());
    }
    early(&frames, port);
    for (name, frame) in [("no frame", 1 << 40), ("a page table", crate::raw::l4_frame())] {
        answer(format_args!("fifo: expanded by {name}"), op(EXPAND_ARRAY, &[frame]));
    }
    answer(format_args!("fifo: expanded"), op(EXPAND_ARRAY, &[array]));
    frames.show(&[port]);
    op(CLOSE, &[port]);
    queues(&frames);
    places(&frames);
    limits(pages.mfn(2).0);
    answer(format_args!("fifo: reset"), op(RESET, &[SELF]));
    answer(format_args!("fifo: expanded after it"), op(EXPAND_ARRAY, &[array]));
    answer(format_args!("fifo: port after it"), bind_ipi().cast_signed());
    answer(format_args!("fifo: control block after it"), init(control, 0, 0));
    answer(format_args!("fifo: reset again"), op(RESET, &[SELF]));
}

/// An event of a port that has no word yet.
fn early(frames: &Frames, port: u64) {
    answer(format_args!("fifo: sent too early"), op(SEND, &[port]));
    frames.show(&[]);
    answer(format_args!("fifo: unmasked too early"), op(UNMASK, &[port]));
}

fn queues(frames: &Frames) {
    let ports: [u64; 5] = core::array::from_fn(|_| bind_ipi());
    for (n, port) in ports.iter().enumerate() {
        answer(format_args!("fifo: port {n}"), port.cast_signed());
        Frames::set_half(frames.event(*port), 0);
    }
    let [a, b, c, masked, urgent] = ports;
    let step = |name: &str, result: i64| {
        answer(format_args!("fifo: {name}"), result);
        frames.show(&ports);
    };
    step("first", op(SEND, &[a]));
    step("second", op(SEND, &[b]));
    step("first again", op(SEND, &[a]));
    step("third", op(SEND, &[c]));
    Frames::set_half(frames.event(masked), MASKED);
    step("masked", op(SEND, &[masked]));
    step("unmasked", op(UNMASK, &[masked]));
    step("unmasked again", op(UNMASK, &[masked]));
    for priority in [0u64, 15, 16, 0xffff_ffff, 2] {
        answer(format_args!("fifo: priority {priority}"), op(SET_PRIORITY, &[urgent | priority << 32]));
    }
    for port in [0u64, 1000, 4095, 4096, 1 << 17, 0xffff_ffff] {
        answer(format_args!("fifo: priority of port {port}"), op(SET_PRIORITY, &[port | 3 << 32]));
    }
    step("urgent", op(SEND, &[urgent]));
    // The guest takes the first and the last out of the queue: the first goes behind, the last to another.
    Frames::set_half(frames.event(a), 0);
    step("first, taken out", op(SEND, &[a]));
    Frames::set_half(frames.event(a), 0);
    op(SET_PRIORITY, &[a | 9 << 32]);
    step("last, moved", op(SEND, &[a]));
    Frames::set_half(frames.event(b), 0);
    step("behind the one that moved", op(SEND, &[b]));
    step("closed in a queue", op(CLOSE, &[c]));
    let other = bind_ipi();
    answer(format_args!("fifo: port then"), other.cast_signed());
    Frames::set_half(frames.event(c), 0);
    answer(format_args!("fifo: port when it is out"), bind_ipi().cast_signed());
    step("sent anew", op(SEND, &[c]));
    // A guest that has all words busy and linked to themselves.
    for port in ports {
        Frames::set_half(frames.event(port), 0x1000_0000 | 1 << 29 | port as u32);
    }
    step("nonsense", op(SEND, &[a]));
    Frames::set_half(frames.event(b), 0);
    step("after nonsense", op(SEND, &[b]));
    for port in ports {
        Frames::set_half(frames.event(port), 0);
        op(CLOSE, &[port]);
    }
    Frames::set_half(frames.event(other), 0);
    op(CLOSE, &[other]);
}

/// A port that notifies one vcpu, then another.
fn places(frames: &Frames) {
    op(ALLOC_UNBOUND, &[SELF | SELF << 16]);
    let there = word(0) >> 32;
    op(0, &[SELF | there << 32]);
    let here = word(1) & 0xffff_ffff;
    for port in [here, there] {
        Frames::set_half(frames.event(port), 0);
    }
    for (n, vcpu) in [1u64, 0, 1].into_iter().enumerate() {
        answer(format_args!("fifo: bound to vcpu {vcpu}, step {n}"), op(BIND_VCPU, &[there | vcpu << 32]));
        answer(format_args!("fifo: sent to vcpu {vcpu}, step {n}"), op(SEND, &[here]));
        frames.show(&[here, there]);
        Frames::set_half(frames.event(there), 0);
    }
    op(CLOSE, &[here]);
    op(CLOSE, &[there]);
}

/// As many frames as there can be, and a port beyond those of the 2-level ABI.
fn limits(frame: u64) {
    let refused = loop {
        match op(EXPAND_ARRAY, &[frame]) {
            0 => {}
            refused => break refused,
        }
    };
    answer(format_args!("fifo: expanded once more"), refused);
    let last = loop {
        op(ALLOC_UNBOUND, &[SELF | SELF << 16]);
        let port = word(0) >> 32;
        if port == 0 || port > 4100 {
            break port;
        }
    };
    answer(format_args!("fifo: port beyond 4096"), last.cast_signed());
    op(0, &[SELF | last << 32]);
    answer(format_args!("fifo: bound to it"), (word(1) & 0xffff_ffff).cast_signed());
}
