//! `domctl.h`: a domain's memory, and the machine's resources it may use.

use crate::{Gfn, GuestAddr, Mfn};

abi_constants! {
    "What kind of frame: the high bits of each entry of `DomctlGetpageframeinfo3::array`.": u32 {
        XEN_DOMCTL_PFINFO_LTAB_SHIFT = 28,
        XEN_DOMCTL_PFINFO_NOTAB = 0,
        XEN_DOMCTL_PFINFO_L1TAB = 1 << 28,
        XEN_DOMCTL_PFINFO_L2TAB = 2 << 28,
        XEN_DOMCTL_PFINFO_L3TAB = 3 << 28,
        XEN_DOMCTL_PFINFO_L4TAB = 4 << 28,
        XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 7 << 28,
        /// Pinned.
        XEN_DOMCTL_PFINFO_LPINTAB = 1 << 31,
        /// No such frame.
        XEN_DOMCTL_PFINFO_XTAB = 0xf << 28,
        XEN_DOMCTL_PFINFO_XALLOC = 0xe << 28,
        XEN_DOMCTL_PFINFO_BROKEN = 0xd << 28,
        XEN_DOMCTL_PFINFO_LTAB_MASK = 0xf << 28,
    }
    "`DomctlShadowOp::op`.": u32 {
        XEN_DOMCTL_SHADOW_OP_OFF = 0,
        XEN_DOMCTL_SHADOW_OP_ENABLE = 32,
        XEN_DOMCTL_SHADOW_OP_CLEAN = 11,
        XEN_DOMCTL_SHADOW_OP_PEEK = 12,
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30,
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31,
        XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1,
        XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2,
    }
    "`DomctlShadowOp::mode`.": u32 {
        XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 1 << 1,
        XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 1 << 2,
        XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 1 << 3,
        XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 1 << 4,
        XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1 << 0,
    }
    "`DomctlAssignDevice::dev`.": u32 {
        XEN_DOMCTL_DEV_PCI = 0,
        XEN_DOMCTL_DEV_DT = 1,
    }
    "`DomctlAssignDevice::flags`.": u32 {
        XEN_DOMCTL_DEV_RDM_RELAXED = 1,
    }
    "`add_mapping`.": u32 {
        DPCI_ADD_MAPPING = 1,
        DPCI_REMOVE_MAPPING = 0,
    }
}

abi_structs! {
    /// What kind each of these frames is.
    pub struct DomctlGetpageframeinfo3("struct xen_domctl_getpageframeinfo3", 16) {
        num: u64,
        array: GuestAddr,
    }

    /// How much log-dirty mode did.
    pub struct DomctlShadowOpStats("struct xen_domctl_shadow_op_stats", 8) {
        fault_count: u32,
        dirty_count: u32,
    }

    /// Log-dirty mode and shadow memory.
    pub struct DomctlShadowOp("struct xen_domctl_shadow_op", 40) {
        op: u32,
        mode: u32,
        mb: u32,
        _pad: u32,
        dirty_bitmap: GuestAddr,
        pages: u64,
        stats: DomctlShadowOpStats,
    }

    /// How much memory the domain may have.
    pub struct DomctlMaxMem("struct xen_domctl_max_mem", 8) {
        max_memkb: u64,
    }

    /// Bytes for a translated guest's page tables.
    pub struct DomctlPagingMempool("struct xen_domctl_paging_mempool", 8) {
        size: u64,
    }

    /// Whether the domain may use a physical interrupt.
    pub struct DomctlIrqPermission("struct xen_domctl_irq_permission", 8) {
        pirq: u32,
        allow_access: u8,
        pad: [u8; 3],
    }

    /// Whether the domain may map device memory.
    pub struct DomctlIomemPermission("struct xen_domctl_iomem_permission", 24) {
        first_mfn: Mfn,
        nr_mfns: u64,
        allow_access: u8,
        _pad: [u8; 7],
    }

    /// Whether the domain may use I/O ports.
    pub struct DomctlIoportPermission("struct xen_domctl_ioport_permission", 12) {
        first_port: u32,
        nr_ports: u32,
        allow_access: u8,
        _pad: [u8; 3],
    }

    /// Map device memory into a translated guest.
    pub struct DomctlMemoryMapping("struct xen_domctl_memory_mapping", 32) {
        first_gfn: Gfn,
        first_mfn: Mfn,
        nr_mfns: u64,
        add_mapping: u32,
        padding: u32,
    }

    /// Map I/O ports into a translated guest.
    pub struct DomctlIoportMapping("struct xen_domctl_ioport_mapping", 16) {
        first_gport: u32,
        first_mport: u32,
        nr_ports: u32,
        add_mapping: u32,
    }

    /// Give a device to a domain.
    pub struct DomctlAssignDevice("struct xen_domctl_assign_device", 24) {
        dev: u32,
        flags: u32,
        /// Union: the low half of the first word is `pci.machine_sbdf`, or `dt.size`; the second word
        /// is `dt.path`.
        u: [u64; 2],
    }

    /// The devices that must be given away together.
    pub struct DomctlGetDeviceGroup("struct xen_domctl_get_device_group", 24) {
        machine_sbdf: u32,
        max_sdevs: u32,
        num_sdevs: u32,
        _pad: u32,
        sdev_array: GuestAddr,
    }

    /// Check a guest's p2m against the machine's.
    pub struct DomctlAuditP2m("struct xen_domctl_audit_p2m", 24) {
        orphans: u64,
        m2p_bad: u64,
        p2m_bad: u64,
    }

    /// Write a range of frames back to memory.
    pub struct DomctlCacheflush("struct xen_domctl_cacheflush", 16) {
        start_pfn: u64,
        nr_pfns: u64,
    }

    /// A guest's virtual NUMA.
    pub struct DomctlVnuma("struct xen_domctl_vnuma", 48) {
        nr_vnodes: u32,
        nr_vmemranges: u32,
        nr_vcpus: u32,
        pad: u32,
        vdistance: GuestAddr,
        vcpu_to_vnode: GuestAddr,
        vnode_to_pnode: GuestAddr,
        vmemrange: GuestAddr,
    }
}
