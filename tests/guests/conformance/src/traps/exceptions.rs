//! Exceptions of the kernel's own: by instructions made for them, by addresses, by selectors.

use super::{tell, tell_but};
use crate::answer;

/// Every question about exceptions.
pub fn ask() {
    by_instructions();
    by_addresses();
    by_selectors();
}

fn by_instructions() {
    ask!("ud2", "ud2");
    ask!("int3", "int3");
    ask!("int 0x80", "int 0x80");
    ask!("int 0x81, a kernel's", "int 0x81");
    ask!("int 0x83, without a handler", "int 0x83");
    ask!("int 14", "int 14");
    ask!("icebp", ".byte 0xf1");
    ask!("division by zero", "div rcx");
    ask!("single step", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop");
    ask_value!("dr6 after it", "mov rax, dr6" ; 0, 0, 0);
    ask!("hlt", "hlt");
    ask!("syscall of nothing", "mov eax, 63", "syscall");
    ask!("int 0x82", "int 0x82");
}

fn by_addresses() {
    for (name, address, hidden) in [
        ("unmapped memory", 0x10, 0),
        // Whether its own memory is mapped at this moment is the hypervisor's affair (Xen's differs with
        // the processor's flaws): no word of a fault's P bit there.
        ("the hypervisor's memory", 0xffff_8300_0000_0000, 1),
        ("no address", 0x0000_8000_0000_0000, 0),
        ("the last byte", u64::MAX, 0),
    ] {
        run!("mov al, [rcx]" ; 0, address, 0);
        tell_but(format_args!("read of {name}"), hidden);
        let (cr2, _, _) = run!("mov rax, cr2" ; 0, 0, 0);
        answer(format_args!("  cr2"), cr2.cast_signed());
        run!("mov [rcx], al" ; 0, address, 0);
        tell_but(format_args!("write to {name}"), hidden);
        run!("sub rcx, rsp", "mov al, [rsp + rcx]" ; 0, address, 0);
        tell_but(format_args!("read by the stack of {name}"), hidden);
        run!("jmp rcx" ; 0, address, 0);
        tell_but(format_args!("jump to {name}"), hidden);
    }
}

fn by_selectors() {
    for (name, selector) in [
        ("null", 0),
        ("out of the table", 0xfff8),
        ("the hypervisor's", 0xe008),
        ("of no LDT", 0xc),
        ("code", 0xe033),
    ] {
        run!("mov r10d, ds", "mov ds, ecx", "mov ds, r10d" ; 0, selector, 0);
        tell(format_args!("ds with a selector: {name}"));
        run!("mov r10d, ss", "mov ss, ecx", "mov ss, r10d" ; 0, selector, 0);
        tell(format_args!("ss with a selector: {name}"));
    }
}
