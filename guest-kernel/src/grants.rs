//! Grants: our frames for others ([`Grant`]), others' frames ([`GrantMapping`]) and bytes
//! ([`CopyBatch`]) for us; and these as the traits that split drivers are written against.

use crate::memory::{Mapping, Pages, Shared};
use crate::share::{CopyIn, CopyOut, GrantedPage, PeerMemory, ShareError, SharedMem};
use alloc::rc::Rc;
pub use guest_machine::grant::{Access, CopyBatch, Grant, GrantMapping};
use guest_machine::hypercall::Errno;
use shared_abi::{DomId, GrantRef};

macro_rules! shared_mem {
    ($($ty:ty),*) => { $(
        impl SharedMem for $ty {
            fn len(&self) -> usize {
                Shared::len(self)
            }
            fn read(&self, at: usize, to: &mut [u8]) {
                self.read_bytes(at, to)
            }
            fn write(&self, at: usize, from: &[u8]) {
                self.write_bytes(at, from)
            }
            fn load(&self, at: usize) -> u32 {
                self.load_u32(at)
            }
            fn store(&self, at: usize, value: u32) {
                self.store_u32(at, value)
            }
        }
    )* };
}

shared_mem!(Shared, Pages, Mapping, GrantMapping, SharedPage);

impl From<Errno> for ShareError {
    fn from(errno: Errno) -> ShareError {
        match errno {
            Errno::ENOSPC | Errno::ENOMEM => ShareError::Exhausted,
            _ => ShareError::BadGrant,
        }
    }
}

/// One zeroed page of ours that a peer may read and write.
#[derive(Debug)]
pub struct SharedPage {
    // Dropped before the page: the grant ends first.
    grant: Grant,
    page: Rc<Pages>,
}

impl SharedPage {
    /// A new page, offered to `domid`.
    pub fn new(domid: DomId) -> Result<SharedPage, Errno> {
        let page = Rc::new(Pages::new(1)?);
        Ok(SharedPage { grant: Grant::offer(&page, 0, domid, Access::ReadWrite)?, page })
    }
}

impl core::ops::Deref for SharedPage {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.page
    }
}

impl GrantedPage for SharedPage {
    fn gref(&self) -> GrantRef {
        self.grant.reference()
    }
}

/// What another domain has granted us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub DomId);

impl PeerMemory for Peer {
    type Mapping = GrantMapping;

    fn map(&self, gref: GrantRef) -> Result<GrantMapping, ShareError> {
        Ok(GrantMapping::map(self.0, &[gref], Access::ReadWrite)?)
    }

    fn copy_in(&self, batch: &mut [CopyIn<'_>]) {
        let mut copies = CopyBatch::new();
        for copy in batch.iter_mut() {
            copy.result =
                copies.read(self.0, copy.gref, copy.offset.into(), copy.to).map_err(ShareError::from);
        }
        let results = copies.run();
        for (copy, result) in batch.iter_mut().filter(|copy| copy.result.is_ok()).zip(results) {
            copy.result = result.map_err(ShareError::from);
        }
    }

    fn copy_out(&self, batch: &mut [CopyOut<'_>]) {
        let mut copies = CopyBatch::new();
        for copy in batch.iter_mut() {
            copy.result =
                copies.write(self.0, copy.gref, copy.offset.into(), copy.from).map_err(ShareError::from);
        }
        let results = copies.run();
        for (copy, result) in batch.iter_mut().filter(|copy| copy.result.is_ok()).zip(results) {
            copy.result = result.map_err(ShareError::from);
        }
    }
}
