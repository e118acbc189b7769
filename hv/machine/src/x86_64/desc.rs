//! Descriptor tables. The GDT's last two pages of sixteen are the hypervisor's by the PV ABI
//! (xen-x86_64.h `FLAT_RING3_CS64` and its neighbours; xen.h `FIRST_RESERVED_GDT_ENTRY`): guests
//! name the flat ring-3 selectors without having a descriptor table of their own.

use super::percpu::{self, window, window_addr};
use core::arch::asm;

/// Hypervisor code segment.
pub const HOST_CS: u16 = 0xe008;
/// Hypervisor data segment.
pub const HOST_DS: u16 = 0xe010;
const TSS_SEL: u16 = 0xe040;
/// The LDT descriptor, two slots after the TSS's two.
pub const LDT_SEL: u16 = 0xe050;

/// The descriptors from selector 0xe000 on.
const OWN: [u64; 8] = [
    0,
    0x00af_9b00_0000_ffff, // 0xe008 ring 0 code, 64 bit
    0x00cf_9300_0000_ffff, // 0xe010 ring 0 data
    0,                     // 0xe018 (ring 1 code of 32-bit guests: not offered)
    0x00cf_fb00_0000_ffff, // 0xe023 ring 3 code, 32 bit
    0x00cf_f300_0000_ffff, // 0xe02b ring 3 data
    0x00af_fb00_0000_ffff, // 0xe033 ring 3 code, 64 bit
    0,
];

const GDT_LIMIT: u16 = 0xefff;

fn system_descriptor(kind: u64, base: u64, limit: u32) -> [u64; 2] {
    let limit = u64::from(limit);
    [
        (limit & 0xffff)
            | (base & 0xff_ffff) << 16
            | (0x80 | kind) << 40
            | (limit >> 16 & 0xf) << 48
            | (base >> 24 & 0xff) << 56,
        base >> 32,
    ]
}

/// Loads GDT, TSS, IDT and segment registers of this CPU.
/// # Safety
/// Once per CPU, with its window mapped and its block filled in; GS is loaded after.
pub(super) unsafe fn load(cpu: usize) {
    let own = window_addr(cpu, window::GDT_OWN) as *mut u64;
    let tss = window_addr(cpu, window::BLOCK) + core::mem::offset_of!(percpu::PerCpu, tss) as u64;
    // SAFETY: the window's pages are this CPU's; the layout of descriptors and of the TSS is the
    // architecture's, and every stack named in it is mapped.
    unsafe {
        for (i, d) in OWN.iter().enumerate() {
            *own.add(i) = *d;
        }
        let t = system_descriptor(0x9, tss, 103);
        *own.add(8) = t[0];
        *own.add(9) = t[1];
        *own.add(10) = 0;
        *own.add(11) = 0;
        let tss = tss as *mut u8;
        for (i, page) in window::IST.iter().enumerate() {
            // The stack's last 16 bytes hold the block's address (entry.s `ist_common`).
            tss.add(36 + 8 * i).cast::<u64>().write_unaligned(window_addr(cpu, *page) + 4096 - 16);
        }
        tss.add(102).cast::<u16>().write_unaligned(104); // no I/O bitmap
        let gdtr = Pointer { limit: GDT_LIMIT, base: window_addr(cpu, window::GDT) };
        asm!("lgdt [{}]", in(reg) &raw const gdtr, options(readonly, nostack));
        asm!(
            "push {cs}", "lea {t}, [rip + 2f]", "push {t}", "retfq", "2:",
            "mov ss, {z:x}", "mov ds, {z:x}", "mov es, {z:x}", "mov fs, {z:x}", "mov gs, {z:x}",
            cs = in(reg) u64::from(HOST_CS), t = out(reg) _, z = in(reg) 0u64
        );
        asm!("lldt {0:x}", in(reg) 0u64, options(nostack));
        asm!("ltr {0:x}", in(reg) u64::from(TSS_SEL), options(nostack));
        super::traps::load_idt();
    }
}

/// The selector of the running guest's GDT whose descriptor this CPU looks for at `address`, as an error code names it.
pub fn selector_at(address: u64) -> Option<u32> {
    let offset = address.checked_sub(window_addr(percpu::cpu_id(), window::GDT))?;
    (offset < (window::GDT_OWN - window::GDT) as u64 * 4096).then_some(offset as u32 & 0xfff8)
}

#[repr(C, packed)]
pub(super) struct Pointer {
    pub limit: u16,
    pub base: u64,
}

/// Makes `entries` descriptors of this CPU's LDT window the LDT (0: none). The frames behind them were
/// mapped by [`super::paging::map_window`].
pub fn load_ldt(entries: u32) {
    let cpu = percpu::cpu_id();
    let own = window_addr(cpu, window::GDT_OWN) as *mut u64;
    let entries = entries.min(8192);
    // SAFETY: the slot is this CPU's own; the window is mapped for `entries` or faults in the guest, and
    // the descriptors in it come from frames validated as descriptor frames.
    unsafe {
        if entries == 0 {
            asm!("lldt {0:x}", in(reg) 0u64, options(nostack));
        } else {
            let d = system_descriptor(0x2, window_addr(cpu, window::LDT), entries * 8 - 1);
            *own.add(10) = d[0];
            *own.add(11) = d[1];
            asm!("lldt {0:x}", in(reg) u64::from(LDT_SEL), options(nostack));
        }
    }
}
