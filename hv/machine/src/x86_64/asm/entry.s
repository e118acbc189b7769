# Into a guest and back: `enter_by_sysret` and `enter_by_iret` are functions that return why it came back.
#
# A guest's registers live in its own memory block (`Regs` in vcpu.rs, the layout of Xen's
# cpu_user_regs). TSS.rsp0 points at that block's end while the guest runs, so a trap from ring 3
# stores its frame there by itself; the stubs push the rest, go back to the run loop's stack, and
# return the vector. The hypervisor runs with interrupts off, so a trap from ring 0 is one of:
#  - an interrupt taken in `idle_wait`: noted in the per-CPU block, handled by the run loop;
#  - a fault at an address listed in .ex_table (guest memory access, segment loads): continued at its
#    fixup;
#  - a fault of the iretq into a guest: its frame lies in the guest's block, where there is no room for
#    Rust's, so it is told apart here;
#  - a bug: `host_trap` reports it and stops the machine.
#
# GS: in the hypervisor it is the per-CPU block (offsets below, asserted in percpu.rs).

    .set PC_HOST_RSP, 8
    .set PC_REGS_END, 16
    .set PC_SCRATCH,  24
    .set PC_TSS_RSP0, 36                    # tss at 32, rsp0 four bytes into it

    .set R_RCX, -32                         # from &error_code to a saved register
    .set R_R11, -72

    .set VEC_SYSCALL, 0x100
    .set VEC_SYSENTER, 0x101
    .set VEC_SYSCALL32, 0x102
    .set VEC_BAD_IRET, 0x103
    .set VEC_NO_STACK, 0x104
    .set HYPERCALL_IRET, 23                 # xen.h __HYPERVISOR_iret

    .set MODE_KERNEL, 48                    # from the end of the registers (`Mode` in vcpu.rs)

    .macro PUSH_GPRS
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm
    .macro POP_GPRS
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    .endm
    .macro LEAVE_GUEST
    mov rsp, gs:[PC_HOST_RSP]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .endm
    .macro EX_TABLE at, to
    .pushsection .ex_table, "a"
    .quad \at, \to
    .popsection
    .endm

    .text
# fn set_guest_frame(end: *mut u8): where the next guest's traps store their frame
    .global set_guest_frame
set_guest_frame:
    mov gs:[PC_REGS_END], rdi
    mov gs:[PC_TSS_RSP0], rdi
    ret

    .macro ENTER_GUEST
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov gs:[PC_HOST_RSP], rsp
    mov rsp, rdi
    POP_GPRS
    .endm

# fn enter_by_sysret(regs: *mut Regs) -> u64: rcx is rip, r11 is rflags. An rip that isn't canonical would
# fault in ring 0.
    .global enter_by_sysret
    .balign 64
enter_by_sysret:
    ENTER_GUEST
    mov rcx, [rsp + 8]
    mov r11, rcx
    shl r11, 16
    sar r11, 16
    cmp r11, rcx
    jne 1f
    mov r11, [rsp + 24]
    mov rsp, [rsp + 32]
    swapgs
    sysretq
1:  mov rcx, [rsp + R_RCX]
    mov r11, [rsp + R_R11]
    jmp 2f

# fn enter_by_iret(regs: *mut Regs) -> u64
    .global enter_by_iret
    .balign 64
enter_by_iret:
    ENTER_GUEST
2:  add rsp, 8
    swapgs
guest_iret:
    iretq

# The guest's iret frame was refused (its cs, ss or rip). GS is the guest's here and the frame
# still stands above; only the slots below rip were overwritten by the fault's own frame, whose
# last word, at the next 16-byte border, is its error code and vector.
bad_iret:
    swapgs
    mov gs:[PC_SCRATCH], rax
    mov rax, gs:[PC_REGS_END]
    lea rsp, [rax - 40]
    push [rax - 96]
    mov rax, gs:[PC_SCRATCH]
    PUSH_GPRS
    mov eax, VEC_BAD_IRET
    LEAVE_GUEST

    .global syscall_entry
    .balign 64
syscall_entry:
    swapgs
    mov gs:[PC_SCRATCH], rsp
    mov rsp, gs:[PC_REGS_END]
    cmp byte ptr [rsp + MODE_KERNEL], 0
    je syscall_of_user                      # asm/syscall.s, which may come back
    cmp rax, HYPERCALL_IRET
    je iret_of_kernel                       # likewise
syscall_to_run_loop:
    push 0xe02b
    push gs:[PC_SCRATCH]
    push r11
    push 0xe033
    push rcx
    push [rip + syscall_vector]
    PUSH_GPRS
    mov eax, VEC_SYSCALL
    LEAVE_GUEST
    .pushsection .rodata
    .balign 8
syscall_vector:
    .long 0, VEC_SYSCALL                    # error code and vector
    .popsection

# syscall from 32-bit code of a guest's user (AMD)
    .global syscall32_entry
    .balign 16
syscall32_entry:
    swapgs
    mov gs:[PC_SCRATCH], rsp
    mov rsp, gs:[PC_REGS_END]
    push 0xe02b
    push gs:[PC_SCRATCH]
    push r11
    push 0xe023
    push rcx
    push 0
    mov dword ptr [rsp + 4], VEC_SYSCALL32
    PUSH_GPRS
    mov eax, VEC_SYSCALL32
    LEAVE_GUEST

# sysenter loads rsp from SYSENTER_ESP (any valid stack) and says neither where it came from nor
# with which flags; a guest learns only that it happened.
    .global sysenter_entry
    .balign 16
sysenter_entry:
    swapgs
    mov rsp, gs:[PC_REGS_END]
    push 0xe02b
    push 0
    pushfq
    or qword ptr [rsp], 0x200
    push 3                                  # a null selector of ring 3
    push 0
    push 0
    mov dword ptr [rsp + 4], VEC_SYSENTER
    PUSH_GPRS
    push 2                                  # sysenter keeps DF, NT, AC and TF of the guest
    popfq
    mov eax, VEC_SYSENTER
    LEAVE_GUEST

    .balign 16
trap_common:
    test byte ptr [rsp + 16], 3             # cs, above error_code and rip
    jz host_common
    swapgs
    lfence                                  # or the jump gone past uses a guest's GS
    PUSH_GPRS
    mov eax, [rsp + 124]
    push 2                                  # gates keep DF, AC and NT of the guest
    popfq
    LEAVE_GUEST

host_common:
    push rax
    lea rax, [rip + guest_iret]
    cmp rax, [rsp + 16]                     # rip, above rax, error_code and vector
    pop rax
    je bad_iret
    PUSH_GPRS
    mov rdi, rsp
    cld
    call host_trap
    POP_GPRS
    add rsp, 8
    iretq

# #DB may come at the first instruction of `syscall_entry`, when rsp is still the guest's: a guest puts
# `mov ss` on a watched address before its `syscall` (CVE-2018-8897). So it has a stack of its own, and a frame
# that came from ring 3 is moved to the guest's block.
    .balign 16
debug_common:
    test byte ptr [rsp + 16], 3
    jz ist_common
    swapgs
    lfence
    mov gs:[PC_SCRATCH], rax
    mov rax, rsp
    mov rsp, gs:[PC_REGS_END]
    push [rax + 40]
    push [rax + 32]
    push [rax + 24]
    push [rax + 16]
    push [rax + 8]
    push [rax]
    mov rax, gs:[PC_SCRATCH]
    PUSH_GPRS
    mov eax, 1
    push 2
    popfq
    LEAVE_GUEST

# NMI, #DF and #MC have stacks of their own, and may come at any instruction, between a swapgs and
# an iretq too: they find the per-CPU block in the stack's first word, not in GS.
    .balign 16
ist_common:
    PUSH_GPRS
    cld
    push 2
    popfq
    mov ecx, 0xc0000101                     # GS_BASE
    rdmsr
    mov ebx, eax
    mov r12d, edx
    mov rdx, rsp
    or rdx, 4095
    mov rax, [rdx - 7]                      # the stack's last word: this CPU's block
    mov rdx, rax
    shr rdx, 32
    wrmsr
    mov rdi, rsp
    call host_ist_trap
    mov ecx, 0xc0000101
    mov eax, ebx
    mov edx, r12d
    wrmsr
    POP_GPRS
    add rsp, 8
    iretq

    .macro STUB n
    .balign 16
stub_\n:
    .if (\n == 8) || (\n == 10) || (\n == 11) || (\n == 12) || (\n == 13) || (\n == 14) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    push 0
    .endif
    mov dword ptr [rsp + 4], \n
    .if (\n == 2) || (\n == 8) || (\n == 18)
    jmp ist_common
    .elseif \n == 1
    jmp debug_common
    .else
    jmp trap_common
    .endif
    .pushsection .rodata.stubs, "a"
    .quad stub_\n
    .popsection
    .endm

    .section .rodata.stubs, "a"
    .balign 8
    .global trap_stubs
trap_stubs:
    .text
    .altmacro
    .set n, 0
    .rept 256
    STUB %n
    .set n, n + 1
    .endr
    .noaltmacro

# fn idle_wait(): interrupts on, wait for one, interrupts off. The interrupt itself is noted by
# host_trap; `sti` takes effect after `hlt` begins, so none is missed.
    .global idle_wait
idle_wait:
    sti
    hlt
    cli
    ret
# fn idle_poll(): let pending interrupts in without waiting.
    .global idle_poll
idle_poll:
    sti
    nop
    nop
    cli
    ret
