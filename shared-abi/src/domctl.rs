//! Restates `domctl.h`: how a toolstack makes, inspects, changes and destroys domains.
//!
//! The interface is versioned as a whole: a call with another `interface_version` gets `EACCES`.
//! Structures that only concern translated guests, introspection and cache allocation are left out;
//! their commands are listed, so that they can be told from unknown ones.

use crate::DomId;

pub mod domain;
pub mod resources;
pub mod vcpu;

pub use domain::*;
pub use resources::*;
pub use vcpu::*;

abi_constants! {
    "`Domctl::interface_version`.": u32 {
        XEN_DOMCTL_INTERFACE_VERSION = 0x15,
    }
    "`Domctl::cmd`.": u32 {
        XEN_DOMCTL_CREATEDOMAIN = 1,
        XEN_DOMCTL_DESTROYDOMAIN = 2,
        XEN_DOMCTL_PAUSEDOMAIN = 3,
        XEN_DOMCTL_UNPAUSEDOMAIN = 4,
        XEN_DOMCTL_GETDOMAININFO = 5,
        XEN_DOMCTL_SETVCPUAFFINITY = 9,
        XEN_DOMCTL_SHADOW_OP = 10,
        XEN_DOMCTL_MAX_MEM = 11,
        XEN_DOMCTL_SETVCPUCONTEXT = 12,
        XEN_DOMCTL_GETVCPUCONTEXT = 13,
        XEN_DOMCTL_GETVCPUINFO = 14,
        XEN_DOMCTL_MAX_VCPUS = 15,
        XEN_DOMCTL_SCHEDULER_OP = 16,
        XEN_DOMCTL_SETDOMAINHANDLE = 17,
        XEN_DOMCTL_SETDEBUGGING = 18,
        XEN_DOMCTL_IRQ_PERMISSION = 19,
        XEN_DOMCTL_IOMEM_PERMISSION = 20,
        XEN_DOMCTL_IOPORT_PERMISSION = 21,
        XEN_DOMCTL_HYPERCALL_INIT = 22,
        XEN_DOMCTL_SETTIMEOFFSET = 24,
        XEN_DOMCTL_GETVCPUAFFINITY = 25,
        XEN_DOMCTL_REAL_MODE_AREA = 26,
        XEN_DOMCTL_RESUMEDOMAIN = 27,
        XEN_DOMCTL_SENDTRIGGER = 28,
        XEN_DOMCTL_SUBSCRIBE = 29,
        XEN_DOMCTL_GETHVMCONTEXT = 33,
        XEN_DOMCTL_SETHVMCONTEXT = 34,
        XEN_DOMCTL_SET_ADDRESS_SIZE = 35,
        XEN_DOMCTL_GET_ADDRESS_SIZE = 36,
        XEN_DOMCTL_ASSIGN_DEVICE = 37,
        XEN_DOMCTL_BIND_PT_IRQ = 38,
        XEN_DOMCTL_MEMORY_MAPPING = 39,
        XEN_DOMCTL_IOPORT_MAPPING = 40,
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT = 42,
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT = 43,
        XEN_DOMCTL_SET_OPT_FEATURE = 44,
        XEN_DOMCTL_TEST_ASSIGN_DEVICE = 45,
        XEN_DOMCTL_SET_TARGET = 46,
        XEN_DOMCTL_DEASSIGN_DEVICE = 47,
        XEN_DOMCTL_UNBIND_PT_IRQ = 48,
        XEN_DOMCTL_GET_DEVICE_GROUP = 50,
        XEN_DOMCTL_DEBUG_OP = 54,
        XEN_DOMCTL_GETHVMCONTEXT_PARTIAL = 55,
        XEN_DOMCTL_VM_EVENT_OP = 56,
        XEN_DOMCTL_MEM_SHARING_OP = 57,
        XEN_DOMCTL_GETTSCINFO = 59,
        XEN_DOMCTL_SETTSCINFO = 60,
        XEN_DOMCTL_GETPAGEFRAMEINFO3 = 61,
        XEN_DOMCTL_SETVCPUEXTSTATE = 62,
        XEN_DOMCTL_GETVCPUEXTSTATE = 63,
        XEN_DOMCTL_SET_ACCESS_REQUIRED = 64,
        XEN_DOMCTL_AUDIT_P2M = 65,
        XEN_DOMCTL_SET_VIRQ_HANDLER = 66,
        XEN_DOMCTL_SET_BROKEN_PAGE_P2M = 67,
        XEN_DOMCTL_SETNODEAFFINITY = 68,
        XEN_DOMCTL_GETNODEAFFINITY = 69,
        XEN_DOMCTL_CACHEFLUSH = 71,
        XEN_DOMCTL_GET_VCPU_MSRS = 72,
        XEN_DOMCTL_SET_VCPU_MSRS = 73,
        XEN_DOMCTL_SETVNUMAINFO = 74,
        XEN_DOMCTL_PSR_CMT_OP = 75,
        XEN_DOMCTL_MONITOR_OP = 77,
        XEN_DOMCTL_PSR_ALLOC = 78,
        XEN_DOMCTL_SOFT_RESET = 79,
        XEN_DOMCTL_VUART_OP = 81,
        XEN_DOMCTL_GET_CPU_POLICY = 82,
        XEN_DOMCTL_SET_CPU_POLICY = 83,
        XEN_DOMCTL_VMTRACE_OP = 84,
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE = 85,
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE = 86,
        XEN_DOMCTL_GDBSX_GUESTMEMIO = 1000,
        XEN_DOMCTL_GDBSX_PAUSEVCPU = 1001,
        XEN_DOMCTL_GDBSX_UNPAUSEVCPU = 1002,
        XEN_DOMCTL_GDBSX_DOMSTATUS = 1003,
    }
}

abi_structs! {
    /// The argument of the `domctl` hypercall.
    pub struct Domctl("struct xen_domctl", 144) {
        cmd: u32,
        interface_version: u32,
        domain: DomId,
        _pad: [u16; 3],
        /// Union: the command's own argument, see the accessors named after it.
        u: [u64; 16],
    }
}

impl Domctl {
    /// A command to `domain` with this interface version and an argument of zeroes.
    pub const fn new(cmd: u32, domain: DomId) -> Domctl {
        Domctl { cmd, interface_version: XEN_DOMCTL_INTERFACE_VERSION, domain, _pad: [0; 3], u: [0; 16] }
    }
}

union_views!(Domctl.u {
    /// `u.createdomain`.
    createdomain, set_createdomain: DomctlCreatedomain,
    /// `u.getdomaininfo`.
    getdomaininfo, set_getdomaininfo: DomctlGetdomaininfo,
    /// `u.getpageframeinfo3`.
    getpageframeinfo3, set_getpageframeinfo3: DomctlGetpageframeinfo3,
    /// `u.nodeaffinity`.
    nodeaffinity, set_nodeaffinity: DomctlNodeaffinity,
    /// `u.vcpuaffinity`.
    vcpuaffinity, set_vcpuaffinity: DomctlVcpuaffinity,
    /// `u.shadow_op`.
    shadow_op, set_shadow_op: DomctlShadowOp,
    /// `u.max_mem`.
    max_mem, set_max_mem: DomctlMaxMem,
    /// `u.vcpucontext`.
    vcpucontext, set_vcpucontext: DomctlVcpucontext,
    /// `u.getvcpuinfo`.
    getvcpuinfo, set_getvcpuinfo: DomctlGetvcpuinfo,
    /// `u.max_vcpus`.
    max_vcpus, set_max_vcpus: DomctlMaxVcpus,
    /// `u.scheduler_op`.
    scheduler_op, set_scheduler_op: DomctlSchedulerOp,
    /// `u.setdomainhandle`.
    setdomainhandle, set_setdomainhandle: DomctlSetdomainhandle,
    /// `u.setdebugging`.
    setdebugging, set_setdebugging: DomctlSetdebugging,
    /// `u.irq_permission`.
    irq_permission, set_irq_permission: DomctlIrqPermission,
    /// `u.iomem_permission`.
    iomem_permission, set_iomem_permission: DomctlIomemPermission,
    /// `u.ioport_permission`.
    ioport_permission, set_ioport_permission: DomctlIoportPermission,
    /// `u.hypercall_init`.
    hypercall_init, set_hypercall_init: DomctlHypercallInit,
    /// `u.settimeoffset`.
    settimeoffset, set_settimeoffset: DomctlSettimeoffset,
    /// `u.tsc_info`.
    tsc_info, set_tsc_info: DomctlTscInfo,
    /// `u.address_size`.
    address_size, set_address_size: DomctlAddressSize,
    /// `u.sendtrigger`.
    sendtrigger, set_sendtrigger: DomctlSendtrigger,
    /// `u.get_device_group`.
    get_device_group, set_get_device_group: DomctlGetDeviceGroup,
    /// `u.assign_device`.
    assign_device, set_assign_device: DomctlAssignDevice,
    /// `u.memory_mapping`.
    memory_mapping, set_memory_mapping: DomctlMemoryMapping,
    /// `u.ioport_mapping`.
    ioport_mapping, set_ioport_mapping: DomctlIoportMapping,
    /// `u.ext_vcpucontext`.
    ext_vcpucontext, set_ext_vcpucontext: DomctlExtVcpucontext,
    /// `u.set_target`.
    set_target, set_set_target: DomctlSetTarget,
    /// `u.subscribe`.
    subscribe, set_subscribe: DomctlSubscribe,
    /// `u.debug_op`.
    debug_op, set_debug_op: DomctlDebugOp,
    /// `u.cpu_policy`.
    cpu_policy, set_cpu_policy: DomctlCpuPolicy,
    /// `u.vcpuextstate`.
    vcpuextstate, set_vcpuextstate: DomctlVcpuextstate,
    /// `u.vcpu_msrs`.
    vcpu_msrs, set_vcpu_msrs: DomctlVcpuMsrs,
    /// `u.audit_p2m`.
    audit_p2m, set_audit_p2m: DomctlAuditP2m,
    /// `u.set_virq_handler`.
    set_virq_handler, set_set_virq_handler: DomctlSetVirqHandler,
    /// `u.cacheflush`.
    cacheflush, set_cacheflush: DomctlCacheflush,
    /// `u.vnuma`.
    vnuma, set_vnuma: DomctlVnuma,
    /// `u.paging_mempool`.
    paging_mempool, set_paging_mempool: DomctlPagingMempool,
});
