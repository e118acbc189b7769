//! The byte rings of xenstore and the console, from dom0's side.
//!
//! The page belongs to a guest, which may write anything there at any time. Our own index is kept privately
//! and only ever published; the guest's is read once per operation and bounded before it is used.

use guest_kernel::memory::Shared;
use shared_abi::io::ring::bytes::{free, split, used};

/// The guest's index cannot be right. The ring is not to be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// Where one direction of a ring lies in its page, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The data.
    pub data: usize,
    /// Its length, a power of two.
    pub size: u32,
    /// The producer's index.
    pub prod: usize,
    /// The consumer's index.
    pub cons: usize,
}

/// The direction from the guest.
#[derive(Debug)]
pub struct Inward {
    place: Place,
    cons: u32,
}

impl Inward {
    /// Starts where the ring stands.
    pub fn new(page: &Shared, place: Place) -> Inward {
        Inward { place, cons: page.load_u32(place.cons) }
    }

    /// Takes what is there, as far as it fits; how many bytes that were.
    pub fn take(&mut self, page: &Shared, buffer: &mut [u8]) -> Result<usize, Corrupt> {
        let Place { data, size, prod, cons } = self.place;
        let ready = used(page.load_u32(prod), self.cons, size).ok_or(Corrupt)?;
        let count = ready.min(buffer.len() as u32);
        let (start, first, second) = split(self.cons, count, size);
        page.read_bytes(data + start, &mut buffer[..first]);
        page.read_bytes(data, &mut buffer[first..first + second]);
        self.cons = self.cons.wrapping_add(count);
        if count > 0 {
            page.store_u32(cons, self.cons);
        }
        Ok(count as usize)
    }
}

/// The direction to the guest.
#[derive(Debug)]
pub struct Outward {
    place: Place,
    prod: u32,
}

impl Outward {
    /// Starts where the ring stands.
    pub fn new(page: &Shared, place: Place) -> Outward {
        Outward { place, prod: page.load_u32(place.prod) }
    }

    /// Puts as much of `bytes` into the ring as has room; how many bytes that were.
    pub fn put(&mut self, page: &Shared, bytes: &[u8]) -> Result<usize, Corrupt> {
        let Place { data, size, prod, cons } = self.place;
        let room = free(self.prod, page.load_u32(cons), size).ok_or(Corrupt)?;
        let count = room.min(bytes.len() as u32);
        let (start, first, second) = split(self.prod, count, size);
        page.write_bytes(data + start, &bytes[..first]);
        page.write_bytes(data, &bytes[first..first + second]);
        self.prod = self.prod.wrapping_add(count);
        if count > 0 {
            page.store_u32(prod, self.prod);
        }
        Ok(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec;
    use alloc::vec::Vec;
    use guest_kernel::memory::Pages;
    use proptest::prelude::*;

    const PLACE: Place = Place { data: 64, size: 32, prod: 0, cons: 4 };

    proptest! {
        /// Bytes come out in order whatever the sizes, from any start of the indices, also across their wrap.
        #[test]
        fn a_ring_is_a_queue(start in any::<u32>(), steps in prop::collection::vec((any::<bool>(), 0usize..50), 0..60)) {
            let page = Pages::new(1).unwrap();
            page.store_u32(PLACE.prod, start);
            page.store_u32(PLACE.cons, start);
            let (mut out, mut inward) = (Outward::new(&page, PLACE), Inward::new(&page, PLACE));
            let (mut model, mut next) = (VecDeque::new(), 0u8);
            for (put, count) in steps {
                if put {
                    let bytes: Vec<u8> = (0..count).map(|n| next.wrapping_add(n as u8)).collect();
                    let done = out.put(&page, &bytes).unwrap();
                    prop_assert_eq!(done, count.min(32 - model.len()));
                    model.extend(&bytes[..done]);
                    next = next.wrapping_add(done as u8);
                } else {
                    let mut buffer = vec![0; count];
                    let done = inward.take(&page, &mut buffer).unwrap();
                    let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                    prop_assert_eq!(&buffer[..done], &expected);
                }
            }
        }

        #[test]
        fn wild_indices_are_refused_and_touch_nothing(index in any::<u32>()) {
            let page = Pages::new(1).unwrap();
            let (mut out, mut inward) = (Outward::new(&page, PLACE), Inward::new(&page, PLACE));
            page.store_u32(PLACE.prod, index);
            prop_assert_eq!(inward.take(&page, &mut [0; 64]).is_err(), index > 32);
            page.store_u32(PLACE.cons, index);
            prop_assert_eq!(out.put(&page, &[0; 64]).is_err(), index.wrapping_neg() > 32);
        }
    }
}
