//! The screen's memory, as the loader told of it.

use super::{paging, start};
use crate::boot::Screen;
use crate::frame::frames;
use core::ops::Range;
use shared_abi::Mfn;

/// The most that a screen is taken to have, in bytes: 8K of four bytes are 127 MiB.
const MOST: u64 = 128 << 20;

/// Memory that the screen shows.
#[derive(Debug)]
pub struct Memory {
    va: u64,
    bytes: u64,
}

/// Maps it. `None` where it can't be a screen's: it overlaps RAM, is empty or too large; or there is no room.
/// A screen that shows pixels can be mapped once, at boot.
pub fn map(screen: &Screen) -> Option<Memory> {
    let bytes = u64::from(screen.pitch) * u64::from(screen.height);
    let end = screen.address.checked_add(bytes).filter(|end| *end < 1 << 46)?;
    if bytes == 0 || bytes > MOST {
        return None;
    }
    let step = if screen.colours.is_some() { paging::LARGE } else { 4096 };
    let whole = screen.address & !(step - 1)..end.next_multiple_of(step);
    if !is_device(&whole) {
        return None;
    }
    let va = match screen.colours {
        Some(_) => paging::map_screen(whole.clone(), &mut start::permanent_frame)?,
        None => paging::map_mmio(whole.start, (whole.end - whole.start) >> 12)?,
    };
    Some(Memory { va: va + screen.address - whole.start, bytes })
}

fn is_device(range: &Range<u64>) -> bool {
    (range.start >> 12..range.end >> 12).all(|mfn| frames().is_io(Mfn(mfn)))
}

impl Memory {
    /// Writes `data` at `offset`, as far as it fits.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.bytes) {
            return;
        }
        let at = (self.va + offset) as *mut u8;
        // SAFETY: within what was mapped (checked above), which is no Rust object's; ordinary copies in whatever
        // steps are what a frame buffer takes.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), at, data.len()) };
    }
}
