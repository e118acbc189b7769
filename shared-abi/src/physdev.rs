//! Restates `physdev.h`: interrupts, I/O privilege and PCI devices of domains that drive hardware.

use crate::{DomId, Gfn, GuestAddr};

abi_constants! {
    "`physdev_op` command.": u32 {
        PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4,
        PHYSDEVOP_IRQ_STATUS_QUERY = 5,
        PHYSDEVOP_SET_IOPL = 6,
        PHYSDEVOP_SET_IOBITMAP = 7,
        PHYSDEVOP_APIC_READ = 8,
        PHYSDEVOP_APIC_WRITE = 9,
        PHYSDEVOP_ALLOC_IRQ_VECTOR = 10,
        PHYSDEVOP_FREE_IRQ_VECTOR = 11,
        PHYSDEVOP_EOI = 12,
        PHYSDEVOP_MAP_PIRQ = 13,
        PHYSDEVOP_UNMAP_PIRQ = 14,
        PHYSDEVOP_MANAGE_PCI_ADD = 15,
        PHYSDEVOP_MANAGE_PCI_REMOVE = 16,
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 = 17,
        PHYSDEVOP_RESTORE_MSI = 19,
        PHYSDEVOP_MANAGE_PCI_ADD_EXT = 20,
        PHYSDEVOP_SETUP_GSI = 21,
        PHYSDEVOP_GET_FREE_PIRQ = 23,
        PHYSDEVOP_PCI_MMCFG_RESERVED = 24,
        PHYSDEVOP_PCI_DEVICE_ADD = 25,
        PHYSDEVOP_PCI_DEVICE_REMOVE = 26,
        PHYSDEVOP_RESTORE_MSI_EXT = 27,
        PHYSDEVOP_PIRQ_EOI_GMFN_V2 = 28,
        PHYSDEVOP_DBGP_OP = 29,
        PHYSDEVOP_PREPARE_MSIX = 30,
        PHYSDEVOP_RELEASE_MSIX = 31,
    }
    "`PhysdevIrqStatusQuery::flags`.": u32 {
        XENIRQSTAT_NEEDS_EOI = 1 << 0,
        XENIRQSTAT_SHARED = 1 << 1,
    }
    "`PhysdevMapPirq::type`.": i32 {
        MAP_PIRQ_TYPE_MSI = 0,
        MAP_PIRQ_TYPE_GSI = 1,
        MAP_PIRQ_TYPE_UNKNOWN = 2,
        /// An MSI of a device in the segment that `bus` holds in its high half.
        MAP_PIRQ_TYPE_MSI_SEG = 3,
        MAP_PIRQ_TYPE_MULTI_MSI = 4,
    }
    "`PhysdevPciMmcfgReserved::flags`.": u32 {
        XEN_PCI_MMCFG_RESERVED = 1,
    }
    "`PhysdevPciDeviceAdd::flags`.": u32 {
        XEN_PCI_DEV_EXTFN = 1,
        XEN_PCI_DEV_VIRTFN = 2,
        /// A proximity domain follows the structure.
        XEN_PCI_DEV_PXM = 4,
    }
    "`PhysdevDbgpOp`: its `op` and `bus`.": u8 {
        PHYSDEVOP_DBGP_RESET_PREPARE = 1,
        PHYSDEVOP_DBGP_RESET_DONE = 2,
        PHYSDEVOP_DBGP_BUS_UNKNOWN = 0,
        PHYSDEVOP_DBGP_BUS_PCI = 1,
    }
}

abi_structs! {
    /// End of interrupt.
    pub struct PhysdevEoi("struct physdev_eoi", 4) {
        irq: u32,
    }

    /// Register the page with a bit for each pirq that needs an EOI.
    pub struct PhysdevPirqEoiGmfn("struct physdev_pirq_eoi_gmfn", 8) {
        gmfn: Gfn,
    }

    /// Whether an interrupt needs an EOI.
    pub struct PhysdevIrqStatusQuery("struct physdev_irq_status_query", 8) {
        irq: u32,
        /// Out: `XENIRQSTAT_*`.
        flags: u32,
    }

    /// The I/O privilege level of the calling vcpu.
    pub struct PhysdevSetIopl("struct physdev_set_iopl", 4) {
        iopl: u32,
    }

    /// The I/O bitmap of the calling vcpu.
    pub struct PhysdevSetIobitmap("struct physdev_set_iobitmap", 16) {
        bitmap: GuestAddr,
        nr_ports: u32,
        _pad: u32,
    }

    /// A register of an I/O APIC.
    pub struct PhysdevApic("struct physdev_apic", 16) {
        apic_physbase: u64,
        reg: u32,
        value: u32,
    }

    /// The vector of an interrupt.
    pub struct PhysdevIrq("struct physdev_irq", 8) {
        irq: u32,
        vector: u32,
    }

    /// Give a GSI or MSI a pirq.
    pub struct PhysdevMapPirq("struct physdev_map_pirq", 40) {
        domid: DomId,
        _pad0: u16,
        r#type: i32,
        index: i32,
        /// In and out; negative: any.
        pirq: i32,
        bus: i32,
        devfn: i32,
        /// In and out, for MSI: which, or how many.
        entry_nr: i32,
        _pad1: u32,
        table_base: u64,
    }

    /// Undo it.
    pub struct PhysdevUnmapPirq("struct physdev_unmap_pirq", 8) {
        domid: DomId,
        _pad: u16,
        pirq: i32,
    }

    /// A PCI device came or went.
    pub struct PhysdevManagePci("struct physdev_manage_pci", 2) {
        bus: u8,
        devfn: u8,
    }

    /// Program a device's MSI again after a suspend.
    pub struct PhysdevRestoreMsi("struct physdev_restore_msi", 2) {
        bus: u8,
        devfn: u8,
    }

    /// A PCI device came, with what kind of function it is.
    pub struct PhysdevManagePciExt("struct physdev_manage_pci_ext", 16) {
        bus: u8,
        devfn: u8,
        _pad0: u16,
        is_extfn: u32,
        is_virtfn: u32,
        physfn: PhysdevPhysfn,
        _pad1: u16,
    }

    /// The physical function of a virtual one.
    pub struct PhysdevPhysfn("__typeof__(((struct physdev_pci_device_add *)0)->physfn)", 2) {
        bus: u8,
        devfn: u8,
    }

    /// The argument of the oldest form of the hypercall, `PHYSDEV_OP_COMPAT`.
    pub struct PhysdevOp("struct physdev_op", 24) {
        cmd: u32,
        _pad: u32,
        /// Union: the argument of the command.
        u: [u64; 2],
    }

    /// How a GSI is wired.
    pub struct PhysdevSetupGsi("struct physdev_setup_gsi", 8) {
        gsi: i32,
        /// 0: edge, 1: level.
        triggering: u8,
        /// 0: active high, 1: active low.
        polarity: u8,
        _pad: u16,
    }

    /// A pirq that nothing uses.
    pub struct PhysdevGetFreePirq("struct physdev_get_free_pirq", 8) {
        r#type: i32,
        /// Out.
        pirq: u32,
    }

    /// Where PCI configuration space is mapped.
    pub struct PhysdevPciMmcfgReserved("struct physdev_pci_mmcfg_reserved", 16) {
        address: u64,
        segment: u16,
        start_bus: u8,
        end_bus: u8,
        flags: u32,
    }

    /// A PCI device came. With `XEN_PCI_DEV_PXM` a `u32` follows.
    pub struct PhysdevPciDeviceAdd("struct physdev_pci_device_add", 12) {
        seg: u16,
        bus: u8,
        devfn: u8,
        flags: u32,
        physfn: PhysdevPhysfn,
        _pad: u16,
    }

    /// A PCI device by its address.
    pub struct PhysdevPciDevice("struct physdev_pci_device", 4) {
        seg: u16,
        bus: u8,
        devfn: u8,
    }

    /// The USB debug port is about to be reset, or was.
    pub struct PhysdevDbgpOp("struct physdev_dbgp_op", 6) {
        op: u8,
        bus: u8,
        /// Union: `pci`, as seg, then bus and devfn.
        u: [u16; 2],
    }
}
