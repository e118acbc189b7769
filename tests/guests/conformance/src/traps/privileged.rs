//! Instructions that only ring 0 may run: which the hypervisor carries out for a guest's kernel, and how.

/// Every question about them.
pub fn ask() {
    instructions();
    control_registers();
    extended_control();
    ports();
    debug_registers();
}

fn instructions() {
    ask!("cli", "cli");
    ask!("sti", "sti");
    ask!("clts", "clts");
    ask!("wbinvd", "wbinvd");
    ask!("invd", "invd");
    ask!("invlpg", "invlpg [rcx]");
    ask!("lgdt", "lgdt [rsp]");
    ask!("lldt", "lldt cx");
    ask!("ltr", "ltr cx");
    ask!("lmsw", "lmsw cx");
    ask!("swapgs", "swapgs");
    ask!("sysret", "sysretq");
    ask!("rdpmc", "rdpmc");
    ask!("monitor", "monitor");
    ask!("vmcall", "vmcall");
    ask!("vmmcall", "vmmcall");
}

fn control_registers() {
    ask_value!("cr0", "mov rax, cr0" ; 0, 0, 0);
    ask!("mov cr0, itself", "mov rax, cr0", "mov cr0, rax");
    ask!("mov cr0 without paging", "mov rax, cr0", "btr rax, 31", "mov cr0, rax");
    ask!("mov cr2", "mov cr2, rcx" ; 0, 0x1234, 0);
    ask_value!("cr2", "mov rax, cr2" ; 0, 0, 0);
    ask!("mov cr3, no table", "mov cr3, rcx" ; 0, 0x1000, 0);
    ask!("mov cr4, itself", "mov rax, cr4", "mov cr4, rax");
    ask!("mov cr4, all", "mov cr4, rcx" ; 0, u64::MAX, 0);
    ask_value!("cr4 after all", "mov rax, cr4" ; 0, 0, 0);
    ask!("mov cr4, none", "mov cr4, rcx");
    ask_value!("cr4 after none", "mov rax, cr4" ; 0, 0, 0);
    ask!("mov cr8", "mov cr8, rcx");
    ask!("from cr8", "mov rax, cr8");
}

fn extended_control() {
    ask!("xgetbv without OSXSAVE", "xgetbv");
    ask!("xsetbv without OSXSAVE", "xsetbv" ; 3, 0, 0);
    ask!("mov cr4 with OSXSAVE", "mov rax, cr4", "bts rax, 18", "mov cr4, rax");
    ask_value!("xgetbv", "xgetbv" ; 0, 0, 0);
    ask!("xsetbv", "xsetbv" ; 3, 0, 0);
    ask!("xsetbv of nothing", "xsetbv" ; 0, 0, 0);
    ask!("xsetbv of another", "xsetbv" ; 3, 1, 0);
    ask!("xsetbv of all", "xsetbv" ; 0xffff_ffff, 0, 0xffff_ffff);
}

fn ports() {
    ask_value!("in 0x20", "in al, 0x20" ; 0, 0, 0);
    ask_value!("in 0x3fd", "mov edx, 0x3fd", "in al, dx", "mov edx, 0" ; 0, 0, 0);
    ask_value!("in 0xcf8", "mov edx, 0xcf8", "in eax, dx", "mov edx, 0" ; 0, 0, 0);
    ask!("out 0x80", "out 0x80, al");
    ask!("out 0x20", "out 0x20, al");
    ask_value!("in 0x21", "in al, 0x21" ; 0, 0, 0);
    ask_value!("in 0x40", "in al, 0x40" ; 0, 0, 0);
}

fn debug_registers() {
    ask!("mov dr0", "mov dr0, rcx" ; 0, 0x1000, 0);
    ask_value!("dr0", "mov rax, dr0" ; 0, 0, 0);
    ask!("mov dr0, the hypervisor's", "mov dr0, rcx" ; 0, 0xffff_8300_0000_0000, 0);
    ask_value!("dr4", "mov rax, dr4" ; 0, 0, 0);
    ask!("mov dr6", "mov dr6, rcx" ; 0, 0xffff_ffff, 0);
    ask_value!("dr6", "mov rax, dr6" ; 0, 0, 0);
    ask!("mov dr6, upper half", "mov dr6, rcx" ; 0, 1 << 32, 0);
    ask!("mov dr7, general detect", "mov dr7, rcx" ; 0, 0x2000, 0);
    ask!("mov dr7", "mov dr7, rcx" ; 0, 0x2, 0);
    ask_value!("dr7", "mov rax, dr7" ; 0, 0, 0);
    ask!("mov dr7, input and output", "mov dr7, rcx" ; 0, 0x2_0002, 0);
    ask!("mov dr7, none", "mov dr7, rcx");
}
