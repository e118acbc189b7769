//! Memory that somebody else may be writing: reached by copying only.
//!
//! A Rust reference promises that nothing changes behind it, which is false of a page shared with
//! another domain, the hypervisor or a device. [`Shared`] never makes one: it copies by volatile
//! accesses, and its 32-bit loads and stores are atomic with acquire and release order, which is
//! what ring indices need. Reading a value twice is two reads of two values; so the type makes
//! "copy once, decide on the copy" the natural way to write a driver.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A window of `len` bytes onto shared memory. Offsets are bytes; an access past the end panics,
/// so bound what comes from outside before it becomes an offset.
#[derive(Debug)]
pub struct Shared {
    base: NonNull<u8>,
    len: usize,
}

impl Shared {
    /// # Safety
    /// `base` is page aligned, and `len` bytes from it stay mapped for the value's life. No Rust
    /// reference to them exists meanwhile.
    pub(crate) const unsafe fn new(base: NonNull<u8>, len: usize) -> Shared {
        Shared { base, len }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of the window.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "{offset:#x}+{len:#x} past {:#x}", self.len);
        // SAFETY: just bounded.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn aligned<T>(&self, offset: usize) -> *mut T {
        assert!(offset.is_multiple_of(size_of::<T>()));
        self.at(offset, size_of::<T>()).cast()
    }

    /// Copies bytes out.
    pub fn read_bytes(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: `at` bounded the range; `to` is private memory, so they don't overlap. The
        // copy's source may change meanwhile: the bytes are then any mix, which is all a u8
        // buffer promises; `opaque_copy` keeps the compiler from reasoning about the source.
        unsafe { opaque_copy(to.as_mut_ptr(), from, to.len()) }
    }

    /// Copies bytes in.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as in `read_bytes`, the other way.
        unsafe { opaque_copy(to, from.as_ptr(), from.len()) }
    }

    /// Copies between two shared windows.
    pub fn copy_from(&self, offset: usize, from: &Shared, from_offset: usize, len: usize) {
        let mut chunk = [0; 256];
        for start in (0..len).step_by(chunk.len()) {
            let part = &mut chunk[..(len - start).min(256)];
            from.read_bytes(from_offset + start, part);
            self.write_bytes(offset + start, part);
        }
    }

    /// Copies a value out. The bytes are read once; a peer that writes meanwhile can mix them.
    pub fn read_value<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.read_bytes(offset, value.as_mut_bytes());
        value
    }

    /// Copies a value in.
    pub fn write_value<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        self.write_bytes(offset, value.as_bytes());
    }

    /// Fills a range with zeroes.
    pub fn clear(&self, offset: usize, len: usize) {
        const ZEROES: [u8; 256] = [0; 256];
        for start in (0..len).step_by(256) {
            self.write_bytes(offset + start, &ZEROES[..(len - start).min(256)]);
        }
    }

    fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: bounded and aligned; an atomic may change behind its reference.
        unsafe { AtomicU16::from_ptr(self.aligned(offset)) }
    }

    fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.aligned(offset)) }
    }

    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.aligned(offset)) }
    }

    /// Loads a 16-bit word; later reads don't move before it.
    pub fn load_u16(&self, offset: usize) -> u16 {
        self.atomic_u16(offset).load(Ordering::Acquire)
    }

    /// Stores a 16-bit word; earlier writes are visible before it.
    pub fn store_u16(&self, offset: usize, value: u16) {
        self.atomic_u16(offset).store(value, Ordering::Release);
    }

    /// Replaces a 16-bit word if it still is `current`; else tells what it is.
    pub fn exchange_u16(&self, offset: usize, current: u16, new: u16) -> Result<(), u16> {
        self.atomic_u16(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    /// Loads a 32-bit word; later reads don't move before it.
    pub fn load_u32(&self, offset: usize) -> u32 {
        self.atomic_u32(offset).load(Ordering::Acquire)
    }

    /// Stores a 32-bit word; earlier writes are visible before it.
    pub fn store_u32(&self, offset: usize, value: u32) {
        self.atomic_u32(offset).store(value, Ordering::Release);
    }

    /// Loads a 64-bit word; later reads don't move before it.
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.atomic_u64(offset).load(Ordering::Acquire)
    }

    /// Sets bits of a 64-bit word; returns what it was.
    pub fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64 {
        self.atomic_u64(offset).fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears all but `bits` of a 64-bit word; returns what it was.
    pub fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64 {
        self.atomic_u64(offset).fetch_and(bits, Ordering::AcqRel)
    }

    /// Loads a byte.
    pub fn load_u8(&self, offset: usize) -> u8 {
        // SAFETY: bounded; a volatile read of one byte.
        unsafe { self.at(offset, 1).read_volatile() }
    }

    /// Stores a byte.
    pub fn store_u8(&self, offset: usize, value: u8) {
        // SAFETY: bounded; a volatile write of one byte.
        unsafe { self.at(offset, 1).write_volatile(value) }
    }
}

/// Orders everything before against everything after, also a store against a later load: between
/// publishing an index and reading the peer's event index.
pub fn full_fence() {
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// A copy that the compiler cannot see through.
///
/// # Safety
/// Both ranges are valid for `len` bytes and do not overlap.
#[inline]
unsafe fn opaque_copy(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..len {
        // SAFETY: the caller's promise.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::Pages;

    #[test]
    fn copies_words_and_bytes() {
        let pages = Pages::new(2).unwrap();
        pages.write_bytes(4090, b"straddling");
        let mut out = [0; 10];
        pages.read_bytes(4090, &mut out);
        assert_eq!(&out, b"straddling");
        pages.store_u32(8, 0x0403_0201);
        assert_eq!(pages.read_value::<[u8; 4]>(8), [1, 2, 3, 4]);
        assert_eq!(pages.exchange_u16(8, 0x0201, 0), Ok(()));
        assert_eq!(pages.exchange_u16(8, 0x0201, 0), Err(0));
        pages.clear(0, 8192);
        assert_eq!(pages.read_value::<[u64; 1024]>(0), [0; 1024]);
    }

    #[test]
    #[should_panic(expected = "past")]
    fn refuses_what_crosses_the_end() {
        Pages::new(1).unwrap().read_value::<u64>(4089);
    }
}
