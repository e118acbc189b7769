//! Physical memory by frame number: the one place that turns an `Mfn` into a pointer.
//!
//! On the target all RAM lies linearly at the direct map; on the host a boxed array of words stands for
//! it, so everything above runs there unchanged. The hardest decision is what may be *safe*: a guest
//! changes most of this memory while we look at it, and a write to the wrong frame could be a write to
//! the hypervisor itself. So no Rust reference to frame contents ever exists: there are only atomic
//! accesses of a word, and byte copies in assembly, which the compiler can assume nothing about. And a
//! [`Page`], which writes, comes only from a handle that proves the frame to be fit for it
//! ([`crate::frame::Block`], `Frame<Writable>`, [`crate::frame::Shared`]).

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Bytes of a frame.
pub const FRAME_BYTES: usize = 4096;

/// All of physical memory from frame 0 up.
pub struct Ram {
    base: *mut u8,
    frames: u64,
    /// Keeps the host's box alive; `base` points into it.
    #[cfg(not(target_os = "none"))]
    _backing: Option<alloc::boxed::Box<[AtomicU64]>>,
}

// SAFETY: `base` is only dereferenced by the atomic and volatile accesses below, which any number of
// CPUs may do at once; `frames` never changes.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// RAM whose frame 0 is at `base`.
    ///
    /// # Safety
    /// `base + 4096 * mfn` must stay mapped writable, with the memory's usual cache attributes, for
    /// every frame below `frames` that holds RAM, and Rust objects may live in these frames only if no
    /// [`Page`] or [`crate::frame::FrameTable`] is told that the frame is free or a guest's.
    pub const unsafe fn new(base: *mut u8, frames: u64) -> Ram {
        Ram {
            base,
            frames,
            #[cfg(not(target_os = "none"))]
            _backing: None,
        }
    }

    /// A machine of `frames` frames, all zero, for tests on the host.
    #[cfg(not(target_os = "none"))]
    pub fn fake(frames: usize) -> Ram {
        let words: alloc::boxed::Box<[AtomicU64]> =
            (0..frames * FRAME_BYTES / 8).map(|_| AtomicU64::new(0)).collect();
        let base = words.as_ptr().cast_mut().cast();
        Ram { base, frames: frames as u64, _backing: Some(words) }
    }

    /// How many frames there are, holes included.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// The pointer to a byte of a frame; `bytes` from there are inside the frame.
    #[inline]
    fn at(&self, mfn: u32, offset: usize, bytes: usize) -> *mut u8 {
        assert!(u64::from(mfn) < self.frames, "frame beyond RAM");
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= FRAME_BYTES), "offset beyond the frame");
        // SAFETY: `mfn` and `offset` were just bounded, so this stays inside what `new` was promised
        // (or inside the boxed array of `fake`).
        unsafe { self.base.add(mfn as usize * FRAME_BYTES + offset) }
    }

    /// A word of a page table. `index` below 512.
    #[inline]
    pub(crate) fn entry(&self, mfn: u32, index: usize) -> &AtomicU64 {
        // SAFETY: `at` bounds the address; it is 8-byte aligned because frames are; an atomic may be
        // shared with the MMU and with guests.
        unsafe { AtomicU64::from_ptr(self.at(mfn, index * 8, 8).cast()) }
    }

    /// All words of a page table.
    #[inline]
    pub(crate) fn entries(&self, mfn: u32) -> &[AtomicU64; 512] {
        // SAFETY: as for `entry`, with the whole frame's length given to `at`.
        unsafe { &*self.at(mfn, 0, FRAME_BYTES).cast() }
    }

    /// The frame as one that may be written.
    #[inline]
    pub(crate) fn page(&self, mfn: u32) -> Page<'_> {
        Page(View { ram: self, mfn })
    }

    /// The frame, for reading.
    #[inline]
    pub(crate) fn view(&self, mfn: u32) -> View<'_> {
        View { ram: self, mfn }
    }
}

/// Reads from one frame. Offsets are in bytes; one that leaves the frame, or is not a multiple of the
/// access's size, is a bug of the caller and panics: bound what a guest said before you come here.
#[derive(Clone, Copy)]
pub struct View<'a> {
    ram: &'a Ram,
    mfn: u32,
}

/// Reads from and writes to one frame, as [`View`].
#[derive(Clone, Copy)]
pub struct Page<'a>(View<'a>);

impl<'a> core::ops::Deref for Page<'a> {
    type Target = View<'a>;
    fn deref(&self) -> &View<'a> {
        &self.0
    }
}

macro_rules! words {
    ($($ty:ident $atomic:ident $cell:ident $load:ident $store:ident $swap:ident $cas:ident $or:ident $and:ident)*) => {
        impl<'a> View<'a> {
            $(
            #[inline]
            fn $cell(&self, offset: usize) -> &'a $atomic {
                assert!(offset.is_multiple_of(size_of::<$ty>()), "unaligned access");
                // SAFETY: `at` bounds the address, the assertion aligns it, and an atomic may be shared
                // with guests.
                unsafe { $atomic::from_ptr(self.ram.at(self.mfn, offset, size_of::<$ty>()).cast()) }
            }
            /// Loads a word.
            #[inline]
            pub fn $load(&self, offset: usize) -> $ty {
                self.$cell(offset).load(SeqCst)
            }
            )*
        }
        impl Page<'_> {
            $(
            /// Stores a word.
            #[inline]
            pub fn $store(&self, offset: usize, value: $ty) {
                self.$cell(offset).store(value, SeqCst)
            }
            /// Stores a word and returns the one before.
            #[inline]
            pub fn $swap(&self, offset: usize, value: $ty) -> $ty {
                self.$cell(offset).swap(value, SeqCst)
            }
            /// Stores `new` if the word is `old`; the word found, in `Err` if it was another.
            #[inline]
            pub fn $cas(&self, offset: usize, old: $ty, new: $ty) -> Result<$ty, $ty> {
                self.$cell(offset).compare_exchange(old, new, SeqCst, SeqCst)
            }
            /// Sets bits and returns the word before.
            #[inline]
            pub fn $or(&self, offset: usize, bits: $ty) -> $ty {
                self.$cell(offset).fetch_or(bits, SeqCst)
            }
            /// Keeps only `bits` and returns the word before.
            #[inline]
            pub fn $and(&self, offset: usize, bits: $ty) -> $ty {
                self.$cell(offset).fetch_and(bits, SeqCst)
            }
            )*
        }
    };
}
words! {
    u8 AtomicU8 cell_u8 load_u8 store_u8 swap_u8 cas_u8 or_u8 and_u8
    u16 AtomicU16 cell_u16 load_u16 store_u16 swap_u16 cas_u16 or_u16 and_u16
    u32 AtomicU32 cell_u32 load_u32 store_u32 swap_u32 cas_u32 or_u32 and_u32
    u64 AtomicU64 cell_u64 load_u64 store_u64 swap_u64 cas_u64 or_u64 and_u64
}

impl View<'_> {
    /// Copies bytes out of the frame into private memory.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.ram.at(self.mfn, offset, into.len());
        // SAFETY: `at` bounds the source, `into` is ours alone.
        unsafe { copy(from, into.as_mut_ptr(), into.len()) }
    }
}

/// Bytes of a cache's line, on every 64-bit processor.
const LINE: usize = 64;

impl View<'_> {
    /// Writes bytes of the frame back from the processors' caches, which forget them.
    pub fn write_back(&self, offset: usize, bytes: usize) {
        let at = self.ram.at(self.mfn, offset, bytes);
        let before = at.addr() % LINE;
        for line in (0..before + bytes).step_by(LINE) {
            // SAFETY: every line has a byte of the range, which `at` bounds.
            unsafe { write_back_line(at.wrapping_sub(before).wrapping_add(line)) }
        }
    }
}

/// # Safety
/// A byte of the line must be readable.
#[cfg(target_os = "none")]
unsafe fn write_back_line(line: *const u8) {
    // SAFETY: the caller's promise; contents stay as they are.
    unsafe { core::arch::asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) }
}

/// On the host there is no need.
#[cfg(not(target_os = "none"))]
unsafe fn write_back_line(_: *const u8) {}

impl View<'_> {
    /// Whether every byte of the frame is zero.
    pub fn is_zero(&self) -> bool {
        let bits = |eight: &[AtomicU64]| eight.iter().fold(0, |bits, word| bits | word.load(Relaxed));
        self.ram.entries(self.mfn).chunks_exact(8).all(|eight| bits(eight) == 0)
    }
}

/// Parts of the frame to use often. Whoever keeps one keeps the handle that the page came from.
impl<'a> Page<'a> {
    /// One byte.
    pub fn byte(&self, offset: usize) -> &'a AtomicU8 {
        self.0.cell_u8(offset)
    }
    /// One word.
    pub fn word(&self, offset: usize) -> &'a AtomicU64 {
        self.0.cell_u64(offset)
    }
    /// `N` half words, one behind the other.
    pub fn half_words<const N: usize>(&self, offset: usize) -> &'a [AtomicU32; N] {
        assert!(offset.is_multiple_of(4), "unaligned access");
        // SAFETY: `at` bounds all N of them, the assertion aligns them, and atomics may be shared with guests.
        unsafe { &*self.0.ram.at(self.0.mfn, offset, 4 * N).cast() }
    }
    /// `N` words, one behind the other.
    pub fn words<const N: usize>(&self, offset: usize) -> &'a [AtomicU64; N] {
        assert!(offset.is_multiple_of(8), "unaligned access");
        // SAFETY: `at` bounds all N words, the assertion aligns them, and atomics may be shared with guests.
        unsafe { &*self.0.ram.at(self.0.mfn, offset, 8 * N).cast() }
    }
    /// The whole frame as half-words of 16 bits.
    pub fn halves(&self) -> &'a [AtomicU16; FRAME_BYTES / 2] {
        // SAFETY: as for `words`.
        unsafe { &*self.0.ram.at(self.0.mfn, 0, FRAME_BYTES).cast() }
    }
}

impl Page<'_> {
    /// Copies private bytes into the frame.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.ram.at(self.mfn, offset, from.len());
        // SAFETY: `at` bounds the destination, which a `Page` may write.
        unsafe { copy(from.as_ptr(), to, from.len()) }
    }

    /// Copies `bytes` bytes from another frame, which may be this one.
    #[inline]
    pub fn copy_from(&self, offset: usize, from: View<'_>, from_offset: usize, bytes: usize) {
        let source = from.ram.at(from.mfn, from_offset, bytes);
        let to = self.ram.at(self.mfn, offset, bytes);
        // SAFETY: both ends are bounded; overlap only mixes bytes that a guest owns.
        unsafe { copy(source, to, bytes) }
    }

    /// Writes zero over the whole frame.
    pub fn zero(&self) {
        let to = self.ram.at(self.mfn, 0, FRAME_BYTES);
        // SAFETY: the whole frame is writable to a `Page`; the instruction changes just rcx and rdi.
        unsafe {
            core::arch::asm!("rep stosq", inout("rcx") FRAME_BYTES / 8 => _, inout("rdi") to => _,
                in("rax") 0u64, options(nostack, preserves_flags));
        }
    }
}

/// Copies with string instructions: opaque to the compiler, so that memory which a guest changes at the
/// same moment is no undefined behaviour, only an undefined mix of bytes. By quadwords first: where the processor
/// is quick with single bytes (ERMS) it is as quick with these, elsewhere much quicker. Wider moves would
/// need the guest's vector registers saved, which costs more than a page gains.
///
/// # Safety
/// `from` must be readable and `to` writable for `bytes` bytes, other than by Rust references.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// A run of atomics that lives as long as the machine: a piece of RAM on the target, a box on the host.
pub struct Region<T> {
    base: *const T,
    len: usize,
    /// Keeps the host's box alive; `base` points into it.
    #[cfg(not(target_os = "none"))]
    _backing: Option<alloc::boxed::Box<[T]>>,
}

// SAFETY: a `Region` gives out shared references only, which is what `T: Sync` is about.
unsafe impl<T: Sync> Sync for Region<T> {}
// SAFETY: as above; the host's box is never taken out again.
unsafe impl<T: Sync + Send> Send for Region<T> {}

impl<T> Region<T> {
    /// The `len` values at `base`.
    ///
    /// # Safety
    /// They must be valid, mapped for ever, and used by nobody else but through shared references
    /// (processors and guests may read them).
    pub const unsafe fn new(base: *const T, len: usize) -> Region<T> {
        Region {
            base,
            len,
            #[cfg(not(target_os = "none"))]
            _backing: None,
        }
    }

    /// A region on the host.
    #[cfg(not(target_os = "none"))]
    pub fn boxed(values: impl Iterator<Item = T>) -> Region<T> {
        let values: alloc::boxed::Box<[T]> = values.collect();
        Region { base: values.as_ptr(), len: values.len(), _backing: Some(values) }
    }
}

impl<T> core::ops::Deref for Region<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the promise made to `new`, or the box that `boxed` keeps.
        unsafe { core::slice::from_raw_parts(self.base, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_and_offset_stay_in_their_bytes() {
        let ram = Ram::fake(3);
        let pattern: std::vec::Vec<u8> = (0..40u8).map(|i| i + 1).collect();
        for offset in [0, 1, 7, 8, 4056] {
            for bytes in 0..=40 {
                ram.page(1).zero();
                ram.page(1).write(offset, &pattern[..bytes]);
                let mut whole = [0u8; FRAME_BYTES];
                ram.view(1).read(0, &mut whole);
                assert_eq!(&whole[offset..offset + bytes], &pattern[..bytes]);
                assert!(whole[..offset].iter().chain(&whole[offset + bytes..]).all(|&b| b == 0));
                ram.page(2).zero();
                ram.page(2).copy_from(0, ram.view(1), offset, bytes);
                let mut head = [0u8; 40];
                ram.view(2).read(0, &mut head);
                assert_eq!(&head[..bytes], &pattern[..bytes]);
                assert!(head[bytes..].iter().all(|&b| b == 0));
            }
        }
        assert_eq!(ram.view(0).load_u64(4088), 0);
    }

    #[test]
    #[should_panic(expected = "offset beyond the frame")]
    fn a_copy_past_the_end_is_refused() {
        Ram::fake(2).page(0).write(4090, &[0; 7]);
    }

    #[test]
    #[should_panic(expected = "frame beyond RAM")]
    fn a_frame_past_the_end_is_refused() {
        Ram::fake(2).view(2).load_u64(0);
    }
}
