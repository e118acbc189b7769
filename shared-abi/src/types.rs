//! The ABI's scalar kinds as distinct types, so that one cannot stand for another by accident.
//!
//! They restate `xen_pfn_t`, `domid_t` (xen.h), `evtchn_port_t` (event_channel.h), `grant_ref_t`
//! (grant_table.h) and guest handles (arch-x86/xen.h). Which of the three frame numbers a
//! `xen_pfn_t` is depends on the field; each structure says it by its field's type.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! scalar {
    ($(#[$meta:meta])* $name:ident($ty:ty)) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        pub struct $name(pub $ty);
    };
}

scalar! {
    /// A machine frame number: 4 KiB of real RAM (or device memory).
    Mfn(u64)
}
scalar! {
    /// A guest's own numbering of its frames (pseudo-physical).
    Pfn(u64)
}
scalar! {
    /// What a guest passes to a hypercall: an `Mfn` for PV, a `Pfn` for translated guests.
    Gfn(u64)
}
scalar! {
    /// A domain's number, or one of the reserved ones below.
    DomId(u16)
}
scalar! {
    /// An event channel's number within its domain.
    Port(u32)
}
scalar! {
    /// An index into the granting domain's grant table.
    GrantRef(u32)
}
scalar! {
    /// A vcpu's number within its domain.
    VcpuId(u32)
}
scalar! {
    /// A guest virtual address as a guest claims it: an allegation. Nothing here can follow it.
    GuestAddr(u64)
}

impl DomId {
    /// The first number that no domain can have.
    pub const FIRST_RESERVED: DomId = DomId(0x7ff0);
    /// The calling domain.
    pub const SELF: DomId = DomId(0x7ff0);
    /// Owner of device memory.
    pub const IO: DomId = DomId(0x7ff1);
    /// Owner of the hypervisor's own frames.
    pub const XEN: DomId = DomId(0x7ff2);
    /// Owner of shared copy-on-write frames.
    pub const COW: DomId = DomId(0x7ff3);
    /// No domain.
    pub const INVALID: DomId = DomId(0x7ff4);
    /// The idle domain.
    pub const IDLE: DomId = DomId(0x7fff);
    /// The bits a domain number may use.
    pub const MASK: DomId = DomId(0x7fff);

    /// Whether this can be a real domain's number.
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl Mfn {
    /// The machine address of the frame's first byte. Wraps for a frame number no machine has.
    pub const fn address(self) -> u64 {
        self.0 << crate::PAGE_SHIFT
    }

    /// The frame that holds machine address `maddr`.
    pub const fn containing(maddr: u64) -> Mfn {
        Mfn(maddr >> crate::PAGE_SHIFT)
    }
}

macro_rules! display {
    ($format:literal: $($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}
display!("{}": DomId Port GrantRef VcpuId);
display!("{:#x}": Mfn Pfn Gfn GuestAddr);
