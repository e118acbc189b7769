//! Domains: what one is, and the list of them.
//!
//! | file | concept |
//! | --- | --- |
//! | `vcpu` | a virtual CPU |
//! | `info` | `vcpu_info` |
//! | `current` | the vcpu that this CPU runs, as handlers see it |
//! | `debug` | debug registers |
//! | `events` | event delivery wired to vcpus |
//! | `grants` | grant tables wired to domains |
//! | `dom0` | building the first domain |
//! | `lifecycle` | create, pause, shut down, destroy |
//! | `list` | all domains, by number |

pub mod current;
pub mod debug;
pub mod dom0;
pub mod events;
pub mod grants;
pub mod info;
mod kernel;
pub mod lifecycle;
mod list;
pub mod vcpu;

pub use current::Current;
pub use list::{find, next_from};
pub use vcpu::{Context, Vcpu};

use crate::emul::cpuid::Policy;
use crate::event;
use crate::time::Watchdogs;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::*};
use hv_machine::frame::Shared;
use hv_machine::lock::Mutex;
use shared_abi::DomId;
use shared_abi::memory::E820Entry;
use spin::Once;

/// Entries of a memory map that a domain's builder may set.
pub const MOST_E820: usize = 32;

/// A domain.
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// Its uuid (`xen_domain_handle_t`).
    pub handle: Mutex<[u8; 16]>,
    /// The control domain: may use privileged operations and the hardware (access.rs).
    pub control: bool,
    /// Its shared_info page.
    pub shared: Arc<Shared<'static>>,
    /// The event bits in there.
    pub bits: events::Bits,
    /// Its event channels.
    pub ports: event::Ports,
    /// Its event queues, where it uses the FIFO ABI.
    pub fifo: Mutex<Option<event::Fifo<events::EventFrame>>>,
    /// The lock of its event channels.
    pub event_lock: Mutex<event::Control>,
    /// Its vcpus; set up once, by `max_vcpus`.
    vcpus: Once<Vec<Arc<Vcpu>>>,
    /// Grants it gave, and its mappings of others'.
    pub grants: grants::Grants,
    /// Memory: limits and counts.
    pub memory: crate::mm::Account,
    /// What CPUID says to it.
    pub policy: Mutex<Arc<Policy>>,
    /// I/O ports and memory, interrupts it may use.
    pub rights: Mutex<crate::irq::rights::Rights>,
    /// Physical interrupts bound to it.
    pub pirqs: crate::irq::pirq::Pirqs,
    /// How many times it is paused by the control domain.
    pub pauses: AtomicU32,
    /// It shut down, with this reason (`SHUTDOWN_*`); -1 while it runs.
    pub shutdown: AtomicI64,
    /// The reason that its shutdown will have whatever it says (`SCHEDOP_shutdown_code`); -1: none.
    pub shutdown_code: AtomicI64,
    /// The log has told of its crash: each vcpu may have one to tell of, and a serial line is slow.
    pub crash_told: AtomicBool,
    /// It is being destroyed; `lifecycle` says how far.
    pub dying: AtomicBool,
    /// Destroyed but for frames that others still map by grant.
    pub relinquished: AtomicBool,
    /// Its watchdogs (`SCHEDOP_watchdog`).
    pub watchdogs: Mutex<Watchdogs>,
    /// Enabled `VMASST_TYPE_*`, as bits.
    pub assists: AtomicU64,
    /// Seconds that its wall clock is ahead of UTC.
    pub time_offset: AtomicI64,
    /// The memory map its builder set (`XENMEM_set_memory_map`).
    pub e820: Mutex<ArrayVec<E820Entry, MOST_E820>>,
    /// The latch of port 0xCF8.
    pub pci_latch: AtomicU32,
    /// The latch of port 0x70.
    pub cmos_index: AtomicU8,
    /// Largest number of vcpus.
    pub max_vcpus: u32,
}

impl Domain {
    /// Its vcpus (none before `max_vcpus` was said).
    #[inline]
    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        self.vcpus.get().map_or(&[], |v| v)
    }
    /// A vcpu by number.
    #[inline]
    pub fn vcpu(&self, id: u32) -> Option<&Arc<Vcpu>> {
        self.vcpus().get(id as usize)
    }
    /// Whether it enabled `VMASST_TYPE_architectural_iopl`.
    #[inline]
    pub fn architectural_iopl(&self) -> bool {
        self.assists.load(Relaxed) & 1 << shared_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL != 0
    }
    /// Whether it enabled `VMASST_TYPE_m2p_strict`.
    pub fn m2p_strict(&self) -> bool {
        self.assists.load(Relaxed) & 1 << shared_abi::xen::VMASST_TYPE_M2P_STRICT != 0
    }
}
