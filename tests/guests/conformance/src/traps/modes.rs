//! What `iret` accepts, and what a user may do.

use super::{entry, tell, tell_but};
use guest_kernel::memory::Pages;

use crate::answer;
use crate::paging::pool::address_of;
use crate::raw::{buffer, call, fill, l4_frame, nr, peek, poke};

/// Every question about them.
pub fn ask() {
    iret();
    user();
}

/// The hypercall `iret` with a frame of these; it ends behind the question unless it traps.
fn return_to(name: &str, cs: u64, ss: u64, rflags: u64, offset: u64) {
    entry::reset();
    // SAFETY: the frame's stack is the one in use, its rip label 3 (plus an offset that makes it none); what is
    // refused comes back there by the failsafe callback.
    unsafe {
        core::arch::asm!(
            "lea r8, [rip + 3f]",
            "mov [rip + resume_at], r8",
            "mov [rip + resume_with], rsp",
            "add r8, r10",
            "mov r9, rsp",
            "push rdx",
            "push r9",
            "push rax",
            "push rcx",
            "push r8",
            "push 0",
            "push 0",
            "push 0",
            "push 0",
            "mov eax, 23",
            "syscall",
            "3:",
            in("rax") rflags, in("rcx") cs, in("rdx") ss, in("r10") offset,
            lateout("rax") _, lateout("rcx") _, out("r8") _, out("r9") _, out("r11") _,
        );
    }
    tell(format_args!("{name}"));
}

fn iret() {
    return_to("iret", 0xe030, 0xe02b, 0x2, 0);
    return_to("iret, single step", 0xe030, 0xe02b, 0x102, 0);
    return_to("iret, IOPL 3", 0xe030, 0xe02b, 0x3002, 0);
    return_to("iret to an address that is none", 0xe030, 0xe02b, 0x2, 1 << 60);
    return_to("iret by a selector out of the table", 0xfff0, 0xe02b, 0x2, 0);
    return_to("iret by a selector in no frame", 0x2000, 0xe02b, 0x2, 0);
    return_to("iret with a stack in no frame", 0xe030, 0x2003, 0x2, 0);
    return_to("iret by a selector of data", 0xe028, 0xe02b, 0x2, 0);
    return_to("iret by a null selector", 0, 0xe02b, 0x2, 0);
    return_to("iret with a stack out of the table", 0xe030, 0xfff3, 0x2, 0);
    return_to("iret with a stack in code", 0xe030, 0xe033, 0x2, 0);
}

/// What registers a user has whom an `iret` with these flags (xen-x86_64.h `VGCF_in_syscall`) enters: the frame's, or
/// those that `sysret` leaves.
fn registers(name: &str, flags: u64) {
    entry::reset();
    let (rax, rcx, r11, start): (u64, u64, u64, u64);
    // SAFETY: as for `return_to`; user mode is label 2, and a trap at once.
    unsafe {
        core::arch::asm!(
            "lea r8, [rip + 3f]",
            "mov [rip + resume_at], r8",
            "mov [rip + resume_with], rsp",
            "lea r8, [rip + 2f]",
            "mov r9, rsp",
            "push 0xe02b",
            "push r9",
            "push 2",
            "push 0xe033",
            "push r8",
            "push rdx",
            "push 5",
            "push 6",
            "push 7",
            "mov eax, 23",
            "syscall",
            "2:",
            "ud2",
            "3:",
            in("rdx") flags,
            out("rax") rax, out("rcx") rcx, out("r8") start, out("r9") _, out("r11") r11,
        );
    }
    tell(format_args!("{name}"));
    answer(format_args!("  rax"), rax.cast_signed());
    answer(format_args!("  rcx, -1 for rip"), if rcx == start { -1 } else { rcx.cast_signed() });
    answer(format_args!("  r11"), r11.cast_signed());
}

fn user() {
    answer(format_args!("stack_switch"), call(nr::STACK_SWITCH, [0xe02b, entry::stack(), 0, 0, 0]));
    fill(&[15, l4_frame(), 0]);
    answer(
        format_args!("the kernel's table as the user's"),
        call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]),
    );
    macro_rules! user {
        ($name:literal, $($line:literal),+) => {{
            user!(untold $($line),+);
            tell(format_args!($name));
        }};
        (untold $($line:literal),+) => {{
            entry::reset();
            // SAFETY: as for `return_to`; user mode begins at label 2 and ends at the first trap, at label 3.
            unsafe {
                core::arch::asm!(
                    "lea r8, [rip + 3f]",
                    "mov [rip + resume_at], r8",
                    "mov [rip + resume_with], rsp",
                    "lea r8, [rip + 2f]",
                    "mov r9, rsp",
                    "push 0xe02b",
                    "push r9",
                    "push 2",
                    "push 0xe033",
                    "push r8",
                    "push 0",
                    "push 0",
                    "push 0",
                    "push 0",
                    "mov eax, 23",
                    "syscall",
                    "2:",
                    $($line,)+
                    "ud2",
                    "3:",
                    out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r11") _,
                );
            }
        }};
    }
    /// DF, NT, AC: what of a user's the kernel's handler begins with.
    const KEPT: u64 = 0x4_4400;
    macro_rules! kept {
        ($name:literal, $($line:literal),+) => {{
            user!(untold "push 0x44402", "popfq", $($line),+);
            tell(format_args!($name));
            answer(format_args!("  the handler's own"), (entry::note(7) & KEPT).cast_signed());
        }};
    }
    user!("user: ud2", "ud2");
    kept!("user: ud2, with DF, NT and AC", "ud2");
    kept!("user: syscall, with DF, NT and AC", "mov eax, 17", "syscall");
    registers("iret to user mode", 0);
    registers("iret to user mode, as after a system call", 0x100);
    user!("user: syscall", "mov eax, 17", "syscall");
    // Entered another way where events are to be masked, with the same frame.
    fill(&[2 | 1 << 16, entry::syscall()]);
    answer(format_args!("callback 2, masking"), call(nr::CALLBACK_OP, [0, buffer(0), 0, 0, 0]));
    user!("user: syscall, masking", "mov eax, 17", "syscall");
    registers("iret to user mode, masking", 0);
    registers("iret to user mode, as after a system call, masking", 0x100);
    user!("user: syscall, masking, with flags", "push 0x2008d7", "popfq", "syscall");
    kept!("user: syscall, masking, with DF, NT and AC", "mov eax, 17", "syscall");
    user!("user: int 0x80", "int 0x80");
    user!("user: int 0x81, a kernel's", "int 0x81");
    user!("user: hlt", "hlt");
    user!("user: cli", "cli");
    user!("user: mov from cr3", "mov rax, cr3");
    user!("user: in", "in al, 0x80");
    user!("user: rdmsr", "mov ecx, 0x10", "rdmsr");
    user!("user: a selector in no frame", "mov eax, 0x2003", "mov ds, eax");
    user!("user: unmapped memory", "mov al, [0x10]");
    user!(untold "movabs al, [0xffff830000000000]");
    tell_but(format_args!("user: the hypervisor's memory"), 1);
    user!("user: int3", "int3");
    // On Intel's; Xen saves no stack for it.
    user!("user: sysenter", "sysenter");
    // The machine-to-physical table, through the kernel's table and through one that is the user's alone.
    user!("user: M2P by the kernel's table", "movabs al, [0xffff800000000000]");
    let extended = |command: u64, frame: u64| {
        fill(&[command, frame, 0]);
        call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0])
    };
    let (l4, pages) = (l4_frame(), Pages::new(1).ok());
    let own = pages.as_ref().map_or(0, |pages| pages.mfn(0).0);
    if let (Some(from), Some(to)) = (address_of(l4), address_of(own)) {
        for slot in (0..256).chain(272..512) {
            poke(to + slot * 8, peek(from + slot * 8));
        }
        let map = |flags: usize| call(nr::UPDATE_VA_MAPPING, [to, (own << 12) as usize | flags, 2, 0, 0]);
        answer(format_args!("the user's own table, read-only"), map(5));
        answer(format_args!("the user's own table, pinned"), extended(3, own));
        answer(format_args!("the user's own table, in use"), extended(15, own));
        user!(untold "movabs al, [0xffff800000000000]");
        tell_but(format_args!("user: M2P by its own table"), 1);
        answer(format_args!("the kernel's table as the user's again"), extended(15, l4));
        answer(format_args!("the user's own table, unpinned"), extended(4, own));
        answer(format_args!("the user's own table, writable"), map(7));
    }
    fill(&[15, 0, 0]);
    answer(format_args!("no table for the user"), call(nr::MMUEXT_OP, [buffer(0), 1, 0, 0x7ff0, 0]));
}
