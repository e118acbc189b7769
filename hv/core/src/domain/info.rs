//! A vcpu's `vcpu_info`: the few words through which guest and hypervisor speak about upcalls, and the
//! guest's copy of the clock.
//!
//! It begins in the domain's shared_info page (vcpus below 32) and moves once to where the guest
//! registers it (`VCPUOP_register_vcpu_info`). The guest writes it at will: nothing read from it
//! decides more than whether this vcpu gets an upcall.

use super::Domain;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU16, Ordering::SeqCst};
use hv_machine::frame::{Frame, Shared, Writable};
use hv_machine::ram::Page;
use shared_abi::Errno;
use shared_abi::xen::{SharedInfo, VcpuInfo, VcpuTimeInfo};
use spin::Once;

const PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
const MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
const SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
const _: () = assert!(PENDING == 0 && MASK == 1);
const ARCH: usize = offset_of!(VcpuInfo, arch);
const TIME: usize = offset_of!(VcpuInfo, time);

/// Whether an upcall is pending (the lower byte) and not masked (the upper).
#[inline(always)]
pub fn deliverable(word: &AtomicU16) -> bool {
    let both = word.load(SeqCst);
    both & 0xff != 0 && both >> 8 == 0
}

/// Where a vcpu's `vcpu_info` is.
pub struct InfoSlot {
    shared: Option<(Arc<Shared<'static>>, usize)>,
    registered: Once<(Frame<'static, Writable>, usize)>,
}

impl InfoSlot {
    /// Its first place.
    pub fn in_shared_info(domain: &Arc<Domain>, vcpu: u32) -> InfoSlot {
        let at = offset_of!(SharedInfo, vcpu_info) + vcpu as usize * size_of::<VcpuInfo>();
        InfoSlot { shared: (vcpu < 32).then(|| (domain.shared.clone(), at)), registered: Once::new() }
    }

    /// Moves it to `offset` of a frame of the guest's, with its contents.
    ///
    /// # Errors
    /// `EINVAL` when it was moved before.
    pub fn register(&self, frame: Frame<'static, Writable>, offset: usize) -> Result<(), Errno> {
        if self.registered.is_completed() {
            return Err(Errno::EINVAL);
        }
        let mut old = [0u8; size_of::<VcpuInfo>()];
        match &self.shared {
            Some((s, at)) => s.page().read(*at, &mut old),
            None => old[MASK] = 1,
        }
        frame.page().write(offset, &old);
        self.registered.call_once(|| (frame, offset));
        // An event may have been marked in the old place meanwhile: look at all of them once.
        if let Some((p, at)) = self.place() {
            p.store_u64(at + SEL, !0);
            p.store_u8(at + PENDING, 1);
        }
        Ok(())
    }

    /// Whether the vcpu has such a place at all (vcpus from 32 on have none before they register one).
    pub fn exists(&self) -> bool {
        self.shared.is_some() || self.registered.is_completed()
    }

    #[inline]
    fn place(&self) -> Option<(Page<'static>, usize)> {
        match self.registered.get() {
            Some((f, at)) => Some((f.page(), *at)),
            None => self.shared.as_ref().map(|(s, at)| (s.page(), *at)),
        }
    }

    /// Whether an upcall is pending and not masked.
    #[inline]
    pub fn deliverable(&self) -> bool {
        self.upcall_word().is_some_and(deliverable)
    }
    /// Pending and mask as one word, for the CPU that runs the vcpu and so keeps this slot.
    pub fn upcall_word(&self) -> Option<&'static AtomicU16> {
        self.place().map(|(p, at)| p.word_u16(at + PENDING))
    }
    /// Marks an upcall pending; says whether it was before.
    #[inline]
    pub fn set_pending(&self) -> bool {
        self.place().is_none_or(|(p, at)| p.swap_u8(at + PENDING, 1) != 0)
    }
    /// Sets a bit of the selector word; says whether it was set before.
    #[inline]
    pub fn set_selector(&self, bit: u32) -> bool {
        self.place().is_none_or(|(p, at)| p.or_u64(at + SEL, 1 << bit) & 1 << bit != 0)
    }
    /// Sets a bit of the selector word, then marks an upcall pending; says whether neither was set before.
    #[inline]
    pub fn tell(&self, bit: u32) -> bool {
        self.place().is_some_and(|(p, at)| {
            p.or_u64(at + SEL, 1 << bit) & 1 << bit == 0 && p.swap_u8(at + PENDING, 1) == 0
        })
    }
    /// Whether upcalls are masked.
    #[inline]
    pub fn upcalls_masked(&self) -> bool {
        self.place().is_none_or(|(p, at)| p.load_u8(at + MASK) != 0)
    }
    /// Masks upcalls; says whether they were before.
    #[inline]
    pub fn mask_upcalls(&self) -> bool {
        self.place().is_none_or(|(p, at)| p.swap_u8(at + MASK, 1) != 0)
    }
    /// Masks or unmasks upcalls.
    #[inline]
    pub fn set_mask(&self, masked: bool) {
        if let Some((p, at)) = self.place() {
            p.store_u8(at + MASK, masked.into());
        }
    }
    /// The guest's CR2.
    pub fn cr2(&self) -> u64 {
        self.place().map_or(0, |(p, at)| p.load_u64(at + ARCH))
    }
    /// Sets the guest's CR2.
    #[inline]
    pub fn set_cr2(&self, v: u64) {
        if let Some((p, at)) = self.place() {
            p.store_u64(at + ARCH, v);
        }
    }

    /// Writes the clock's parameters by the version protocol of xen.h `vcpu_time_info`: odd while it changes.
    pub fn set_time(&self, t: &VcpuTimeInfo) {
        let Some((p, at)) = self.place() else { return };
        let at = at + TIME;
        let version = p.load_u32(at) & !1;
        p.store_u32(at, version | 1);
        let bytes = zerocopy::IntoBytes::as_bytes(t);
        p.write(at + 8, &bytes[8..]);
        p.store_u32(at, version.wrapping_add(2));
    }
}
