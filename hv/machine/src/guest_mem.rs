//! Memory of the guest that runs, by the guest's own addresses.
//!
//! A guest address is an allegation (`GuestAddr` has no accessor): it may be unmapped, read-only,
//! change between two looks, or name the hypervisor. Here ranges that touch the hypervisor's are refused
//! and every access may fault and come back as an error. Callers copy in once and decide on the copy.

use core::marker::PhantomData;
use shared_abi::GuestAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

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

    /// Reads the named words one behind the other, in a straight line; 0 when all were read. A fault goes on behind the
    /// last with 1, and the words are then whatever the registers held.
    macro_rules! read_line {
        ($src:expr; $($v:ident $offset:literal),+) => {{
            let left: u32;
            // SAFETY: the caller's range lies outside the hypervisor's, and each access's fault is caught by its
            // .ex_table entry.
            core::arch::asm!(
                "mov {left:e}, 1",
                $(concat!(
                    "2: mov {", stringify!($v), "}, [{src} + ", $offset, "]\n",
                    ".pushsection .ex_table, \"a\"\n.quad 2b, 3f\n.popsection"
                ),)+
                "xor {left:e}, {left:e}", "3:",
                src = in(reg) $src, left = out(reg) left, $($v = out(reg) $v,)+ options(nostack, readonly)
            );
            left
        }};
    }
    /// The same for writing.
    macro_rules! write_line {
        ($dst:expr; $($v:ident $offset:literal),+) => {{
            let left: u32;
            // SAFETY: as for `read_line`; guest memory is never a Rust object.
            core::arch::asm!(
                "mov {left:e}, 1",
                $(concat!(
                    "2: mov [{dst} + ", $offset, "], {", stringify!($v), "}\n",
                    ".pushsection .ex_table, \"a\"\n.quad 2b, 3f\n.popsection"
                ),)+
                "xor {left:e}, {left:e}", "3:",
                dst = in(reg) $dst, left = out(reg) left, $($v = in(reg) $v,)+ options(nostack)
            );
            left
        }};
    }
    /// Reads `$n` words into an array by [`read_line`].
    macro_rules! read_array {
        ($src:expr, $to:expr; $($v:ident $offset:literal),+) => {{
            $(let $v: u64;)+
            let left = read_line!($src; $($v $offset),+);
            $to.copy_from_slice(&[$($v),+]);
            left == 0
        }};
    }
    macro_rules! write_array {
        ($dst:expr, $from:expr; $($v:ident $offset:literal),+) => {{
            let [$($v),+] = $from;
            write_line!($dst; $($v $offset),+) == 0
        }};
    }

    /// Reads up to nine words; whether it was done.
    ///
    /// # Safety
    /// They lie outside the hypervisor's range, and SMAP's window is open.
    #[inline(always)]
    unsafe fn read_straight(src: u64, to: &mut [u64]) -> bool {
        // SAFETY: the caller's.
        unsafe {
            match to.len() {
                0 => true,
                1 => read_array!(src, to; a 0),
                2 => read_array!(src, to; a 0, b 8),
                3 => read_array!(src, to; a 0, b 8, c 16),
                4 => read_array!(src, to; a 0, b 8, c 16, d 24),
                5 => read_array!(src, to; a 0, b 8, c 16, d 24, e 32),
                6 => read_array!(src, to; a 0, b 8, c 16, d 24, e 32, f 40),
                7 => read_array!(src, to; a 0, b 8, c 16, d 24, e 32, f 40, g 48),
                8 => read_array!(src, to; a 0, b 8, c 16, d 24, e 32, f 40, g 48, h 56),
                9 => read_array!(src, to; a 0, b 8, c 16, d 24, e 32, f 40, g 48, h 56, i 64),
                _ => false,
            }
        }
    }

    /// Writes up to nine words; whether it was done.
    ///
    /// # Safety
    /// As for [`read_straight`].
    #[inline(always)]
    unsafe fn write_straight(dst: u64, from: &[u64]) -> bool {
        // SAFETY: the caller's.
        unsafe {
            match *from {
                [] => true,
                [a] => write_array!(dst, [a]; a 0),
                [a, b] => write_array!(dst, [a, b]; a 0, b 8),
                [a, b, c] => write_array!(dst, [a, b, c]; a 0, b 8, c 16),
                [a, b, c, d] => write_array!(dst, [a, b, c, d]; a 0, b 8, c 16, d 24),
                [a, b, c, d, e] => write_array!(dst, [a, b, c, d, e]; a 0, b 8, c 16, d 24, e 32),
                [a, b, c, d, e, f] => write_array!(dst, [a, b, c, d, e, f]; a 0, b 8, c 16, d 24, e 32, f 40),
                [a, b, c, d, e, f, g] => {
                    write_array!(dst, [a, b, c, d, e, f, g]; a 0, b 8, c 16, d 24, e 32, f 40, g 48)
                }
                [a, b, c, d, e, f, g, h] => {
                    write_array!(dst, [a, b, c, d, e, f, g, h]; a 0, b 8, c 16, d 24, e 32, f 40, g 48, h 56)
                }
                _ => false,
            }
        }
    }

    /// Reads half a word; whether it was done.
    ///
    /// # Safety
    /// As for [`read_straight`].
    #[inline(always)]
    unsafe fn read_half(src: u64, to: &mut u32) -> bool {
        let (v, left): (u32, u32);
        // SAFETY: as for a word.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov {v:e}, [{s}]", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = lateout(reg) v, s = in(reg) src, l = out(reg) left, options(nostack, readonly)
            )
        };
        *to = v;
        left == 0
    }
    /// Writes half a word; whether it was done.
    ///
    /// # Safety
    /// As for [`read_straight`].
    #[inline(always)]
    unsafe fn write_half(dst: u64, v: u32) -> bool {
        let left: u32;
        // SAFETY: as for a word.
        unsafe {
            core::arch::asm!(
                "mov {l:e}, 1", "2: mov [{d}], {v:e}", "xor {l:e}, {l:e}", "3:",
                ".pushsection .ex_table, \"a\"", ".quad 2b, 3b", ".popsection",
                v = in(reg) v, d = in(reg) dst, l = out(reg) left, options(nostack)
            )
        };
        left == 0
    }

    /// Copies a small structure, a multiple of 4 bytes long; whether it was done.
    #[inline(always)]
    pub fn copy_in_small(dst: &mut [u8], at: u64) -> bool {
        let (words, half) = dst.as_chunks_mut::<8>();
        let mut private = [0; 9];
        let n = words.len();
        let mut last = 0;
        stac();
        // SAFETY: the caller checked the range; the half word is the last 4 bytes of it.
        let done = unsafe {
            read_straight(at, &mut private[..n])
                && (half.is_empty() || read_half(at.wrapping_add(8 * n as u64), &mut last))
        };
        clac();
        for (word, v) in words.iter_mut().zip(private) {
            *word = v.to_ne_bytes();
        }
        half.copy_from_slice(&last.to_ne_bytes()[..half.len()]);
        done
    }
    /// The same to the guest.
    #[inline(always)]
    pub fn copy_out_small(at: u64, src: &[u8]) -> bool {
        let (words, half) = src.as_chunks::<8>();
        let mut private = [0; 8];
        let n = words.len();
        for (v, word) in private.iter_mut().zip(words) {
            *v = u64::from_ne_bytes(*word);
        }
        stac();
        // SAFETY: the caller checked the range; the half word is the last 4 bytes of it.
        let done = unsafe {
            write_straight(at, &private[..n])
                && half
                    .first_chunk::<4>()
                    .is_none_or(|half| write_half(at.wrapping_add(8 * n as u64), u32::from_ne_bytes(*half)))
        };
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
    /// Writes up to eight words; whether it was done.
    #[inline(always)]
    pub fn write_words(at: u64, words: &[u64]) -> bool {
        stac();
        // SAFETY: the caller checked the range.
        let done = unsafe { write_straight(at, words) };
        clac();
        done
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
/// Whether a structure of `len` bytes is copied in a straight line of up to `words` words rather than in a loop.
const fn is_small(len: usize, words: usize) -> bool {
    len <= 8 * words && len.is_multiple_of(4)
}
/// As [`access_ok`], for the few bytes (at most 72) of a small structure: only where it begins is looked at. From a
/// guest's last address below the hypervisor its end reaches non-canonical addresses, and the access faults; from the
/// address space's last it wraps to its first, the guest's own.
#[inline(always)]
fn begins_ok(at: GuestAddr) -> bool {
    const END: u64 = 0xffff_8800_0000_0000;
    at.0.wrapping_sub(END) < (1 << 47) + END.wrapping_neg()
}
/// Reads a structure from the guest.
#[inline(always)]
pub fn read<T: FromBytes + IntoBytes>(at: GuestAddr) -> Result<T, Fault> {
    let mut v = T::new_zeroed();
    if const { !is_small(size_of::<T>(), 9) } {
        copy_in(v.as_mut_bytes(), at)?;
    } else if !begins_ok(at) || !imp::copy_in_small(v.as_mut_bytes(), at.0) {
        return Err(Fault);
    }
    Ok(v)
}
/// Writes a structure to the guest.
#[inline(always)]
pub fn write<T: IntoBytes + Immutable>(at: GuestAddr, v: &T) -> Result<(), Fault> {
    if const { !is_small(size_of::<T>(), 8) } {
        copy_out(at, v.as_bytes())
    } else if begins_ok(at) && imp::copy_out_small(at.0, v.as_bytes()) {
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
pub fn write_at<T: IntoBytes + Immutable>(array: GuestAddr, i: u64, v: &T) -> Result<(), Fault> {
    write(offset::<T>(array, i)?, v)
}
/// Address of element `i` of an array.
pub fn offset<T>(array: GuestAddr, i: u64) -> Result<GuestAddr, Fault> {
    let by = i.checked_mul(size_of::<T>() as u64).ok_or(Fault)?;
    array.0.checked_add(by).map(GuestAddr).ok_or(Fault)
}
/// Writes up to eight words, in order.
#[inline(always)]
pub fn write_words(at: GuestAddr, words: &[u64]) -> Result<(), Fault> {
    if begins_ok(at) && imp::write_words(at.0, words) { Ok(()) } else { Err(Fault) }
}
/// Writes one aligned word.
#[inline(always)]
pub fn write_u64(at: GuestAddr, v: u64) -> Result<(), Fault> {
    write_words(at, &[v])
}

/// A list of operations in the guest's memory, all of it outside the hypervisor's range. Each element is read
/// once, and what the hypervisor answers stands at its end.
pub struct List<T> {
    at: u64,
    len: u64,
    element: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> List<T> {
    /// `len` elements from `at` on.
    ///
    /// # Errors
    /// [`Fault`] when they are not all where a guest's memory can be.
    #[inline]
    pub fn new(at: GuestAddr, len: u64) -> Result<Self, Fault> {
        const { assert!(is_small(size_of::<T>(), 8)) };
        // At most 256 GiB: as for `begins_ok`, what goes on past the last address below the hypervisor's is not
        // canonical for much longer than that, and what goes on past the address space's last is the guest's.
        let ok = begins_ok(at) && len <= u32::MAX.into();
        if ok { Ok(List { at: at.0, len, element: PhantomData }) } else { Err(Fault) }
    }
    /// Where element `i` is.
    ///
    /// # Errors
    /// As the rest: [`Fault`] past the list's end, and where the memory is not accessible.
    #[inline(always)]
    pub fn address(&self, i: u64) -> Result<GuestAddr, Fault> {
        if i < self.len { Ok(GuestAddr(self.at.wrapping_add(i * size_of::<T>() as u64))) } else { Err(Fault) }
    }
    /// Reads element `i` into `v`, which has no meaning after an error.
    #[inline(always)]
    pub fn read(&self, i: u64, v: &mut T) -> Result<(), Fault> {
        if imp::copy_in_small(v.as_mut_bytes(), self.address(i)?.0) { Ok(()) } else { Err(Fault) }
    }
    /// Writes the last `N` bytes of element `i`, a multiple of 4.
    #[inline(always)]
    pub fn write_end<const N: usize>(&self, i: u64, v: &T) -> Result<(), Fault> {
        const { assert!(is_small(N, 8) && N <= size_of::<T>()) };
        let before = size_of::<T>() - N;
        let at = self.address(i)?.0.wrapping_add(before as u64);
        if imp::copy_out_small(at, &v.as_bytes()[before..]) { Ok(()) } else { Err(Fault) }
    }
}
