//! A vcpu's `vcpu_info`: the few words through which guest and hypervisor speak about upcalls, and the
//! guest's copy of the clock.
//!
//! It begins in the domain's shared_info page (vcpus below 32) and moves once to where the guest
//! registers it (`VCPUOP_register_vcpu_info`). The guest writes it at will: nothing read from it
//! decides more than whether this vcpu gets an upcall.

use super::Domain;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use hv_machine::frame::{Frame, Shared, Writable};
use hv_machine::ram::Page;
use shared_abi::Errno;
use shared_abi::xen::{SharedInfo, VcpuInfo, VcpuTimeInfo};
use spin::Once;

const PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
const MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
const SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
const ARCH: usize = offset_of!(VcpuInfo, arch);
const TIME: usize = offset_of!(VcpuInfo, time);

/// The words of a `vcpu_info`, wherever it lies. Whose slot it is keeps the frame.
#[derive(Clone, Copy)]
pub struct Info {
    pending: &'static AtomicU8,
    mask: &'static AtomicU8,
    selector: &'static AtomicU64,
    cr2: &'static AtomicU64,
}

impl Info {
    /// Of a vcpu that has none: nothing is ever pending there, and what is written is not read.
    pub const fn none() -> Info {
        static BYTES: [AtomicU8; 2] = [const { AtomicU8::new(0) }; 2];
        static WORDS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
        Info { pending: &BYTES[0], mask: &BYTES[1], selector: &WORDS[0], cr2: &WORDS[1] }
    }
    fn at(page: &Page<'static>, at: usize) -> Info {
        Info {
            pending: page.byte(at + PENDING),
            mask: page.byte(at + MASK),
            selector: page.word(at + SEL),
            cr2: page.word(at + ARCH),
        }
    }
    /// `evtchn_upcall_pending` and `evtchn_upcall_mask`.
    pub fn upcall(&self) -> [&'static AtomicU8; 2] {
        [self.pending, self.mask]
    }
    /// Whether an upcall is pending and not masked.
    #[inline(always)]
    pub fn deliverable(&self) -> bool {
        self.pending.load(SeqCst) != 0 && self.mask.load(SeqCst) == 0
    }
    /// Marks an upcall pending; says whether it was before.
    #[inline]
    pub fn set_pending(&self) -> bool {
        self.pending.swap(1, SeqCst) != 0
    }
    /// Sets a bit of the selector word; says whether it was set before.
    #[inline]
    pub fn set_selector(&self, bit: u32) -> bool {
        self.selector.fetch_or(1 << bit, SeqCst) & 1 << bit != 0
    }
    /// Whether upcalls are masked.
    #[inline]
    pub fn upcalls_masked(&self) -> bool {
        self.mask.load(SeqCst) != 0
    }
    /// Masks upcalls; says whether they were before.
    #[inline]
    pub fn mask_upcalls(&self) -> bool {
        self.mask.swap(1, SeqCst) != 0
    }
    /// Masks or unmasks upcalls.
    #[inline]
    pub fn set_mask(&self, masked: bool) {
        self.mask.store(masked.into(), SeqCst);
    }
    /// The guest's CR2.
    pub fn cr2(&self) -> u64 {
        self.cr2.load(SeqCst)
    }
    /// Sets the guest's CR2.
    #[inline]
    pub fn set_cr2(&self, v: u64) {
        self.cr2.store(v, SeqCst);
    }
}

/// Where a vcpu's `vcpu_info` is.
pub struct InfoSlot {
    /// In shared_info: the page's handle, the offset there, and the words.
    first: Option<(Arc<Shared<'static>>, usize, Info)>,
    registered: Once<(Frame<'static, Writable>, usize, Info)>,
}

impl InfoSlot {
    /// Its first place.
    pub fn in_shared_info(domain: &Arc<Domain>, vcpu: u32) -> InfoSlot {
        let at = offset_of!(SharedInfo, vcpu_info) + vcpu as usize * size_of::<VcpuInfo>();
        let first = (vcpu < 32).then(|| (domain.shared.clone(), at, Info::at(&domain.shared.page(), at)));
        InfoSlot { first, registered: Once::new() }
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
        match &self.first {
            Some((s, at, _)) => s.page().read(*at, &mut old),
            None => old[MASK] = 1,
        }
        frame.page().write(offset, &old);
        let info = Info::at(&frame.page(), offset);
        self.registered.call_once(|| (frame, offset, info));
        // An event may have been marked in the old place meanwhile: look at all of them once.
        if let Some(info) = self.get() {
            info.selector.store(!0, SeqCst);
            info.pending.store(1, SeqCst);
        }
        Ok(())
    }

    /// Whether the vcpu has such a place at all (vcpus from 32 on have none before they register one).
    pub fn exists(&self) -> bool {
        self.get().is_some()
    }

    /// Its words where it lies now.
    #[inline]
    pub fn get(&self) -> Option<&Info> {
        match self.registered.get() {
            Some((_, _, info)) => Some(info),
            None => self.first.as_ref().map(|(_, _, info)| info),
        }
    }

    /// Whether an upcall is pending and not masked.
    #[inline]
    pub fn deliverable(&self) -> bool {
        self.get().is_some_and(Info::deliverable)
    }
    /// Marks an upcall pending; says whether it was before.
    #[inline]
    pub fn set_pending(&self) -> bool {
        self.get().is_none_or(Info::set_pending)
    }
    /// Sets a bit of the selector word; says whether it was set before.
    #[inline]
    pub fn set_selector(&self, bit: u32) -> bool {
        self.get().is_none_or(|info| info.set_selector(bit))
    }
    /// Sets a bit of the selector word, then marks an upcall pending; says whether neither was set before.
    #[inline]
    pub fn tell(&self, bit: u32) -> bool {
        self.get().is_some_and(|info| !info.set_selector(bit) && !info.set_pending())
    }
    /// Masks or unmasks upcalls.
    #[inline]
    pub fn set_mask(&self, masked: bool) {
        if let Some(info) = self.get() {
            info.set_mask(masked);
        }
    }
    /// The guest's CR2.
    pub fn cr2(&self) -> u64 {
        self.get().map_or(0, Info::cr2)
    }

    /// Writes the clock's parameters by the version protocol of xen.h `vcpu_time_info`: odd while it changes.
    pub fn set_time(&self, t: &VcpuTimeInfo) {
        let (page, at) = match (self.registered.get(), &self.first) {
            (Some((f, at, _)), _) => (f.page(), *at),
            (None, Some((s, at, _))) => (s.page(), *at),
            (None, None) => return,
        };
        let at = at + TIME;
        let version = page.load_u32(at) & !1;
        page.store_u32(at, version | 1);
        let bytes = zerocopy::IntoBytes::as_bytes(t);
        page.write(at + 8, &bytes[8..]);
        page.store_u32(at, version.wrapping_add(2));
    }
}
