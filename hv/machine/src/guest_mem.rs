//! Memory of the guest that runs, by the guest's own addresses.
//!
//! A guest address is an allegation (`GuestAddr` has no accessor): it may be unmapped, read-only,
//! change between two looks, or name the hypervisor. Here ranges that touch the hypervisor's are refused
//! and every access may fault and come back as an error. Callers copy in once and decide on the copy.

use shared_abi::GuestAddr;
use zerocopy::{FromBytes, IntoBytes};

/// The guest's memory couldn't be accessed as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Whether `len` bytes at `at` begin at an address that a guest can have, and touch neither the hypervisor's
/// range nor the end of the address space.
#[inline(always)]
pub fn access_ok(at: GuestAddr, len: usize) -> bool {
    let Some(end) = at.0.checked_add(len as u64) else { return false };
    at.0 < 1 << 47 && end <= 0xffff_8000_0000_0000 || at.0 >= 0xffff_8800_0000_0000
}

#[cfg(target_os = "none")]
mod imp {
    use crate::x86_64::cpu::{clac, stac};
    unsafe extern "C" {
        fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
        fn guest_zero(dst: *mut u8, len: usize) -> usize;
    }

    /// Reads a word; 0 when it was done. A fault goes on behind the instruction with `left` still set.
    ///
    /// # Safety
    /// The address lies outside the hypervisor's range.
    #[inline(always)]
    unsafe fn guest_read_u64(src: *const u64, out: &mut u64) -> usize {
        let (v, left): (u64, usize);
        // SAFETY: a fault is caught by the .ex_table entry; `v` is then whatever the register held.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov {v}, [{s}]", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = out(reg) v, s = in(reg) src, l = out(reg) left, options(nostack, readonly)
            )
        };
        *out = v;
        left
    }
    /// Writes a word; 0 when it was done.
    ///
    /// # Safety
    /// As for the read.
    #[inline(always)]
    unsafe fn guest_write_u64(dst: *mut u64, v: u64) -> usize {
        let left: usize;
        // SAFETY: as above; guest memory is never a Rust object.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov [{d}], {v}", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = in(reg) v, d = in(reg) dst, l = out(reg) left, options(nostack)
            )
        };
        left
    }
    /// Reads half a word; 0 when it was done.
    ///
    /// # Safety
    /// As for the read of a word.
    #[inline(always)]
    unsafe fn guest_read_u32(src: *const u32, out: &mut u32) -> usize {
        let (v, left): (u32, usize);
        // SAFETY: as for a word.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov {v:e}, [{s}]", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = out(reg) v, s = in(reg) src, l = out(reg) left, options(nostack, readonly)
            )
        };
        *out = v;
        left
    }
    /// Writes half a word; 0 when it was done.
    ///
    /// # Safety
    /// As for the read of a word.
    #[inline(always)]
    unsafe fn guest_write_u32(dst: *mut u32, v: u32) -> usize {
        let left: usize;
        // SAFETY: as for a word.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov [{d}], {v:e}", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = in(reg) v, d = in(reg) dst, l = out(reg) left, options(nostack)
            )
        };
        left
    }
    /// Copies a small structure, a multiple of 4 bytes long; whether it was done.
    #[inline(always)]
    pub fn copy_in_small(dst: &mut [u8], at: u64) -> bool {
        let (words, half) = dst.as_chunks_mut::<8>();
        let end = at + 8 * words.len() as u64;
        stac();
        let mut done = words.iter_mut().enumerate().all(|(i, word)| {
            let mut v = 0;
            // SAFETY: as for `copy_in`, word by word.
            let left = unsafe { guest_read_u64((at + 8 * i as u64) as *const u64, &mut v) };
            *word = v.to_ne_bytes();
            left == 0
        });
        if let Some(half) = half.first_chunk_mut::<4>()
            && done
        {
            let mut v = 0;
            // SAFETY: as for `copy_in`: the last 4 bytes.
            done = unsafe { guest_read_u32(end as *const u32, &mut v) } == 0;
            *half = v.to_ne_bytes();
        }
        clac();
        done
    }
    /// The same to the guest.
    #[inline(always)]
    pub fn copy_out_small(at: u64, src: &[u8]) -> bool {
        let (words, half) = src.as_chunks::<8>();
        let end = at + 8 * words.len() as u64;
        stac();
        let mut done = words.iter().enumerate().all(|(i, word)| {
            // SAFETY: as for `copy_out`, word by word.
            unsafe { guest_write_u64((at + 8 * i as u64) as *mut u64, u64::from_ne_bytes(*word)) == 0 }
        });
        if let Some(half) = half.first_chunk::<4>()
            && done
        {
            // SAFETY: as for `copy_out`: the last 4 bytes.
            done = unsafe { guest_write_u32(end as *mut u32, u32::from_ne_bytes(*half)) } == 0;
        }
        clac();
        done
    }
    pub fn copy_in(dst: &mut [u8], at: u64) -> usize {
        stac();
        // SAFETY: `dst` is ours; the source was checked to lie outside the hypervisor, and a fault comes
        // back as the count left.
        let left = unsafe { guest_copy(dst.as_mut_ptr(), at as *const u8, dst.len()) };
        clac();
        left
    }
    pub fn copy_out(at: u64, src: &[u8]) -> usize {
        stac();
        // SAFETY: as above, the other way: guest memory is never a Rust object.
        let left = unsafe { guest_copy(at as *mut u8, src.as_ptr(), src.len()) };
        clac();
        left
    }
    pub fn zero(at: u64, len: usize) -> usize {
        stac();
        // SAFETY: as for `copy_out`.
        let left = unsafe { guest_zero(at as *mut u8, len) };
        clac();
        left
    }
    #[inline(always)]
    pub fn read_u64(at: u64) -> Option<u64> {
        let mut v = 0;
        stac();
        // SAFETY: as for `copy_in`.
        let left = unsafe { guest_read_u64(at as *const u64, &mut v) };
        clac();
        (left == 0).then_some(v)
    }
    #[inline(always)]
    pub fn write_words(at: u64, words: &[u64]) -> bool {
        stac();
        // SAFETY: as for `copy_out`, word by word.
        let done = words.iter().enumerate().all(|(i, w)| unsafe { guest_write_u64((at + 8 * i as u64) as *mut u64, *w) } == 0);
        clac();
        done
    }
    #[inline(always)]
    pub fn read_words<const N: usize>(at: u64) -> Option<[u64; N]> {
        let mut out = [0; N];
        stac();
        // SAFETY: as for `copy_in`, word by word.
        let done = out.iter_mut().enumerate().all(|(i, w)| unsafe { guest_read_u64((at + 8 * i as u64) as *const u64, w) } == 0);
        clac();
        done.then_some(out)
    }
    #[inline(always)]
    pub fn write_u64(at: u64, v: u64) -> bool {
        stac();
        // SAFETY: as for `copy_out`.
        let left = unsafe { guest_write_u64(at as *mut u64, v) };
        clac();
        left == 0
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    //! On the host there is no guest: every access faults.
    pub fn copy_in(dst: &mut [u8], _: u64) -> usize {
        dst.len()
    }
    pub fn copy_out(_: u64, src: &[u8]) -> usize {
        src.len()
    }
    pub fn zero(_: u64, len: usize) -> usize {
        len
    }
    pub fn copy_in_small(_: &mut [u8], _: u64) -> bool {
        false
    }
    pub fn copy_out_small(_: u64, _: &[u8]) -> bool {
        false
    }
    pub fn write_words(_: u64, _: &[u64]) -> bool {
        false
    }
    pub fn read_words<const N: usize>(_: u64) -> Option<[u64; N]> {
        None
    }
    pub fn read_u64(_: u64) -> Option<u64> {
        None
    }
    pub fn write_u64(_: u64, _: u64) -> bool {
        false
    }
}

/// Copies bytes from the guest.
pub fn copy_in(dst: &mut [u8], at: GuestAddr) -> Result<(), Fault> {
    if access_ok(at, dst.len()) && imp::copy_in(dst, at.0) == 0 { Ok(()) } else { Err(Fault) }
}
/// Copies as many bytes as are accessible from the guest; says how many.
pub fn copy_in_some(dst: &mut [u8], at: GuestAddr) -> usize {
    if access_ok(at, dst.len()) { dst.len() - imp::copy_in(dst, at.0) } else { 0 }
}
/// Copies bytes to the guest.
pub fn copy_out(at: GuestAddr, src: &[u8]) -> Result<(), Fault> {
    if access_ok(at, src.len()) && imp::copy_out(at.0, src) == 0 { Ok(()) } else { Err(Fault) }
}
/// Zeroes bytes of the guest.
pub fn zero(at: GuestAddr, len: usize) -> Result<(), Fault> {
    if access_ok(at, len) && imp::zero(at.0, len) == 0 { Ok(()) } else { Err(Fault) }
}
/// Whether a structure of `len` bytes is copied in a straight line of words rather than in a loop.
const fn is_small(len: usize) -> bool {
    len <= 64 && len.is_multiple_of(4)
}
/// Reads a structure from the guest.
#[inline]
pub fn read<T: FromBytes + IntoBytes>(at: GuestAddr) -> Result<T, Fault> {
    let mut v = T::new_zeroed();
    if const { !is_small(size_of::<T>()) } {
        copy_in(v.as_mut_bytes(), at)?;
    } else if !access_ok(at, size_of::<T>()) || !imp::copy_in_small(v.as_mut_bytes(), at.0) {
        return Err(Fault);
    }
    Ok(v)
}
/// Writes a structure to the guest.
#[inline]
pub fn write<T: IntoBytes + zerocopy::Immutable>(at: GuestAddr, v: &T) -> Result<(), Fault> {
    if const { !is_small(size_of::<T>()) } {
        copy_out(at, v.as_bytes())
    } else if access_ok(at, size_of::<T>()) && imp::copy_out_small(at.0, v.as_bytes()) {
        Ok(())
    } else {
        Err(Fault)
    }
}
/// Reads element `i` of an array.
#[inline]
pub fn read_at<T: FromBytes + IntoBytes>(array: GuestAddr, i: u64) -> Result<T, Fault> {
    read(offset::<T>(array, i)?)
}
/// Writes element `i` of an array.
#[inline]
pub fn write_at<T: IntoBytes + zerocopy::Immutable>(array: GuestAddr, i: u64, v: &T) -> Result<(), Fault> {
    write(offset::<T>(array, i)?, v)
}
/// Address of element `i` of an array.
pub fn offset<T>(array: GuestAddr, i: u64) -> Result<GuestAddr, Fault> {
    let by = i.checked_mul(size_of::<T>() as u64).ok_or(Fault)?;
    array.0.checked_add(by).map(GuestAddr).ok_or(Fault)
}
/// Reads one aligned word.
#[inline(always)]
pub fn read_u64(at: GuestAddr) -> Result<u64, Fault> {
    if access_ok(at, 8) { imp::read_u64(at.0).ok_or(Fault) } else { Err(Fault) }
}
/// Writes words, in order.
#[inline]
pub fn write_words(at: GuestAddr, words: &[u64]) -> Result<(), Fault> {
    if access_ok(at, 8 * words.len()) && imp::write_words(at.0, words) { Ok(()) } else { Err(Fault) }
}
/// Reads words, in order.
#[inline]
pub fn read_words<const N: usize>(at: GuestAddr) -> Result<[u64; N], Fault> {
    if access_ok(at, 8 * N) { imp::read_words(at.0).ok_or(Fault) } else { Err(Fault) }
}
/// Writes one aligned word.
#[inline(always)]
pub fn write_u64(at: GuestAddr, v: u64) -> Result<(), Fault> {
    if access_ok(at, 8) && imp::write_u64(at.0, v) { Ok(()) } else { Err(Fault) }
}
