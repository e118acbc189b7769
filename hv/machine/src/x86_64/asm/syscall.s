# A system call of a guest's user, straight into the guest's kernel, and the kernel's `iret` back.
#
# They are the commonest ways into the hypervisor, and what they ask for is always the same: the other mode's page
# tables and GS base, and a frame on the kernel's stack written or read. So nothing is saved and the run loop stays
# where it is; `bounce::callback` and `hypercall::iret` in the core are what this must agree with, and what does it
# whenever this can't: while the run loop has something to look at, an upcall is pending, or the vcpu has no `entry`
# here (`set_syscall_entry`).
#
# What may be relied on, and who sees to it:
#  - `entry` is canonical (sysret would fault in ring 0) and `frame` with its 56 bytes outside the hypervisor's
#    range: set_syscall_entry. Whatever else they are is the guest's affair: the code runs and the frame is
#    written as the guest itself could.
#  - `cr3` and `user_cr3` are those of root tables that the vcpu holds: replace_kernel_root and replace_user_root, the
#    only ones to change either.
#  - `pending` and `mask` are bytes of a frame that the vcpu's info slot holds.
# A GS base that isn't canonical faults before anything was changed, and the run loop copes.
# Whatever faults does so on the run loop's stack, below what it keeps there.

    .set MODE_ENTRY, 0
    .set MODE_FRAME, 8
    .set MODE_CR3, 16
    .set MODE_GS, 24
    .set MODE_PENDING, 32
    .set MODE_MASK, 40
    .set MODE_RAX, 56
    .set MODE_RDX, 64
    .set MODE_R8, 72
    .set MODE_RBX, 80
    .set MODE_RCX, 88
    .set MODE_R11, 96
    .set MODE_USER_CR3, 104
    .set PC_CPU, 136
    .set PC_LOOK, 192
    .set TLB_CLOCK_CPUS, 4

    .set FLAG_IF, 0x200
    .set FLAGS_IOPL, 0x3000
    .set FLAGS_GUEST, 0x00254dd5            # RFLAGS_GUEST in vcpu.rs
    .set FLAGS_CLEARED, 0x00074500          # CLEARED and DF in bounce.rs: TF, RF, NT, VM, AC, DF

    .macro SMAP_SITE at
    .pushsection .smap_sites, "a"
    .quad \at
    .popsection
    .endm

    .text
    .balign 16
syscall_of_user:
    cmp qword ptr [rsp + MODE_ENTRY], 0
    je syscall_to_run_loop
    cmp dword ptr gs:[PC_LOOK], 0
    jne syscall_to_run_loop
    mov [rsp + MODE_RAX], rax
    mov rax, [rsp + MODE_PENDING]
    cmp byte ptr [rax], 0
    jne 8f
    mov [rsp + MODE_RDX], rdx
    mov [rsp + MODE_RBX], rbx
    mov rbx, rsp
    mov rsp, gs:[PC_HOST_RSP]
    # the other GS base
    mov rdx, [rbx + MODE_GS]
    swapgs
    rdgsbase rax
syscall_gs:
    wrgsbase rdx
    EX_TABLE syscall_gs, 7f
    swapgs
    mov [rbx + MODE_GS], rax
    mov byte ptr [rbx + MODE_KERNEL], 1
    # the kernel's page tables, between a begin and an end of the TLB clock (frame/clock.rs)
    mov eax, 1
    lock xadd [rip + tlb_clock], eax
    mov rdx, [rbx + MODE_CR3]
    mov cr3, rdx
    inc eax
    mov [rbx + MODE_R8], r8
    mov edx, gs:[PC_CPU]
    lea r8, [rip + tlb_clock + TLB_CLOCK_CPUS]
    xchg [r8 + rdx * 4], eax
    # rflags and cs of the frame tell whether events were masked, which they are from now on
    mov rdx, [rbx + MODE_MASK]
    mov eax, 1
    xchg [rdx], al
    mov rdx, r11
    and rdx, ~(FLAG_IF | FLAGS_IOPL)
    test al, al
    mov eax, 0xe033
    jne 6f
    or rdx, FLAG_IF
2:  mov r8, [rbx + MODE_FRAME]
syscall_open:
    stac
    SMAP_SITE syscall_open
syscall_f0:
    mov [r8], rcx
syscall_f1:
    mov [r8 + 8], r11
syscall_f2:
    mov [r8 + 16], rcx
syscall_f3:
    mov [r8 + 24], rax
syscall_f4:
    mov [r8 + 32], rdx
    mov rax, gs:[PC_SCRATCH]
syscall_f5:
    mov [r8 + 40], rax
syscall_f6:
    mov qword ptr [r8 + 48], 0xe02b
    EX_TABLE syscall_f0, 9f
    EX_TABLE syscall_f1, 9f
    EX_TABLE syscall_f2, 9f
    EX_TABLE syscall_f3, 9f
    EX_TABLE syscall_f4, 9f
    EX_TABLE syscall_f5, 9f
    EX_TABLE syscall_f6, 9f
syscall_close:
    clac
    SMAP_SITE syscall_close
    mov rax, [rbx + MODE_RAX]
    mov rdx, [rbx + MODE_RDX]
    mov r8, [rbx + MODE_R8]
    and r11d, FLAGS_GUEST & ~FLAGS_CLEARED
    or r11d, 0x202
    mov rcx, [rbx + MODE_ENTRY]
    mov rsp, [rbx + MODE_FRAME]
    mov rbx, [rbx + MODE_RBX]
    swapgs
    sysretq

6:  movabs rax, 0x10000e033                 # they were masked
    jmp 2b
7:  swapgs
    mov rsp, rbx
    mov rdx, [rsp + MODE_RDX]
    mov rbx, [rsp + MODE_RBX]
8:  mov rax, [rsp + MODE_RAX]
    jmp syscall_to_run_loop

# No frame can be written: the end of this domain, which the run loop sees to.
9:
syscall_shut:
    clac
    SMAP_SITE syscall_shut
    mov rsp, rbx
    mov rbx, [rsp + MODE_RBX]
    mov rax, [rsp + MODE_RAX]
    mov rdx, [rsp + MODE_RDX]
    mov r8, [rsp + MODE_R8]
    push 0xe02b
    push gs:[PC_SCRATCH]
    push r11
    push 0xe033
    push rcx
    push 0
    mov dword ptr [rsp + 4], VEC_NO_STACK
    PUSH_GPRS
    mov eax, VEC_NO_STACK
    LEAVE_GUEST

# `iret` to user mode: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss on the kernel's stack (xen-x86_64.h
# `iret_context`), each read once. What the processor's own iret loads is put where traps leave it.
    .balign 16
iret_of_kernel:
    cmp qword ptr [rsp + MODE_ENTRY], 0
    je syscall_to_run_loop
    cmp qword ptr [rsp + MODE_USER_CR3], 0
    je syscall_to_run_loop
    cmp dword ptr gs:[PC_LOOK], 0
    jne syscall_to_run_loop
    mov [rsp + MODE_RCX], rcx
    mov [rsp + MODE_R11], r11
    mov [rsp + MODE_RDX], rdx
    mov [rsp + MODE_RBX], rbx
    mov rbx, rsp
    mov rsp, gs:[PC_HOST_RSP]
    mov rax, gs:[PC_SCRATCH]
    # the frame begins outside the hypervisor's range (`begins_ok` in guest_mem.rs)
    movabs rcx, 0x780000000000
    movabs rdx, 0xf80000000000
    add rcx, rax
    cmp rcx, rdx
    jae 7f
iret_open:
    stac
    SMAP_SITE iret_open
iret_f0:
    mov ecx, [rax + 40]                     # cs
    mov edx, ecx
    not edx
    test dl, 3
    jne 8f                                  # to kernel mode
    movzx ecx, cx
    mov [rbx - 32], rcx
iret_f1:
    movzx ecx, word ptr [rax + 64]          # ss
    or ecx, 3
    mov [rbx - 8], rcx
iret_f2:
    mov rcx, [rax + 56]                     # rsp
    mov [rbx - 16], rcx
iret_f3:
    mov edx, [rax + 48]                     # rflags
    mov r11d, edx
    and r11d, FLAGS_GUEST
    or r11d, 0x202
    mov [rbx - 24], r11
iret_f4:
    mov rcx, [rax + 32]                     # rip
    mov [rbx - 40], rcx
iret_f5:
    test byte ptr [rax + 25], 1             # VGCF_IN_SYSCALL: rcx and r11 are as after sysret
    jne 2f
iret_f6:
    mov rcx, [rax + 16]
iret_f7:
    mov r11, [rax + 8]
2:  mov [rbx + MODE_RAX], rcx
    mov [rbx + MODE_R8], r11
iret_f8:
    mov rax, [rax]
    EX_TABLE iret_f0, 8f
    EX_TABLE iret_f1, 8f
    EX_TABLE iret_f2, 8f
    EX_TABLE iret_f3, 8f
    EX_TABLE iret_f4, 8f
    EX_TABLE iret_f5, 8f
    EX_TABLE iret_f6, 8f
    EX_TABLE iret_f7, 8f
    EX_TABLE iret_f8, 8f
iret_close:
    clac
    SMAP_SITE iret_close
    # an upcall that waits for events to be unmasked is the run loop's
    mov rcx, [rbx + MODE_PENDING]
    test edx, FLAG_IF
    setz dl
    jz 3f
    cmp byte ptr [rcx], 0
    jne 7f
3:  mov rcx, [rbx + MODE_GS]
    swapgs
    rdgsbase r11
iret_gs:
    wrgsbase rcx
    EX_TABLE iret_gs, 6f
    swapgs
    mov [rbx + MODE_GS], r11
    mov byte ptr [rbx + MODE_KERNEL], 0
    mov rcx, [rbx + MODE_MASK]
    xchg [rcx], dl
    mov ecx, 1
    lock xadd [rip + tlb_clock], ecx
    mov rdx, [rbx + MODE_USER_CR3]
    mov cr3, rdx
    inc ecx
    mov edx, gs:[PC_CPU]
    lea r11, [rip + tlb_clock + TLB_CLOCK_CPUS]
    xchg [r11 + rdx * 4], ecx
    mov rcx, [rbx + MODE_RAX]
    mov r11, [rbx + MODE_R8]
    mov rdx, [rbx + MODE_RDX]
    lea rsp, [rbx - 40]
    mov rbx, [rbx + MODE_RBX]
    swapgs
    jmp guest_iret

6:  swapgs
    jmp 7f
8:
iret_shut:
    clac
    SMAP_SITE iret_shut
7:  mov rsp, rbx
    mov rcx, [rsp + MODE_RCX]
    mov r11, [rsp + MODE_R11]
    mov rdx, [rsp + MODE_RDX]
    mov rbx, [rsp + MODE_RBX]
    mov eax, HYPERCALL_IRET
    jmp syscall_to_run_loop
