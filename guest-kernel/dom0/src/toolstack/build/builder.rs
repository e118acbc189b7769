//! Building a domain: the plan of [`super::layout`] carried out by hypercalls. Everything is done before the
//! domain runs, and a step that fails gives all of it back.

use super::image::Kernel;
use super::layout::{Layout, PAGE};
use crate::toolstack::config::DomainConfig;
use crate::toolstack::hypervisor::{ForeignPages, Hypervisor, Share};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use shared_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use shared_abi::grant_table::{
    GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE, GTF_PERMIT_ACCESS, GrantEntryV1,
};
use shared_abi::xen::{
    MAX_GUEST_CMDLINE, SIF_MOD_START_PFN, SharedInfo, StartInfo, StartInfoConsoleDomu, VcpuInfo,
};
use shared_abi::{DomId, Errno, Mfn, Pfn, Port};
use zerocopy::IntoBytes;

/// Pages that are mapped at a time.
const CHUNK: usize = 512;
/// Memory that a domain may have above its maximum, as libxl grants it.
const SLACK_KIB: u64 = 1024;
const KERNEL_CS: u16 = 0xe033;
const KERNEL_SS: u16 = 0xe02b;
const EFLAGS_IF: u64 = 1 << 9;

/// A domain that has been built and is paused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// Its number.
    pub domain: DomId,
    /// Its console ring.
    pub console: Mfn,
    /// Its end of the console's event channel.
    pub console_port: Port,
    /// Its xenstore ring.
    pub xenstore: Mfn,
    /// Its end of xenstore's event channel.
    pub xenstore_port: Port,
}

/// Destroys the domain when dropped: what becomes of one whose builder returns early.
struct Unfinished<'a, H: Hypervisor> {
    hypervisor: &'a H,
    domain: DomId,
}

impl<H: Hypervisor> Drop for Unfinished<'_, H> {
    fn drop(&mut self) {
        // Nothing more can be done if even this fails; the domain then shows in the list.
        let _ = self.hypervisor.destroy(self.domain);
    }
}

fn failed(what: &str) -> impl Fn(Errno) -> String {
    let what = String::from(what);
    move |errno| format!("{what}: {}", errno.name())
}

/// Builds the domain that `config` describes from its kernel's ELF file and the content of its ramdisk's.
pub fn build<H: Hypervisor>(
    hypervisor: &H,
    config: &DomainConfig,
    uuid: [u8; 16],
    kernel: &[u8],
    ramdisk: Option<&[u8]>,
) -> Result<Built, String> {
    let kernel = Kernel::parse(kernel).map_err(|error| format!("{}: {error}", config.kernel))?;
    let ramdisk = ramdisk.unwrap_or(&[]);
    let pages = config.memory * (1 << 20) / PAGE;
    let layout = Layout::plan(&kernel, ramdisk.len() as u64, pages)?;
    if config.cmdline.len() >= MAX_GUEST_CMDLINE {
        return Err(format!("the kernel's command line has more than {} bytes", MAX_GUEST_CMDLINE - 1));
    }
    check_free(hypervisor, pages)?;

    let domain = hypervisor.create(uuid, config.maxvcpus).map_err(failed("cannot create a domain"))?;
    let unfinished = Unfinished { hypervisor, domain };
    let maximum = config.maxmem * 1024;
    hypervisor
        .set_max_memory(domain, maximum + SLACK_KIB)
        .map_err(failed("cannot set the domain's memory limit"))?;
    hypervisor
        .set_memory_map(domain, maximum * 1024)
        .map_err(failed("cannot set the domain's memory map"))?;
    for (vcpu, cpus) in (0..config.maxvcpus).zip(&config.cpus) {
        if let Some(cpus) = cpus {
            hypervisor.set_affinity(domain, vcpu, cpus).map_err(failed("cannot set cpus"))?;
        }
    }
    if let Some(mode) = config.tsc_mode {
        hypervisor.set_tsc_mode(domain, mode).map_err(failed("cannot set tsc_mode"))?;
    }
    if config.cpu_weight.is_some() || config.cap.is_some() {
        let share = hypervisor.share(domain).map_err(failed("cannot get the domain's share of CPU time"))?;
        let weight = config.cpu_weight.unwrap_or(share.weight);
        let share = Share { weight, cap: config.cap.unwrap_or(share.cap) };
        hypervisor.set_share(domain, share).map_err(failed("cannot set cpu_weight and cap"))?;
    }
    let p2m =
        hypervisor.populate(domain, Pfn(0), pages).map_err(failed("cannot give the domain its memory"))?;
    let memory = Memory { hypervisor, domain, p2m: &p2m };
    memory.load(&layout, &kernel, ramdisk)?;

    let console_port =
        hypervisor.alloc_port(domain).map_err(failed("cannot make the console's event channel"))?;
    let xenstore_port =
        hypervisor.alloc_port(domain).map_err(failed("cannot make xenstore's event channel"))?;
    let built = Built {
        domain,
        console: memory.mfn(layout.console)?,
        console_port,
        xenstore: memory.mfn(layout.xenstore)?,
        xenstore_port,
    };
    memory.start_info(&layout, config, ramdisk.len() as u64, &built)?;
    memory.seed_grants(&built)?;
    if let Some(address) = kernel.hypercall_page {
        let frame = memory.mfn(layout.pfn_of(address))?;
        hypervisor.fill_hypercall_page(domain, frame).map_err(failed("cannot fill the hypercall page"))?;
    }
    let root = memory.mfn(layout.tables.start)?;
    hypervisor.pin(domain, root).map_err(failed("the hypervisor refuses the domain's page tables"))?;
    let context = boot_context(&layout, kernel.entry, root);
    hypervisor.set_context(domain, &context).map_err(failed("cannot set the domain's first vcpu"))?;
    core::mem::forget(unfinished);
    Ok(built)
}

fn check_free<H: Hypervisor>(hypervisor: &H, pages: u64) -> Result<(), String> {
    let free = hypervisor.machine().map_err(failed("cannot ask for free memory"))?.free_pages;
    if pages > free {
        let mib = |pages: u64| (pages * PAGE) >> 20;
        return Err(format!(
            "not enough free memory: the domain asks for {} MiB, {} MiB are free",
            mib(pages),
            mib(free)
        ));
    }
    Ok(())
}

/// The registers that a PV kernel starts with: xen.h, "start-of-day memory layout".
fn boot_context(layout: &Layout, entry: u64, root: Mfn) -> VcpuGuestContext {
    let mut context = VcpuGuestContext::default();
    let stack = layout.address(layout.stack + 1);
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE;
    context.user_regs.rip = entry;
    context.user_regs.cs = KERNEL_CS;
    context.user_regs.rflags = EFLAGS_IF;
    context.user_regs.rsp = stack;
    context.user_regs.ss = KERNEL_SS;
    context.user_regs.rsi = layout.address(layout.start_info);
    context.kernel_ss = u64::from(KERNEL_SS);
    context.kernel_sp = stack;
    context.ctrlreg[3] = root.0 * PAGE;
    context
}

/// The new domain's pages.
struct Memory<'a, H: Hypervisor> {
    hypervisor: &'a H,
    domain: DomId,
    p2m: &'a [Mfn],
}

impl<H: Hypervisor> Memory<'_, H> {
    fn mfn(&self, pfn: u64) -> Result<Mfn, String> {
        let frame = usize::try_from(pfn).ok().and_then(|pfn| self.p2m.get(pfn));
        frame.copied().ok_or_else(|| format!("pfn {pfn:#x} is outside the domain"))
    }

    /// Copies `bytes` to the pages from byte `at` of the domain's memory on, then zeroes up to `len`.
    fn write(&self, at: u64, bytes: &[u8], len: u64) -> Result<(), String> {
        let page = PAGE as usize;
        let zeroes = vec![0; page];
        let end = at + len.max(bytes.len() as u64);
        let mut next = at;
        while next < end {
            let first = (next / PAGE) as usize;
            let last = (end.div_ceil(PAGE) as usize).min(first + CHUNK);
            let frames = self.p2m.get(first..last).ok_or("a part of the kernel lies outside the domain")?;
            let pages =
                self.hypervisor.map(self.domain, frames).map_err(failed("cannot map the domain's memory"))?;
            let stop = end.min(last as u64 * PAGE);
            while next < stop {
                let done = (next - at) as usize;
                let offset = (next - first as u64 * PAGE) as usize;
                let room = (stop - next) as usize;
                let part = match bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    Some(rest) => &rest[..rest.len().min(room)],
                    None => &zeroes[..page.min(room)],
                };
                pages.write(offset, part);
                next += part.len() as u64;
            }
        }
        Ok(())
    }

    fn load(&self, layout: &Layout, kernel: &Kernel<'_>, ramdisk: &[u8]) -> Result<(), String> {
        for segment in &kernel.segments {
            self.write(segment.address - layout.virt_base, segment.data, segment.size)?;
        }
        self.write(layout.ramdisk.start * PAGE, ramdisk, 0)?;
        self.write(layout.p2m.start * PAGE, self.p2m.as_bytes(), 0)?;
        for page in [layout.xenstore, layout.console] {
            self.write(page * PAGE, &[], PAGE)?;
        }
        let tables = layout.page_tables(|pfn| self.p2m.get(pfn.0 as usize).copied().unwrap_or_default());
        // Mapped writable here, they could not become page tables: `write` has unmapped them again.
        self.write(layout.tables.start * PAGE, tables.as_bytes(), 0)
    }

    fn start_info(
        &self,
        layout: &Layout,
        config: &DomainConfig,
        ramdisk: u64,
        built: &Built,
    ) -> Result<(), String> {
        let shared_info = self
            .hypervisor
            .info(self.domain)
            .map_err(failed("cannot ask for the domain's state"))?
            .shared_info;
        let mut info = StartInfo::default();
        copy_text(&mut info.magic, "xen-3.0-x86_64");
        copy_text(&mut info.cmd_line, &config.cmdline);
        info.nr_pages = layout.pages;
        info.shared_info = shared_info.0 * PAGE;
        info.store_mfn = built.xenstore;
        info.store_evtchn = built.xenstore_port.0;
        let console =
            StartInfoConsoleDomu { mfn: built.console, evtchn: built.console_port.0, ..Default::default() };
        info.set_console_domu(console);
        info.pt_base = layout.address(layout.tables.start);
        info.nr_pt_frames = layout.tables.end - layout.tables.start;
        info.mfn_list = layout.p2m_address;
        info.first_p2m_pfn = layout.p2m.start;
        info.nr_p2m_frames = layout.p2m.end - layout.p2m.start;
        if ramdisk > 0 {
            info.mod_len = ramdisk;
            info.mod_start = layout.address(layout.ramdisk.start);
            if layout.ramdisk_by_pfn {
                info.mod_start = layout.ramdisk.start;
                info.flags |= SIF_MOD_START_PFN;
            }
        }
        self.write(layout.start_info * PAGE, info.as_bytes(), PAGE)?;

        // Events stay masked until the kernel has installed its handlers.
        let page =
            self.hypervisor.map(self.domain, &[shared_info]).map_err(failed("cannot map shared_info"))?;
        let vcpus = core::mem::offset_of!(SharedInfo, vcpu_info);
        let mask = core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask);
        for vcpu in 0..shared_abi::arch_x86::XEN_LEGACY_MAX_VCPUS {
            page.write(vcpus + vcpu * size_of::<VcpuInfo>() + mask, &[1]);
        }
        Ok(())
    }

    /// Grants the two rings to dom0 under the references that are reserved for them, so that a backend needs
    /// no privilege to map them.
    fn seed_grants(&self, built: &Built) -> Result<(), String> {
        let frame =
            self.hypervisor.grant_frame(self.domain).map_err(failed("cannot find the grant table"))?;
        let table =
            self.hypervisor.map(self.domain, &[frame]).map_err(failed("cannot map the grant table"))?;
        for (reference, frame) in
            [(GNTTAB_RESERVED_CONSOLE, built.console), (GNTTAB_RESERVED_XENSTORE, built.xenstore)]
        {
            let frame = u32::try_from(frame.0).map_err(|_| "a ring lies above 16 TiB")?;
            let entry = GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid: DomId(0), frame };
            table.write(reference as usize * size_of::<GrantEntryV1>(), entry.as_bytes());
        }
        Ok(())
    }
}

/// Copies text into a zeroed field that has room for it and a terminating zero.
fn copy_text(field: &mut [u8], text: &str) {
    let len = text.len().min(field.len() - 1);
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
}
