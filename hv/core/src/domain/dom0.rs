//! Building the first domain: the hypervisor's only builder (every other domain is built by the first one).
//!
//! What the kernel finds is the PV ABI's boot contract (xen.h, "Start-of-day memory layout"): one contiguous
//! region from its base with kernel, ramdisk, p2m list, start_info, page tables and stack, mapped by page
//! tables that are read-only to it. The tables are made by hand in the domain's own frames and then
//! validated by pinning, like any guest's.
//!
//! A bzImage is unpacked first, into memory that is dom0's afterwards: the domain gets the frames of that
//! region, the kernel is loaded into them, and only then come the frames of the rest.

use super::Domain;
use super::grants::Limits;
use super::kernel::Kernel;
use super::lifecycle::{Spec, create, make_vcpus, set_context, unpause_domain};
use super::vcpu::pause;
use crate::dom0_layout::{Layout, tables};
use crate::emul::cpuid::{Kind, Leaf, Policy, with_waiting_lfence};
use crate::mm::{frames, with_rights};
use crate::run;
use crate::sched::{CpuSet, Policy as _};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_machine::boot::Screen;
use hv_machine::frame::{Frame, Limit, Work, Writable};
use hv_machine::ram::Page;
use hv_machine::x86_64::{cpu, speculation, tlb};
use shared_abi::arch_x86::*;
use shared_abi::xen::hypercall as nr;
use shared_abi::xen::*;
use shared_abi::{DomId, Mfn, pte};

/// What to build.
pub struct Plan<'a> {
    /// The kernel's file: ELF or bzImage.
    pub kernel: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// A ramdisk.
    pub ramdisk: Option<&'a [u8]>,
    /// Frames it gets.
    pub frames: u64,
    /// Frames it may have.
    pub max_frames: u64,
    /// Vcpus it gets.
    pub vcpus: u32,
    /// Each vcpu keeps to a CPU of its own.
    pub is_pinned: bool,
    /// The machine's screen.
    pub screen: Option<&'a Screen>,
    /// The firmware is EFI.
    pub is_efi: bool,
    /// Frames of devices that the hypervisor drives itself.
    pub kept: &'a [core::ops::Range<u64>],
}

/// Why it can't be built.
#[derive(Debug)]
pub enum Error {
    /// The kernel's file gives no kernel.
    Packed(bzimage::Error),
    /// Anything else.
    Other(&'static str),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Packed(why) => write!(f, "its kernel: {why}"),
            Error::Other(why) => f.write_str(why),
        }
    }
}

impl From<&'static str> for Error {
    fn from(why: &'static str) -> Error {
        Error::Other(why)
    }
}

type Result<T> = core::result::Result<T, &'static str>;

fn cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let r = cpu::cpuid(leaf, subleaf);
    Leaf { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}

fn arch_capabilities() -> u64 {
    cpu::try_rdmsr(crate::emul::msr::ARCH_CAPABILITIES).unwrap_or(0)
}

/// The policy for a domain of this kind on this machine.
pub fn policy(kind: Kind) -> Policy {
    match speculation::lfence_was_told_to_wait() {
        true => Policy::new(with_waiting_lfence(cpuid), arch_capabilities(), kind),
        false => Policy::new(cpuid, arch_capabilities(), kind),
    }
}

/// This machine's own.
pub fn hardware() -> Policy {
    Policy::hardware(&cpuid, arch_capabilities())
}

/// The domain's frames by pfn, while it is built.
struct Memory {
    dom: Arc<Domain>,
    mfns: Vec<u64>,
}

impl Memory {
    /// No frames yet, but room to note `n`.
    fn new(dom: &Arc<Domain>, n: u64) -> Result<Memory> {
        let mut mfns = Vec::new();
        mfns.try_reserve_exact(n as usize).map_err(|_| "no memory for dom0's frame list")?;
        Ok(Memory { dom: dom.clone(), mfns })
    }

    /// Gives the domain frames until it has `n`, in runs as large as there are.
    fn populate(&mut self, n: u64) -> Result<()> {
        while (self.mfns.len() as u64) < n {
            let left = n - self.mfns.len() as u64;
            let mut order = left.ilog2().min(hv_machine::frame::MAX_ORDER);
            let block = loop {
                match frames().alloc_uncleared(order, Limit::Any) {
                    Some(b) => break b,
                    None if order == 0 => return Err("not enough memory for dom0 (dom0_mem)"),
                    None => order -= 1,
                }
            };
            let first = frames().assign(block, self.dom.id).map_err(|_| "no memory for dom0's frame list")?;
            for k in 0..1u64 << order {
                frames().m2p_set(Mfn(first.0 + k), self.mfns.len() as u64);
                self.mfns.push(first.0 + k);
            }
        }
        Ok(())
    }

    fn hold(&self, pfn: u64) -> Result<Frame<'static, Writable>> {
        let mfn =
            *self.mfns.get(pfn as usize).ok_or("dom0 is too small for its kernel and ramdisk (dom0_mem)")?;
        frames()
            .get_writable(Mfn(mfn), self.dom.id, &mut crate::mm::work())
            .map_err(|_| "a frame of dom0's can't be written")
    }

    /// Copies bytes to a pseudo-physical address.
    fn write(&self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let offset = (at & 0xfff) as usize;
            let n = bytes.len().min(4096 - offset);
            self.hold(at >> 12)?.page().write(offset, &bytes[..n]);
            at += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Zeroes a range of pseudo-physical addresses.
    fn zero(&self, mut at: u64, end: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while at < end {
            let n = (4096 - (at & 0xfff)).min(end - at);
            self.write(at, &ZEROS[..n as usize])?;
            at += n;
        }
        Ok(())
    }
}

/// Pages for `bytes`.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(4096)
}

/// Builds it and lets it run.
pub fn build(plan: &Plan<'_>) -> core::result::Result<Arc<Domain>, Error> {
    let file = bzimage::unpack(plan.kernel).map_err(Error::Packed)?;
    let kernel = Kernel::parse(&file)?;
    let dom = create(Spec {
        id: DomId(0),
        handle: [0; 16],
        control: true,
        max_vcpus: plan.vcpus,
        max_port: u32::MAX,
        grants: Limits::MOST,
        policy: policy(Kind::HardwareDomain),
    })
    .map_err(|_| "no memory for dom0")?;
    for k in plan.kept {
        dom.rights.lock().keep_memory(k.clone()).map_err(|_| "no memory for dom0's rights")?;
    }
    dom.memory.set_max(plan.max_frames.max(plan.frames));
    if !dom.memory.charge(plan.frames) {
        return Err("dom0's memory limit".into());
    }

    // The region, in pages from the kernel's base.
    let base = kernel.base;
    let ramdisk_at = pages(kernel.end - base);
    let used = ramdisk_at + pages(plan.ramdisk.map_or(0, <[u8]>::len) as u64);
    let layout = Layout::new(base, used, pages(plan.frames * 8));
    let Layout { p2m: p2m_at, info: info_at, tables: tables_at, count, stack: stack_at, .. } = layout;
    let end = base + layout.end * 4096;
    if (end - base) / 4096 > plan.frames {
        return Err("dom0 is too small for its kernel and ramdisk (dom0_mem)".into());
    }
    let mut memory = Memory::new(&dom, plan.frames)?;
    memory.populate((end - base) / 4096)?;

    for s in kernel.segments() {
        let (va, data, size) = s?;
        memory.write(va - base, data)?;
        memory.zero(va - base + data.len() as u64, va - base + size)?;
    }
    let Kernel { entry, hypercall_page, start: kernel_start, end: kernel_end, .. } = kernel;
    drop(file);
    memory.populate(plan.frames)?;
    if let Some(r) = plan.ramdisk {
        memory.write(ramdisk_at << 12, r)?;
    }
    memory.write(p2m_at << 12, zerocopy::IntoBytes::as_bytes(&memory.mfns[..]))?;
    if let Some(va) = hypercall_page {
        let at = va.checked_sub(base).ok_or("the kernel's hypercall page is outside it")?;
        write_hypercall_page(&memory.hold(at >> 12)?.page());
    }

    let l4 = write_tables(&memory, base, end, tables_at, count)?;
    memory.zero(stack_at << 12, (stack_at + 1) << 12)?;
    write_start_info(&memory, plan, &dom, base, [info_at, ramdisk_at, p2m_at, tables_at, count])?;

    let mut work = Work::new(frames(), u32::MAX);
    with_rights(&dom, dom.id, |r| frames().pin(Mfn(l4), 4, r, &mut work))
        .map_err(|_| "dom0's page tables were refused")?;
    make_vcpus(&dom).map_err(|_| "no memory for dom0's vcpus")?;
    if plan.is_pinned {
        for (v, cpu) in dom.vcpus().iter().zip((0..tlb::online().count_ones()).cycle()) {
            let set = run::scheduler().set_affinity(v.handle, CpuSet::one(cpu));
            // they have not run yet: no processor has one to give up
            let _ = set.map_err(|_| "dom0's vcpus can't be pinned")?;
        }
    }
    let mut c = super::lifecycle::guest_context().map_err(|_| "no memory for dom0's registers")?;
    c.flags = VGCF_IN_KERNEL;
    c.user_regs.rip = entry;
    c.user_regs.rsp = base + ((stack_at + 1) << 12);
    c.user_regs.rsi = base + (info_at << 12);
    c.user_regs.rflags = 0x202;
    c.user_regs.cs = FLAT_KERNEL_CS;
    c.user_regs.ss = FLAT_KERNEL_SS;
    c.kernel_ss = FLAT_KERNEL_SS.into();
    c.kernel_sp = c.user_regs.rsp;
    c.ctrlreg[3] = l4 << 12;
    let v = &dom.vcpus()[0];
    set_context(&dom, v, &mut v.context.lock(), &c).map_err(|_| "dom0's first vcpu was refused")?;
    log::info!(
        "dom0: {} MiB, {} vcpus, kernel {:#x}-{:#x}, entry {:#x}, {} tables",
        plan.frames / 256,
        plan.vcpus,
        kernel_start,
        kernel_end,
        entry,
        count
    );
    v.unblock(pause::DOWN);
    unpause_domain(&dom).map_err(|_| "dom0 can't be started")?;
    Ok(dom)
}

/// Writes the tables that map `base..end` onto pfn 0 and up, and returns the L4's mfn.
fn write_tables(memory: &Memory, base: u64, end: u64, tables_at: u64, count: u64) -> Result<u64> {
    const FLAGS: u64 = pte::PRESENT | pte::USER | pte::ACCESSED | pte::DIRTY;
    let mfn = |page: u64| memory.mfns.get(page as usize).copied().ok_or("dom0 is too small");
    memory.zero(tables_at << 12, (tables_at + count) << 12)?;
    let n = tables(base, end);
    // First page of the tables of each level. The L4 comes first: kernels take `pt_base` for both the root's
    // address and the beginning of all tables.
    let first = [tables_at + 1 + n[2] + n[1], tables_at + 1 + n[2], tables_at + 1, tables_at];
    for page in 0..(end - base) / 4096 {
        let va = base + page * 4096;
        let read_only = (tables_at..tables_at + count).contains(&page);
        let e = pte::entry(Mfn(mfn(page)?), FLAGS | if read_only { 0 } else { pte::RW });
        let table = first[0] + ((va >> 21) - (base >> 21));
        memory.write((table << 12) + 8 * pte::index(va, 1) as u64, &e.to_le_bytes())?;
    }
    for level in 2..=4 {
        let shift = pte::LEVEL_SHIFT[level - 1];
        for i in 0..n[level - 2] {
            let slot = (base >> shift) + i;
            let table = first[level - 1] + ((slot >> 9) - (base >> (shift + 9)));
            let e = pte::entry(Mfn(mfn(first[level - 2] + i)?), FLAGS | pte::RW);
            memory.write((table << 12) + 8 * (slot & 511), &e.to_le_bytes())?;
        }
    }
    mfn(first[3])
}

fn write_start_info(memory: &Memory, plan: &Plan<'_>, dom: &Domain, base: u64, at: [u64; 5]) -> Result<()> {
    let [info_at, ramdisk_at, p2m_at, tables_at, count] = at;
    let mut info = Box::new(StartInfo::default());
    info.magic[..14].copy_from_slice(b"xen-3.0-x86_64");
    info.nr_pages = plan.frames;
    info.shared_info = dom.shared.mfn().address();
    info.flags = SIF_PRIVILEGED | SIF_INITDOMAIN;
    info.pt_base = base + (tables_at << 12);
    info.nr_pt_frames = count;
    info.mfn_list = base + (p2m_at << 12);
    if let Some(r) = plan.ramdisk {
        info.mod_start = base + (ramdisk_at << 12);
        info.mod_len = r.len() as u64;
    }
    let line = plan.cmdline.as_bytes();
    let n = line.len().min(MAX_GUEST_CMDLINE - 1);
    info.cmd_line[..n].copy_from_slice(&line[..n]);
    let (at, behind) = (info_at << 12, size_of::<StartInfo>());
    memory.zero(at + behind as u64, at + 4096)?;
    if let Some(screen) = plan.screen.and_then(|s| screen_info(s, plan.is_efi)) {
        info.set_console_dom0(StartInfoConsoleDom0 {
            info_off: behind as u32,
            info_size: size_of_val(&screen) as u32,
        });
        memory.write(at + behind as u64, zerocopy::IntoBytes::as_bytes(&screen))?;
    }
    memory.write(at, zerocopy::IntoBytes::as_bytes(&*info))
}

/// What dom0 is told of the screen. `None`: it has a size that can't be told.
fn screen_info(screen: &Screen, is_efi: bool) -> Option<Dom0VgaConsoleInfo> {
    let (width, height) = (screen.width.try_into().ok()?, screen.height.try_into().ok()?);
    let mut info = Dom0VgaConsoleInfo::default();
    let Some([red_pos, red_size, green_pos, green_size, blue_pos, blue_size]) = screen.colours else {
        info.video_type = XEN_VGATYPE_TEXT_MODE_3;
        let text =
            VgaTextMode3 { font_height: 16, cursor_x: 0, cursor_y: height, rows: height, columns: width };
        info.set_text_mode_3(text);
        return Some(info);
    };
    info.video_type = if is_efi { XEN_VGATYPE_EFI_LFB } else { XEN_VGATYPE_VESA_LFB };
    info.set_vesa_lfb(VgaVesaLfb {
        width,
        height,
        bytes_per_line: screen.pitch.try_into().ok()?,
        bits_per_pixel: screen.depth.into(),
        lfb_base: screen.address as u32,
        ext_lfb_base: (screen.address >> 32) as u32,
        lfb_size: u32::try_from((u64::from(screen.pitch) * u64::from(screen.height)).div_ceil(1 << 16))
            .ok()?,
        red_pos,
        red_size,
        green_pos,
        green_size,
        blue_pos,
        blue_size,
        ..Default::default()
    });
    Some(info)
}

/// Fills a frame with the hypercall stubs: 32 bytes each, keeping rcx and r11, which `syscall` overwrites.
pub fn write_hypercall_page(page: &Page<'_>) {
    page.zero();
    for n in 0..128u32 {
        let [a, b, c, d] = n.to_le_bytes();
        // push rcx; push r11; mov eax, n; syscall; pop r11; pop rcx; ret
        let stub = [0x51, 0x41, 0x53, 0xb8, a, b, c, d, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
        page.write(n as usize * 32, &stub);
    }
    // iret takes its frame from the stack: push rcx; push r11; push rax; mov eax, n; syscall
    let [a, b, c, d] = (nr::IRET as u32).to_le_bytes();
    page.write(nr::IRET as usize * 32, &[0x51, 0x41, 0x53, 0x50, 0xb8, a, b, c, d, 0x0f, 0x05]);
}
