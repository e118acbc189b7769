//! The control domain's hypercalls: `domctl`, `sysctl`, and the operations on another domain's frames.
//!
//! Their structures hold addresses in places that depend on the command, so a function that took any structure
//! would let its caller write anywhere. The hardest decision was where to draw the line: the plain
//! commands are listed here, with the structure passed whole; each command that takes a buffer has its own
//! function, which sets the address itself. All of them refuse to touch the caller's own domain where that
//! could change memory that Rust relies on.

use crate::hypercall::{Result, call, check};
use alloc::vec;
use alloc::vec::Vec;
use shared_abi::arch_x86::VcpuGuestContext;
use shared_abi::domctl::*;
use shared_abi::grant_table::{GNTST_OKAY, GNTTABOP_SETUP_TABLE, GnttabSetupTable};
use shared_abi::memory::*;
use shared_abi::sysctl::*;
use shared_abi::version::*;
use shared_abi::xen::{CtlBitmap, MMUEXT_PIN_L4_TABLE, MmuextOp, hypercall as nr};
use shared_abi::{DomId, Errno, GuestAddr, Mfn, Pfn, VcpuId};
use zerocopy::FromZeros;

/// The address of memory that the hypervisor writes.
fn out<T: ?Sized>(memory: &mut T) -> GuestAddr {
    GuestAddr(core::ptr::from_mut(memory).cast::<u8>().expose_provenance() as u64)
}

/// The address of memory that the hypervisor reads.
fn input<T: ?Sized>(memory: &T) -> GuestAddr {
    GuestAddr(core::ptr::from_ref(memory).cast::<u8>().expose_provenance() as u64)
}

/// A real domain other than the control domain.
fn other(domain: DomId) -> Result<()> {
    if domain.is_ordinary() && domain.0 != 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// # Safety
/// Addresses in the structure are of memory lent for the call, and the command does not change frames or
/// mappings of this domain.
unsafe fn domctl_raw(domctl: &mut Domctl) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { call(nr::DOMCTL, [out(domctl).0 as usize, 0, 0, 0, 0]) }).map(drop)
}

/// # Safety
/// Addresses in the structure are of memory lent for the call.
unsafe fn sysctl_raw(sysctl: &mut Sysctl) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { call(nr::SYSCTL, [out(sysctl).0 as usize, 0, 0, 0, 0]) }).map(drop)
}

/// Issues a `domctl` whose argument holds no address. `EOPNOTSUPP` for any other command.
pub fn domctl(domctl: &mut Domctl) -> Result<()> {
    let query =
        matches!(domctl.cmd, XEN_DOMCTL_GETDOMAININFO | XEN_DOMCTL_GETVCPUINFO | XEN_DOMCTL_CREATEDOMAIN);
    let scheduling = domctl.cmd == XEN_DOMCTL_SCHEDULER_OP
        && matches!(domctl.scheduler_op().cmd, XEN_DOMCTL_SCHEDOP_PUTINFO | XEN_DOMCTL_SCHEDOP_GETINFO);
    let change = matches!(
        domctl.cmd,
        XEN_DOMCTL_DESTROYDOMAIN
            | XEN_DOMCTL_PAUSEDOMAIN
            | XEN_DOMCTL_UNPAUSEDOMAIN
            | XEN_DOMCTL_MAX_MEM
            | XEN_DOMCTL_MAX_VCPUS
            | XEN_DOMCTL_HYPERCALL_INIT
            | XEN_DOMCTL_SENDTRIGGER
            | XEN_DOMCTL_SETTSCINFO
    );
    match (query || scheduling, change) {
        (true, _) => {}
        (_, true) => other(domctl.domain)?,
        _ => return Err(Errno::EOPNOTSUPP),
    }
    // SAFETY: the commands above hold no address; those that change memory change another domain's.
    unsafe { domctl_raw(domctl) }
}

/// Sets the registers of a vcpu of another domain that does not run.
pub fn set_vcpu_context(domain: DomId, vcpu: VcpuId, context: &VcpuGuestContext) -> Result<()> {
    other(domain)?;
    let mut domctl = Domctl::new(XEN_DOMCTL_SETVCPUCONTEXT, domain);
    domctl.set_vcpucontext(DomctlVcpucontext { vcpu, ctxt: input(context), ..Default::default() });
    // SAFETY: the address is of `context`, which is only read.
    unsafe { domctl_raw(&mut domctl) }
}

/// Sets the CPUs a vcpu may run on.
pub fn set_vcpu_affinity(domain: DomId, vcpu: VcpuId, cpus: &[u32]) -> Result<()> {
    let bits = cpus.iter().max().map_or(0, |cpu| cpu + 1);
    let mut map = vec![0u8; bits.div_ceil(8) as usize];
    for cpu in cpus {
        map[*cpu as usize / 8] |= 1 << (cpu % 8);
    }
    let hard = CtlBitmap { bitmap: out(map.as_mut_slice()), nr_bits: bits, _pad: 0 };
    let mut domctl = Domctl::new(XEN_DOMCTL_SETVCPUAFFINITY, domain);
    let flags = XEN_VCPUAFFINITY_HARD;
    domctl.set_vcpuaffinity(DomctlVcpuaffinity { vcpu, flags, cpumap_hard: hard, ..Default::default() });
    // SAFETY: the map is ours and as long as it says.
    unsafe { domctl_raw(&mut domctl) }
}

/// The CPUs a vcpu may run on, and those it prefers, among the first `cpus`.
pub fn vcpu_affinity(domain: DomId, vcpu: VcpuId, cpus: u32) -> Result<(Vec<u32>, Vec<u32>)> {
    let mut maps = [vec![0u8; cpus.div_ceil(8) as usize], vec![0u8; cpus.div_ceil(8) as usize]];
    let [hard, soft] =
        maps.each_mut().map(|map| CtlBitmap { bitmap: out(map.as_mut_slice()), nr_bits: cpus, _pad: 0 });
    let mut domctl = Domctl::new(XEN_DOMCTL_GETVCPUAFFINITY, domain);
    let flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
    domctl.set_vcpuaffinity(DomctlVcpuaffinity { vcpu, flags, cpumap_hard: hard, cpumap_soft: soft });
    // SAFETY: the maps are ours and as long as they say.
    unsafe { domctl_raw(&mut domctl)? };
    let [hard, soft] =
        maps.map(|map| (0..cpus).filter(|cpu| map[*cpu as usize / 8] & 1 << (cpu % 8) != 0).collect());
    Ok((hard, soft))
}

/// Issues a `sysctl` whose argument holds no address. `EOPNOTSUPP` for any other command.
pub fn sysctl(sysctl: &mut Sysctl) -> Result<()> {
    let scheduling =
        sysctl.cmd == XEN_SYSCTL_SCHEDULER_OP && sysctl.scheduler_op().sched_id == XEN_SCHEDULER_CREDIT2;
    if !scheduling && !matches!(sysctl.cmd, XEN_SYSCTL_PHYSINFO | XEN_SYSCTL_SCHED_ID | XEN_SYSCTL_AVAILHEAP)
    {
        return Err(Errno::EOPNOTSUPP);
    }
    // SAFETY: the commands above hold no address.
    unsafe { sysctl_raw(sysctl) }
}

/// The domains from `first` on, as many as `buffer` holds; how many those are.
pub fn domain_list(first: DomId, buffer: &mut [DomctlGetdomaininfo]) -> Result<usize> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_GETDOMAININFOLIST);
    sysctl.set_getdomaininfolist(SysctlGetdomaininfolist {
        first_domain: first,
        max_domains: buffer.len() as u32,
        buffer: out(buffer),
        ..Default::default()
    });
    // SAFETY: the buffer holds as many as is said.
    unsafe { sysctl_raw(&mut sysctl)? };
    Ok((sysctl.getdomaininfolist().num_domains as usize).min(buffer.len()))
}

/// Where the CPUs are, as many as `cpus` holds; how many those are.
pub fn cpu_topology(cpus: &mut [SysctlCputopo]) -> Result<usize> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_CPUTOPOINFO);
    let num_cpus = cpus.len() as u32;
    sysctl.set_cputopoinfo(SysctlCputopoinfo { num_cpus, cputopo: out(cpus), ..Default::default() });
    // SAFETY: the buffer holds as many as is said.
    unsafe { sysctl_raw(&mut sysctl)? };
    Ok((sysctl.cputopoinfo().num_cpus as usize).min(cpus.len()))
}

/// The memory of the NUMA nodes, as many as `nodes` holds, and the distances from each of them to each; how many those are.
pub fn numa_nodes(nodes: &mut [SysctlMeminfo]) -> Result<(usize, Vec<u32>)> {
    let mut distances = vec![0u32; nodes.len() * nodes.len()];
    let mut sysctl = Sysctl::new(XEN_SYSCTL_NUMAINFO);
    sysctl.set_numainfo(SysctlNumainfo {
        num_nodes: nodes.len() as u32,
        meminfo: out(nodes),
        distance: out(distances.as_mut_slice()),
        ..Default::default()
    });
    // SAFETY: one buffer holds as many as is said, the other the square of it.
    unsafe { sysctl_raw(&mut sysctl)? };
    Ok(((sysctl.numainfo().num_nodes as usize).min(nodes.len()), distances))
}

/// Reads the hypervisor's log from byte `index` on: how many bytes that were, and where to go on.
pub fn read_console(buffer: &mut [u8], index: u32, clear: bool) -> Result<(usize, u32)> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_READCONSOLE);
    sysctl.set_readconsole(SysctlReadconsole {
        clear: u8::from(clear),
        incremental: 1,
        index,
        count: buffer.len() as u32,
        buffer: out(buffer),
        ..Default::default()
    });
    // SAFETY: the buffer is as long as is said.
    unsafe { sysctl_raw(&mut sysctl)? };
    let answer = sysctl.readconsole();
    Ok(((answer.count as usize).min(buffer.len()), answer.index))
}

/// Presses keys of the hypervisor's console.
pub fn debug_keys(keys: &mut [u8]) -> Result<()> {
    let mut sysctl = Sysctl::new(XEN_SYSCTL_DEBUG_KEYS);
    sysctl.set_debug_keys(SysctlDebugKeys { nr_keys: keys.len() as u32, keys: out(keys), _pad: 0 });
    // SAFETY: the buffer is as long as is said.
    unsafe { sysctl_raw(&mut sysctl) }
}

/// Issues a `memory_op`.
///
/// # Safety
/// Addresses in the structure are of memory lent for the call, and the domain it names is another one.
unsafe fn memory_op<T>(cmd: u32, arg: &mut T) -> Result<u64> {
    // SAFETY: the caller's promise.
    check(unsafe { call(nr::MEMORY_OP, [cmd as usize, out(arg).0 as usize, 0, 0, 0]) })
}

/// Gives another domain frames for `frames.len()` extents of `2^order` pfns, from `first` on, and sets
/// `frames` to the first frame of each. How many extents it got.
pub fn populate(domain: DomId, first: Pfn, order: u32, frames: &mut [Mfn]) -> Result<usize> {
    other(domain)?;
    for (n, frame) in frames.iter_mut().enumerate() {
        *frame = Mfn(first.0 + ((n as u64) << order));
    }
    let mut reservation = MemoryReservation {
        extent_start: out(frames),
        nr_extents: frames.len() as u64,
        extent_order: order,
        domid: domain,
        ..Default::default()
    };
    // SAFETY: the list holds as many extents as is said.
    let done = unsafe { memory_op(XENMEM_POPULATE_PHYSMAP, &mut reservation)? };
    Ok((done as usize).min(frames.len()))
}

/// Sets the memory map that another domain is told.
pub fn set_memory_map(domain: DomId, map: &mut [E820Entry]) -> Result<()> {
    other(domain)?;
    let buffer = MemoryMap { nr_entries: map.len() as u32, buffer: out(map), ..Default::default() };
    let mut arg = ForeignMemoryMap { domid: domain, map: buffer, ..Default::default() };
    // SAFETY: the map has as many entries as is said.
    unsafe { memory_op(XENMEM_SET_MEMORY_MAP, &mut arg) }.map(drop)
}

/// Validates and pins a root page table of another domain.
pub fn pin_l4(domain: DomId, root: Mfn) -> Result<()> {
    other(domain)?;
    let op = MmuextOp { cmd: MMUEXT_PIN_L4_TABLE, arg1: root.0, ..Default::default() };
    let args = [input(&op).0 as usize, 1, 0, usize::from(domain.0), 0];
    // SAFETY: one operation, on a frame of the other domain.
    check(unsafe { call(nr::MMUEXT_OP, args) }).map(drop)
}

/// The first frame of another domain's grant table.
pub fn grant_table_frame(domain: DomId) -> Result<Mfn> {
    other(domain)?;
    let mut frame = Mfn(0);
    let mut setup =
        GnttabSetupTable { dom: domain, nr_frames: 1, frame_list: out(&mut frame), ..Default::default() };
    let args = [GNTTABOP_SETUP_TABLE as usize, out(&mut setup).0 as usize, 1, 0, 0];
    // SAFETY: one operation, and room for the one frame it asks for.
    check(unsafe { call(nr::GRANT_TABLE_OP, args) })?;
    if setup.status == GNTST_OKAY { Ok(frame) } else { Err(Errno::EIO) }
}

/// Major and minor version, as `major << 16 | minor`.
pub fn version() -> Result<u32> {
    // SAFETY: the command takes no buffer.
    check(unsafe { call(nr::XEN_VERSION, [XENVER_VERSION as usize, 0, 0, 0, 0]) }).map(|number| number as u32)
}

/// A text that the hypervisor knows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionText {
    /// What follows the version number.
    Extra,
    /// The guest types it runs.
    Capabilities,
    /// Its source's identity.
    Changeset,
    /// Its command line.
    CommandLine,
}

/// One of the hypervisor's texts, without the zeroes that fill it up.
pub fn version_text(text: VersionText) -> Result<Vec<u8>> {
    let (cmd, len) = match text {
        VersionText::Extra => (XENVER_EXTRAVERSION, XEN_EXTRAVERSION_LEN),
        VersionText::Capabilities => (XENVER_CAPABILITIES, XEN_CAPABILITIES_INFO_LEN),
        VersionText::Changeset => (XENVER_CHANGESET, XEN_CHANGESET_INFO_LEN),
        VersionText::CommandLine => (XENVER_COMMANDLINE, XEN_COMMANDLINE_LEN),
    };
    let mut buffer = vec![0u8; len];
    let args = [cmd as usize, out(buffer.as_mut_slice()).0 as usize, 0, 0, 0];
    // SAFETY: the buffer is as long as the command's type.
    check(unsafe { call(nr::XEN_VERSION, args) })?;
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    buffer.truncate(end);
    Ok(buffer)
}

/// How the hypervisor was built, and where its address range starts.
pub fn build_info() -> Result<(CompileInfo, PlatformParameters)> {
    let (mut compile, mut platform) = (CompileInfo::new_zeroed(), PlatformParameters::new_zeroed());
    for (cmd, address) in
        [(XENVER_COMPILE_INFO, out(&mut compile)), (XENVER_PLATFORM_PARAMETERS, out(&mut platform))]
    {
        // SAFETY: each structure is the command's.
        check(unsafe { call(nr::XEN_VERSION, [cmd as usize, address.0 as usize, 0, 0, 0]) })?;
    }
    Ok((compile, platform))
}
