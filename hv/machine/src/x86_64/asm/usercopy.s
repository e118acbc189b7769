# Memory of a guest, by its own addresses: each access may fault, and then continues at the fixup
# with the count of bytes not done. The caller has checked that the range isn't the hypervisor's and
# has opened SMAP's window (guest_mem.rs).

    .text
# fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> usize (bytes left)
    .global guest_copy
    .balign 16
guest_copy:
    mov rcx, rdx
    mov rax, rdx
    shr rcx, 3
    and eax, 7
guest_copy_q:
    rep movsq
    mov ecx, eax
guest_copy_b:
    rep movsb
    xor eax, eax
    ret
guest_copy_q_fault:
    lea rax, [rax + rcx * 8]
    ret
guest_copy_b_fault:
    mov rax, rcx
    ret
    EX_TABLE guest_copy_q, guest_copy_q_fault
    EX_TABLE guest_copy_b, guest_copy_b_fault

# fn guest_zero(dst: *mut u8, len: usize) -> usize (bytes left)
    .global guest_zero
guest_zero:
    mov rcx, rsi
    xor eax, eax
guest_zero_b:
    rep stosb
    xor eax, eax
    ret
guest_zero_fault:
    mov rax, rcx
    ret
    EX_TABLE guest_zero_b, guest_zero_fault

# fn load_{ds,es,fs,gs}(selector: u16) -> u64 (0: done; else the null selector was loaded).
# GS is the hypervisor's own, so the guest's selector is loaded between two swapgs.
    .macro LOAD_SEG name
    .global load_\name
load_\name:
    xor eax, eax
load_\name\()_at:
    mov \name, edi
    ret
load_\name\()_fault:
    xor edi, edi
    mov \name, edi
    mov eax, 1
    ret
    EX_TABLE load_\name\()_at, load_\name\()_fault
    .endm
    LOAD_SEG ds
    LOAD_SEG es
    LOAD_SEG fs
    .global load_gs
load_gs:
    xor eax, eax
    swapgs
load_gs_at:
    mov gs, edi
    swapgs
    ret
load_gs_fault:
    xor edi, edi
    mov gs, edi
    swapgs
    mov eax, 1
    ret
    EX_TABLE load_gs_at, load_gs_fault

# fn try_rdmsr(msr: u32, out: *mut u64) -> u64 (0: done)
    .global try_rdmsr
try_rdmsr:
    mov ecx, edi
try_rdmsr_at:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [rsi], rax
    xor eax, eax
    ret
try_msr_fault:
    mov eax, 1
    ret
    EX_TABLE try_rdmsr_at, try_msr_fault
# fn try_wrmsr(msr: u32, value: u64) -> u64 (0: done)
    .global try_wrmsr
try_wrmsr:
    mov ecx, edi
    mov rax, rsi
    mov rdx, rsi
    shr rdx, 32
try_wrmsr_at:
    wrmsr
    xor eax, eax
    ret
    EX_TABLE try_wrmsr_at, try_msr_fault
# fn try_xrstor(area: *const u8, mask: u64) -> u64 (0: done): a guest's saved image may be refused.
    .global try_xrstor
try_xrstor:
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
try_xrstor_at:
    xrstor64 [rdi]
    xor eax, eax
    ret
    EX_TABLE try_xrstor_at, try_msr_fault
# fn try_fxrstor(area: *const u8) -> u64 (0: done)
    .global try_fxrstor
try_fxrstor:
try_fxrstor_at:
    fxrstor64 [rdi]
    xor eax, eax
    ret
    EX_TABLE try_fxrstor_at, try_msr_fault
