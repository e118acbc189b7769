//! The few blocks of a filesystem that are read again and again.

use super::FsError;
use crate::block::{BlockDevice, SECTOR_SIZE};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Blocks of a disk, the most recently used of them in memory. What is handed out stays valid while
/// it is held, in the cache or not.
pub(super) struct Cache<D> {
    pub(super) disk: D,
    block_size: usize,
    limit: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    blocks: Vec<Cached>,
    clock: u64,
}

struct Cached {
    number: u64,
    used: u64,
    bytes: Rc<[u8]>,
}

impl<D: BlockDevice> Cache<D> {
    /// Keeps up to `limit` blocks of `block_size` bytes, a multiple of a sector's.
    pub(super) fn new(disk: D, block_size: usize, limit: usize) -> Self {
        Cache { disk, block_size, limit, state: RefCell::default() }
    }

    pub(super) fn into_disk(self) -> D {
        self.disk
    }

    pub(super) async fn get(&self, number: u64) -> Result<Rc<[u8]>, FsError> {
        if let Some(bytes) = self.lookup(number) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; self.block_size];
        let sectors = (self.block_size / SECTOR_SIZE) as u64;
        let sector = number.checked_mul(sectors).ok_or(FsError::Corrupt)?;
        self.disk.read(sector, &mut bytes).await?;
        let bytes: Rc<[u8]> = bytes.into();
        let mut state = self.state.borrow_mut();
        state.clock += 1;
        let used = state.clock;
        let cached = Cached { number, used, bytes: bytes.clone() };
        // Somebody else may have read it meanwhile; two copies of a read-only block do no harm.
        if state.blocks.len() < self.limit {
            state.blocks.push(cached);
        } else if let Some(oldest) = state.blocks.iter_mut().min_by_key(|block| block.used) {
            *oldest = cached;
        }
        Ok(bytes)
    }

    fn lookup(&self, number: u64) -> Option<Rc<[u8]>> {
        let state = &mut *self.state.borrow_mut();
        let block = state.blocks.iter_mut().find(|block| block.number == number)?;
        state.clock += 1;
        block.used = state.clock;
        Some(block.bytes.clone())
    }
}
