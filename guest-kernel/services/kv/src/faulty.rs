//! A disk with a volatile cache that loses its power.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use guest_kernel::block::{BlockDevice, BlockError, Geometry, SECTOR_SIZE};

struct State {
    /// What a flush has made durable.
    durable: Vec<u8>,
    /// Sectors written since, in order.
    cached: Vec<(usize, Vec<u8>)>,
    /// Writes and flushes until the power goes.
    left: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk(Rc<RefCell<State>>);

impl FaultyDisk {
    /// A disk with these contents whose power goes at the operation after `left` writes and flushes.
    pub fn new(durable: Vec<u8>, left: u64) -> Self {
        FaultyDisk(Rc::new(RefCell::new(State { durable, cached: Vec::new(), left })))
    }

    /// What the medium holds after the cut: of each sector in the cache any of the states it had since
    /// the last flush, and one in eight is half of one and half of another.
    pub fn image_after_cut(&self, seed: u64) -> Vec<u8> {
        let state = self.0.borrow();
        let mut image = state.durable.clone();
        let mut random = seed | 1;
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        for (sector, bytes) in &state.cached {
            let place = &mut image[sector * SECTOR_SIZE..][..SECTOR_SIZE];
            match next(8) {
                0..4 => {}
                4 => {
                    let half = next(SECTOR_SIZE as u64) as usize;
                    place[..half].copy_from_slice(&bytes[..half]);
                }
                _ => place.copy_from_slice(bytes),
            }
        }
        image
    }

    fn operate(&self) -> Result<bool, BlockError> {
        let mut state = self.0.borrow_mut();
        if state.left == 0 {
            return Err(BlockError::Gone);
        }
        if state.left != u64::MAX {
            state.left -= 1;
        }
        Ok(state.left == 0)
    }
}

impl BlockDevice for FaultyDisk {
    fn geometry(&self) -> Geometry {
        let sectors = (self.0.borrow().durable.len() / SECTOR_SIZE) as u64;
        Geometry { sectors, read_only: false, flush: true, discard: false }
    }

    async fn read(&self, sector: u64, to: &mut [u8]) -> Result<(), BlockError> {
        self.geometry().check(sector, to.len())?;
        let state = self.0.borrow();
        let at = sector as usize;
        to.copy_from_slice(&state.durable[at * SECTOR_SIZE..][..to.len()]);
        for (cached, bytes) in &state.cached {
            if let Some(place) = cached.checked_sub(at).and_then(|n| to.chunks_exact_mut(SECTOR_SIZE).nth(n))
            {
                place.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    async fn write(&self, sector: u64, from: &[u8]) -> Result<(), BlockError> {
        self.geometry().check(sector, from.len())?;
        // The last write before the cut may reach the medium in parts, but it does not succeed.
        let last = self.operate()?;
        let sectors = from.chunks_exact(SECTOR_SIZE).enumerate();
        self.0.borrow_mut().cached.extend(sectors.map(|(n, bytes)| (sector as usize + n, bytes.to_vec())));
        if last { Err(BlockError::Gone) } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), BlockError> {
        if self.operate()? {
            return Err(BlockError::Gone);
        }
        let state = &mut *self.0.borrow_mut();
        for (sector, bytes) in state.cached.drain(..) {
            state.durable[sector * SECTOR_SIZE..][..SECTOR_SIZE].copy_from_slice(&bytes);
        }
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
        Err(BlockError::Unsupported)
    }
}
