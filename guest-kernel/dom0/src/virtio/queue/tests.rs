//! The queue against a device that reads and writes its memory as a real one does.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The device's side of a queue.
#[derive(Default)]
pub(in crate::virtio) struct Device {
    seen: u16,
    used: u16,
}

impl Device {
    /// The next request: its number and pieces.
    pub fn take(&mut self, queue: &Queue) -> Option<(u16, Vec<Piece>)> {
        if queue.memory.load_u16(AVAILABLE + INDEX) == self.seen {
            return None;
        }
        let slot = usize::from(self.seen % queue.size);
        let head = queue.memory.load_u16(AVAILABLE + ENTRIES + slot * 2);
        self.seen = self.seen.wrapping_add(1);
        let (mut at, mut pieces) = (head, Vec::new());
        loop {
            let mut bytes = [0; DESCRIPTOR];
            queue.memory.read_bytes(usize::from(at) * DESCRIPTOR, &mut bytes);
            let flags = u16::from_le_bytes([bytes[12], bytes[13]]);
            pieces.push(Piece {
                address: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
                len: u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
                write: flags & WRITE != 0,
            });
            if flags & NEXT == 0 {
                return Some((head, pieces));
            }
            at = u16::from_le_bytes([bytes[14], bytes[15]]);
        }
    }

    /// Gives a request back.
    pub fn finish(&mut self, queue: &Queue, number: u32, len: u32) {
        let at = USED + ENTRIES + usize::from(self.used % queue.size) * 8;
        queue.memory.store_u32(at, number);
        queue.memory.store_u32(at + 4, len);
        self.used = self.used.wrapping_add(1);
        queue.memory.store_u16(USED + INDEX, self.used);
    }

    pub fn wants_kick(&self, queue: &Queue, yes: bool) {
        queue.memory.store_u16(USED, if yes { 0 } else { QUIET });
    }
}

const BYTE: Piece = Piece { address: 0x1000, len: 1, write: false };

#[test]
fn sizes_are_powers_of_two_within_a_page() {
    let sizes = [1, 2, 3, 127, 128, 255, 256, 1024, 0xffff].map(|most| Queue::new(most).unwrap().size());
    assert_eq!(sizes, [1, 2, 2, 64, 128, 128, 256, 256, 256]);
    assert!(Queue::new(0).is_err());
}

#[test]
fn tells_and_is_told_only_when_wanted() {
    let mut queue = Queue::new(4).unwrap();
    let mut device = Device::default();
    assert!(!queue.publish());
    queue.push(&[BYTE]).unwrap();
    assert!(queue.publish());
    device.wants_kick(&queue, false);
    queue.push(&[BYTE]).unwrap();
    assert!(!queue.publish());
    queue.quiet();
    assert_eq!(queue.memory.load_u16(AVAILABLE), QUIET);
    assert!(!queue.arm());
    assert_eq!(queue.memory.load_u16(AVAILABLE), 0);
    let (number, _) = device.take(&queue).unwrap();
    device.finish(&queue, number.into(), 0);
    assert!(queue.arm());
}

#[test]
fn a_device_that_finishes_what_it_was_not_given_is_broken() {
    for (number, count) in [(1, 1), (4, 1), (0x10000, 1), (0, 2)] {
        let mut queue = Queue::new(4).unwrap();
        let mut device = Device::default();
        assert_eq!(queue.push(&[BYTE]), Some(0));
        let _ = queue.publish();
        for _ in 0..count {
            device.finish(&queue, number, 0);
        }
        assert_eq!(queue.pop(), Err(Broken), "{number} {count}");
    }
    // Twice the same.
    let mut queue = Queue::new(4).unwrap();
    let mut device = Device::default();
    queue.push(&[BYTE]).unwrap();
    queue.push(&[BYTE]).unwrap();
    let _ = queue.publish();
    device.finish(&queue, 0, 0);
    device.finish(&queue, 0, 0);
    assert!(queue.pop().unwrap().is_some());
    assert_eq!(queue.pop(), Err(Broken));
}

proptest! {
    /// Requests reach the device whole and in order, come back in any order with their number,
    /// and room is lost to none of them, past the wrap of the indices.
    #[test]
    fn behaves_as_a_map_of_requests(
        ops in prop::collection::vec((0u8..3, 1usize..6, any::<prop::sample::Index>()), 1..2000),
        start in prop::sample::select(vec![0u16, 0xfff0]),
    ) {
        let mut queue = Queue::new(16).unwrap();
        let mut device = Device { seen: start, used: start };
        (queue.made, queue.shown, queue.taken) = (start, start, start);
        queue.memory.store_u16(AVAILABLE + INDEX, start);
        queue.memory.store_u16(USED + INDEX, start);
        let mut flying: BTreeMap<u16, Vec<Piece>> = BTreeMap::new();
        let (mut given, mut held) = (Vec::new(), 0);
        for (n, (op, pieces, index)) in ops.into_iter().enumerate() {
            match op {
                0 => {
                    let pieces: Vec<_> = (0..pieces)
                        .map(|i| Piece { address: (n * 8 + i) as u64, len: i as u32 + 1, write: i > 2 })
                        .collect();
                    match queue.push(&pieces) {
                        Some(number) => {
                            held += pieces.len();
                            prop_assert!(flying.insert(number, pieces).is_none());
                        }
                        None => prop_assert!(held + pieces.len() > 16),
                    }
                    let _ = queue.publish();
                }
                1 => {
                    if let Some((number, pieces)) = device.take(&queue) {
                        prop_assert_eq!(&flying[&number], &pieces);
                        given.push(number);
                    }
                }
                _ if !given.is_empty() => {
                    let number = given.swap_remove(index.index(given.len()));
                    device.finish(&queue, number.into(), n as u32);
                    prop_assert_eq!(queue.pop(), Ok(Some((number, n as u32))));
                    held -= flying.remove(&number).unwrap().len();
                }
                _ => prop_assert_eq!(queue.pop(), Ok(None)),
            }
            prop_assert_eq!(queue.room(), 16 - held);
        }
    }
}
