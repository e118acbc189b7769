//! Restates `arch-x86/xen-mca.h`: what the initial domain may learn of machine checks.

use crate::{DomId, GuestAddr};

abi_constants! {
    "`Mc::interface_version`.": u32 {
        XEN_MCA_INTERFACE_VERSION = 0x01ec_c003,
    }
    "`Mc::cmd`.": u32 {
        XEN_MC_FETCH = 1,
        XEN_MC_NOTIFYDOMAIN = 2,
        XEN_MC_PHYSCPUINFO = 3,
        XEN_MC_MSRINJECT = 4,
        XEN_MC_MCEINJECT = 5,
        XEN_MC_INJECT_V2 = 6,
    }
    "`McFetch::flags`, in.": u32 {
        XEN_MC_NONURGENT = 1,
        XEN_MC_URGENT = 2,
        XEN_MC_ACK = 4,
    }
    "`McFetch::flags`, out.": u32 {
        XEN_MC_OK = 0,
        XEN_MC_FETCHFAILED = 1,
        XEN_MC_NODATA = 2,
        XEN_MC_NOMATCH = 4,
    }
    "`McMsrinject::mcinj_flags`.": u32 {
        MC_MSRINJ_F_INTERPOSE = 1,
        MC_MSRINJ_F_GPADDR = 2,
    }
    "Registers of one [`McMsrinject`].": u32 {
        MC_MSRINJ_MAXMSRS = 8,
    }
    "Words of [`McinfoLogicalCpu::mc_cpu_caps`].": u32 {
        MC_NCAPS = 7,
    }
    "A bit of [`McInjectV2::flags`] and the kinds below it.": u32 {
        XEN_MC_INJECT_TYPE_MASK = 7,
        XEN_MC_INJECT_TYPE_MCE = 0,
        XEN_MC_INJECT_TYPE_CMCI = 1,
        XEN_MC_INJECT_TYPE_LMCE = 2,
        XEN_MC_INJECT_CPU_BROADCAST = 8,
    }
    "Raised when there is something to fetch.": u32 {
        VIRQ_MCA = 16,
    }
}

abi_structs! {
    /// The argument of the hypercall.
    pub struct Mc("struct xen_mc", 152) {
        cmd: u32,
        interface_version: u32,
        /// Union: the command's own argument, see the accessors named after it.
        u: [u64; 18],
    }

    /// Fetch what a machine check left, or acknowledge it.
    pub struct McFetch("struct xen_mc_fetch", 24) {
        flags: u32,
        _pad0: u32,
        fetch_id: u64,
        data: GuestAddr,
    }

    /// Look at the processors.
    pub struct McPhyscpuinfo("struct xen_mc_physcpuinfo", 16) {
        /// In: room in `info`. Out: how many there are, or were written.
        ncpus: u32,
        _pad0: u32,
        info: GuestAddr,
    }

    /// Write machine-check registers, for a test.
    pub struct McMsrinject("struct xen_mc_msrinject", 144) {
        mcinj_cpunr: u32,
        mcinj_flags: u32,
        mcinj_count: u32,
        mcinj_domid: DomId,
        _pad0: u16,
        mcinj_msr: [McinfoMsr; MC_MSRINJ_MAXMSRS as usize],
    }

    /// A register's number and value.
    pub struct McinfoMsr("struct mcinfo_msr", 16) {
        reg: u64,
        value: u64,
    }

    /// Raise a machine check on a processor, for a test.
    pub struct McMceinject("struct xen_mc_mceinject", 4) {
        mceinj_cpunr: u32,
    }

    /// What a processor is.
    pub struct McinfoLogicalCpu("struct mcinfo_logical_cpu", 304) {
        mc_cpunr: u32,
        mc_chipid: u32,
        mc_coreid: u16,
        mc_threadid: u16,
        mc_apicid: u32,
        mc_clusterid: u32,
        mc_ncores: u32,
        mc_ncores_active: u32,
        mc_nthreads: u32,
        mc_cpuid_level: i32,
        mc_family: u32,
        mc_vendor: u32,
        mc_model: u32,
        mc_step: u32,
        mc_vendorid: [u8; 16],
        mc_brandid: [u8; 64],
        mc_cpu_caps: [u32; MC_NCAPS as usize],
        mc_cache_size: u32,
        mc_cache_alignment: u32,
        mc_nmsrvals: i32,
        _pad: u32,
        mc_msrvalues: [McinfoMsr; 8],
    }
}

union_views!(Mc.u {
    /// `XEN_MC_FETCH`.
    mc_fetch, set_mc_fetch: McFetch,
    /// `XEN_MC_PHYSCPUINFO`.
    mc_physcpuinfo, set_mc_physcpuinfo: McPhyscpuinfo,
    /// `XEN_MC_MSRINJECT`.
    mc_msrinject, set_mc_msrinject: McMsrinject,
    /// `XEN_MC_MCEINJECT`.
    mc_mceinject, set_mc_mceinject: McMceinject,
});
