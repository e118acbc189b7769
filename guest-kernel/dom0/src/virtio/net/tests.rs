//! The card against a device in the same process.

use super::*;
use crate::virtio::queue::tests::Device;
use alloc::rc::Rc;
use core::task::{Context, Poll};
use guest_kernel::executor::{block_on, spawn};

#[derive(Default)]
struct FakeBell {
    rung: Cell<usize>,
    raised: Cell<bool>,
    waker: RefCell<Option<core::task::Waker>>,
}

impl Doorbell for FakeBell {
    fn notify(&self) {
        self.rung.set(self.rung.get() + 1);
    }
    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.take() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Keeps what it is given.
#[derive(Default)]
struct Sink(RefCell<Vec<(Vec<u8>, Checksum)>>, Cell<usize>);

impl FrameSink for Sink {
    fn frame(&self, frame: Frame<'_>) {
        self.0.borrow_mut().push((frame.bytes.to_vec(), frame.checksum));
    }
    fn flush(&self) {
        self.1.set(self.1.get() + 1);
    }
}

struct Card {
    nic: Rc<Nic<Rc<FakeBell>, Rc<FakeBell>>>,
    bell: Rc<FakeBell>,
    kick: Rc<FakeBell>,
    receive: Device,
    transmit: Device,
}

/// Where a piece lies in a side's buffers.
fn place(side: &Side, piece: &Piece) -> usize {
    let mfn = piece.address / PAGE_SIZE as u64;
    let page = (0..side.buffers.count()).find(|page| side.buffers.mfn(*page).0 == mfn).unwrap();
    page * PAGE_SIZE + (piece.address % PAGE_SIZE as u64) as usize
}

impl Card {
    fn new(size: u16) -> Card {
        let (bell, kick) = (Rc::new(FakeBell::default()), Rc::new(FakeBell::default()));
        let queue = || Queue::new(size).unwrap();
        let nic =
            Rc::new(Nic::new([2, 0, 0, 0, 0, 1], queue(), queue(), bell.clone(), kick.clone()).unwrap());
        Card { nic, bell, kick, receive: Device::default(), transmit: Device::default() }
    }

    /// The device receives a packet whose header has `flags`; `len` is what it says of it.
    fn arrive(&mut self, flags: u8, frame: &[u8], len: u32) -> bool {
        let side = self.nic.receive.borrow();
        let Some((number, pieces)) = self.receive.take(&side.queue) else { return false };
        assert!(pieces.len() == 1 && pieces[0].write && pieces[0].len as usize == FRAME_BUFFER);
        let at = place(&side, &pieces[0]);
        side.buffers.write_bytes(at, &[flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        side.buffers.write_bytes(at + HEADER, frame);
        self.receive.finish(&side.queue, number.into(), len);
        drop(side);
        self.bell.raised.set(true);
        if let Some(waker) = self.bell.waker.take() {
            waker.wake();
        }
        true
    }

    /// The device takes a packet to send.
    fn sent(&mut self, finish: bool) -> Option<Vec<u8>> {
        let side = self.nic.transmit.borrow();
        let (number, pieces) = self.transmit.take(&side.queue)?;
        assert!(pieces.len() == 1 && !pieces[0].write);
        let mut bytes = vec![0; pieces[0].len as usize];
        side.buffers.read_bytes(place(&side, &pieces[0]), &mut bytes);
        if finish {
            self.transmit.finish(&side.queue, number.into(), 0);
        }
        assert_eq!(bytes[..HEADER], [0; HEADER]);
        Some(bytes.split_off(HEADER))
    }
}

#[test]
fn received_frames_are_handed_on_in_order_and_their_buffers_used_again() {
    block_on(async {
        let mut card = Card::new(8);
        let sink = Rc::new(Sink::default());
        let (nic, to) = (card.nic.clone(), sink.clone());
        spawn(async move { nic.run(&to).await });
        let frame = |n: usize| vec![n as u8; MIN_FRAME + n];
        for n in 0..100 {
            let bytes = frame(n);
            assert!(card.arrive(
                if n % 2 == 0 { DATA_VALID } else { 0 },
                &bytes,
                (HEADER + bytes.len()) as u32
            ));
            if n % 5 == 4 {
                yield_now().await;
                yield_now().await;
            }
        }
        let got = sink.0.take();
        assert_eq!(got.len(), 100);
        for (n, (bytes, checksum)) in got.iter().enumerate() {
            assert_eq!(*bytes, frame(n));
            assert_eq!(*checksum, if n % 2 == 0 { Checksum::Valid } else { Checksum::Unknown });
        }
        // One flush for each batch.
        assert_eq!(sink.1.get(), 20);
        // What the device says of a packet's length is not believed.
        for len in [0, 11, 12, 25, 3000, u32::MAX] {
            assert!(card.arrive(0, &[9; 64], len));
        }
        yield_now().await;
        yield_now().await;
        let counters = card.nic.counters();
        assert_eq!((counters.received, counters.dropped), (100, 6));
        assert!(sink.0.borrow().is_empty());
    });
}

#[test]
fn frames_are_sent_once_a_batch_and_dropped_without_room() {
    let mut card = Card::new(8);
    let frame = [5; 60];
    for _ in 0..20 {
        card.nic.frame(Frame { bytes: &frame, checksum: Checksum::Unknown });
    }
    assert!(card.sent(true).is_none());
    card.nic.flush();
    card.nic.flush();
    assert_eq!(card.kick.rung.get(), 1);
    for n in 0..8 {
        // The last two stay with the device.
        assert_eq!(card.sent(n < 6).unwrap(), frame);
    }
    assert!(card.sent(true).is_none());
    for _ in 0..20 {
        card.nic.frame(Frame { bytes: &frame, checksum: Checksum::Unknown });
    }
    card.nic.flush();
    assert_eq!(core::iter::from_fn(|| card.sent(true)).count(), 6);
    let counters = card.nic.counters();
    assert_eq!((counters.sent, counters.sent_bytes, counters.dropped), (14, 14 * 60, 12 + 14));
    for bytes in [&[0; MIN_FRAME - 1][..], &[0; MAX_FRAME + 1]] {
        card.nic.frame(Frame { bytes, checksum: Checksum::Unknown });
    }
    assert_eq!(card.nic.counters().dropped, 28);
}

/// A guest that leaves a checksum blank relies on the card, and this one does not compute any.
#[test]
fn blank_checksums_are_filled_in() {
    let mut card = Card::new(8);
    // IPv4 and UDP from 10.0.0.1:7 to 10.0.0.2:9 with four bytes of payload.
    let mut frame = vec![0; 14 + 20 + 8 + 4];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..].copy_from_slice(&[0, 7, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
    assert!(checksum::prepare(&mut frame));
    card.nic.frame(Frame { bytes: &frame, checksum: Checksum::Blank });
    card.nic.flush();
    let sent = card.sent(true).unwrap();
    assert!(checksum::verify(&sent) && sent[40..42] != [0, 0] && sent[..40] == frame[..40]);
}
