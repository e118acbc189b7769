//! Transfer buffers shared by all block backends of a driver domain.
//!
//! Data passes through a buffer of ours between the guest's pages and the disk, so a disk driver
//! never sees memory that a guest can change under it. Their number bounds what all guests
//! together can have in flight; they are given out in the order in which they are asked for, so a busy
//! guest takes turns with the others.

use crate::block::protocol::MAX_SEGMENTS;
use crate::share::PAGE_SIZE;
use crate::wait::Line;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::{Deref, DerefMut};

/// Bytes in a buffer: the largest request.
pub const BUFFER_SIZE: usize = MAX_SEGMENTS * PAGE_SIZE;

/// A fixed number of buffers of [`BUFFER_SIZE`] bytes.
pub struct Buffers {
    free: RefCell<Vec<Box<[u8]>>>,
    line: Line,
}

impl Buffers {
    /// `count` buffers; at least one.
    pub fn new(count: usize) -> Rc<Self> {
        let free = (0..count.max(1)).map(|_| vec![0; BUFFER_SIZE].into_boxed_slice()).collect();
        Rc::new(Buffers { free: RefCell::new(free), line: Line::new() })
    }

    /// Number of buffers nobody holds.
    pub fn available(&self) -> usize {
        self.free.borrow().len()
    }

    /// Waits for a buffer. It still holds what its last user left in it.
    pub async fn take(self: &Rc<Self>) -> Buffer {
        let bytes = self.line.wait(|| self.free.borrow_mut().pop()).await;
        Buffer { bytes, home: self.clone() }
    }
}

/// A buffer on loan; it goes back when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    home: Rc<Buffers>,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.free.borrow_mut().push(core::mem::take(&mut self.bytes));
        self.home.line.wake();
    }
}
