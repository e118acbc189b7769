//! Restates `memory.h`: a domain's frames, and the machine's memory map.

use crate::physdev::PhysdevPciDevice;
use crate::{DomId, Gfn, GuestAddr};

abi_constants! {
    "`memory_op` command, in its low six bits; a continuation's progress is above.": u32 {
        XENMEM_INCREASE_RESERVATION = 0,
        XENMEM_DECREASE_RESERVATION = 1,
        XENMEM_MAXIMUM_RAM_PAGE = 2,
        XENMEM_CURRENT_RESERVATION = 3,
        XENMEM_MAXIMUM_RESERVATION = 4,
        XENMEM_MACHPHYS_MFN_LIST = 5,
        XENMEM_POPULATE_PHYSMAP = 6,
        XENMEM_ADD_TO_PHYSMAP = 7,
        XENMEM_MEMORY_MAP = 9,
        XENMEM_MACHINE_MEMORY_MAP = 10,
        XENMEM_EXCHANGE = 11,
        XENMEM_MACHPHYS_MAPPING = 12,
        XENMEM_SET_MEMORY_MAP = 13,
        XENMEM_MAXIMUM_GPFN = 14,
        XENMEM_REMOVE_FROM_PHYSMAP = 15,
        XENMEM_SET_POD_TARGET = 16,
        XENMEM_GET_POD_TARGET = 17,
        XENMEM_GET_SHARING_FREED_PAGES = 18,
        XENMEM_GET_SHARING_SHARED_PAGES = 19,
        XENMEM_PAGING_OP = 20,
        XENMEM_ACCESS_OP = 21,
        XENMEM_SHARING_OP = 22,
        XENMEM_ADD_TO_PHYSMAP_BATCH = 23,
        XENMEM_CLAIM_PAGES = 24,
        XENMEM_MACHPHYS_COMPAT_MFN_LIST = 25,
        XENMEM_GET_VNUMAINFO = 26,
        XENMEM_RESERVED_DEVICE_MEMORY_MAP = 27,
        XENMEM_ACQUIRE_RESOURCE = 28,
    }
    "`MemoryReservation::mem_flags`; address bits are in the low 8, a NUMA node plus one in the next 8.": u32 {
        XENMEMF_POPULATE_ON_DEMAND = 1 << 16,
        XENMEMF_EXACT_NODE_REQUEST = 1 << 17,
        XENMEMF_VNODE = 1 << 18,
    }
    "`AddToPhysmap::space`.": u32 {
        XENMAPSPACE_SHARED_INFO = 0,
        XENMAPSPACE_GRANT_TABLE = 1,
        XENMAPSPACE_GMFN = 2,
        XENMAPSPACE_GMFN_RANGE = 3,
        XENMAPSPACE_GMFN_FOREIGN = 4,
        XENMAPSPACE_DEV_MMIO = 5,
    }
    "In `AddToPhysmap::idx`: a frame of the grant status table.": u32 {
        XENMAPIDX_GRANT_TABLE_STATUS = 0x8000_0000,
    }
    "`MemAcquireResource::type`, and its `id` for a grant table.": u16 {
        XENMEM_RESOURCE_IOREQ_SERVER = 0,
        XENMEM_RESOURCE_GRANT_TABLE = 1,
        XENMEM_RESOURCE_VMTRACE_BUF = 2,
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = 0,
        XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS = 1,
    }
    "`ReservedDeviceMemoryMap::flags`.": u32 {
        XENMEM_RDM_ALL = 1,
    }
}

/// Bits of `memory_op`'s command that are the command: Xen's `MEMOP_EXTENT_SHIFT`.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;

/// `XENMEMF_get_address_bits`: how many bits the frames' addresses may have, 0 for any number.
pub const fn address_bits(mem_flags: u32) -> u32 {
    mem_flags & 0xff
}

/// Type of an `E820Entry`.
pub mod e820_type {
    /// Usable.
    pub const RAM: u32 = 1;
    /// Not to be touched.
    pub const RESERVED: u32 = 2;
    /// ACPI tables; usable once they were read.
    pub const ACPI: u32 = 3;
    /// To be kept over a suspend.
    pub const NVS: u32 = 4;
    /// Broken.
    pub const UNUSABLE: u32 = 5;
}

/// One range of a memory map (`XENMEM_MEMORY_MAP`), as the BIOS call E820 gives it: 20 bytes, not
/// aligned. No public PV header has it; `hvm/e820.h` only says where a translated guest finds it.
#[repr(C, packed)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// See `e820_type`.
    pub r#type: u32,
}
const _: () = assert!(size_of::<E820Entry>() == 20);

abi_structs! {
    /// Extents to add to, take from or populate in a domain.
    pub struct MemoryReservation("struct xen_memory_reservation", 32) {
        extent_start: GuestAddr,
        nr_extents: u64,
        extent_order: u32,
        mem_flags: u32,
        domid: DomId,
        _pad: [u16; 3],
    }

    /// Give frames and get others with other properties.
    pub struct MemoryExchange("struct xen_memory_exchange", 72) {
        r#in: MemoryReservation,
        out: MemoryReservation,
        nr_exchanged: u64,
    }

    /// The domain a simple query is about.
    pub struct MemoryDomain("struct xen_memory_domain", 2) {
        domid: DomId,
    }

    /// The frames of the machine-to-physical table, one for each 2 MiB of it.
    pub struct MachphysMfnList("struct xen_machphys_mfn_list", 24) {
        max_extents: u32,
        _pad0: u32,
        extent_start: GuestAddr,
        /// Out.
        nr_extents: u32,
        _pad1: u32,
    }

    /// Where the machine-to-physical table is mapped.
    pub struct MachphysMapping("struct xen_machphys_mapping", 24) {
        v_start: u64,
        v_end: u64,
        max_mfn: u64,
    }

    /// Put a frame at a place of a translated guest's map.
    pub struct AddToPhysmap("struct xen_add_to_physmap", 24) {
        domid: DomId,
        size: u16,
        space: u32,
        idx: u64,
        gpfn: Gfn,
    }

    /// Many of these at once.
    pub struct AddToPhysmapBatch("struct xen_add_to_physmap_batch", 32) {
        domid: DomId,
        space: u16,
        size: u16,
        /// Union: the domain whose frames they are, for `XENMAPSPACE_GMFN_FOREIGN`.
        u: u16,
        idxs: GuestAddr,
        gpfns: GuestAddr,
        errs: GuestAddr,
    }

    /// Undo it.
    pub struct RemoveFromPhysmap("struct xen_remove_from_physmap", 16) {
        domid: DomId,
        _pad: [u16; 3],
        gpfn: Gfn,
    }

    /// A buffer for `E820Entry`s.
    pub struct MemoryMap("struct xen_memory_map", 16) {
        nr_entries: u32,
        _pad: u32,
        buffer: GuestAddr,
    }

    /// Another domain's memory map.
    pub struct ForeignMemoryMap("struct xen_foreign_memory_map", 24) {
        domid: DomId,
        _pad: [u16; 3],
        map: MemoryMap,
    }

    /// Populate on demand: the target and where it stands.
    pub struct PodTarget("struct xen_pod_target", 40) {
        target_pages: u64,
        tot_pages: u64,
        pod_cache_pages: u64,
        pod_entries: u64,
        domid: DomId,
        _pad: [u16; 3],
    }

    /// A range a device needs mapped one to one.
    pub struct ReservedDeviceMemory("struct xen_reserved_device_memory", 16) {
        start_pfn: u64,
        nr_pages: u64,
    }

    /// A buffer for these ranges.
    pub struct ReservedDeviceMemoryMap("struct xen_reserved_device_memory_map", 24) {
        flags: u32,
        nr_entries: u32,
        buffer: GuestAddr,
        /// Union: `pci`.
        dev: PhysdevPciDevice,
        _pad: u32,
    }

    /// Map a resource of a domain: its grant table, an ioreq server's pages.
    pub struct MemAcquireResource("struct xen_mem_acquire_resource", 32) {
        domid: DomId,
        r#type: u16,
        id: u32,
        nr_frames: u32,
        pad: u32,
        frame: u64,
        frame_list: GuestAddr,
    }

    /// A range of a guest's virtual NUMA.
    pub struct Vmemrange("struct xen_vmemrange", 24) {
        start: u64,
        end: u64,
        flags: u32,
        nid: u32,
    }

    /// A guest's virtual NUMA.
    pub struct VnumaTopologyInfo("struct xen_vnuma_topology_info", 40) {
        domid: DomId,
        pad: u16,
        nr_vnodes: u32,
        nr_vcpus: u32,
        nr_vmemranges: u32,
        vdistance: GuestAddr,
        vcpu_to_vnode: GuestAddr,
        vmemrange: GuestAddr,
    }
}
