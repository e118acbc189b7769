# How the machine reaches Rust: three boot protocols, one 32-bit entry, one set of early page tables.
#
# Every protocol arrives in 32-bit protected mode without paging. `.boot` is linked at its physical
# address, so absolute addresses are usable here; the rest of the image is reached only after
# paging maps it high. The early tables map the first 4 GiB three times with 2 MiB pages: at 0 (we
# run here), at the direct map (Rust reads boot information there) and, the first GiB, at the image's
# link address. Their frames are part of .boot and are used again by each AP on its way up.

    .set VIRT,       0xffff82d040000000
    .set MB1_MAGIC,  0x1badb002
    .set MB1_FLAGS,  0x00010003            # page-aligned modules, memory map, address fields
    .set MB2_MAGIC,  0xe85250d6

    .section .boot.header, "awx"
    .balign 8
mb1_header:
    .long MB1_MAGIC
    .long MB1_FLAGS
    .long -(MB1_MAGIC + MB1_FLAGS)
    .long mb1_header                        # header_addr
    .long image_phys_start                  # load_addr
    .long image_load_end                    # load_end_addr
    .long image_phys_end                    # bss_end_addr
    .long boot_start                        # entry_addr

    .balign 8
mb2_header:
    .long MB2_MAGIC
    .long 0                                 # i386, 32-bit protected mode
    .long mb2_header_end - mb2_header
    .long 0x100000000 - (MB2_MAGIC + (mb2_header_end - mb2_header))
    # information request: command line, modules, memory map, both ACPI RSDPs
    .balign 8
    .short 1, 0
    .long 8 + 5 * 4
    .long 1, 3, 6, 14, 15
    # what not every machine has: a screen, EFI
    .balign 8
    .short 1, 1
    .long 8 + 2 * 4
    .long 8, 12
    # any screen will do, text too
    .balign 8
    .short 4, 1
    .long 12
    .long 2
    .balign 8
    .short 5, 1
    .long 20
    .long 0, 0, 0
    # entry address
    .balign 8
    .short 3, 0
    .long 12
    .long boot_start
    # modules on page boundaries
    .balign 8
    .short 6, 0
    .long 8
    .balign 8
    .short 0, 0
    .long 8
mb2_header_end:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                          # name size, desc size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .boot.text, "awx"
    .code32
    .global pvh_start
pvh_start:
    mov eax, 0x50564830                     # ours: "this was PVH"; ebx holds hvm_start_info
    .global boot_start
boot_start:
    cli
    cld
    mov esp, offset boot_stack_top
    push ebx                                # information structure
    push eax                                # protocol magic

    # Early tables: entries that a linker can't compute are filled in here.
    mov edi, offset boot_l3_low
    mov eax, offset boot_l2 + 3
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    mov edi, offset boot_l2
    mov eax, 0x83                           # present, writable, 2 MiB
    mov ecx, 2048
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 3b
    mov eax, offset boot_l2 + 3
    mov [boot_l3_image + 321 * 8], eax
    mov eax, offset boot_l3_low + 3
    mov [boot_l4], eax
    mov [boot_l4 + 262 * 8], eax            # direct map
    mov eax, offset boot_l3_image + 3
    mov [boot_l4 + 261 * 8], eax

    pop esi                                 # magic
    pop ebp                                 # info
    mov edi, offset high_start_ptr
    jmp enter_long_mode

# Paging and long mode, then jump to the address in [edi]; keeps esi and ebp. BSP and APs share it.
    .global enter_long_mode
enter_long_mode:
    mov eax, offset boot_l4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                            # PAE
    mov cr4, eax
    mov ecx, 0xc0000080                     # EFER
    rdmsr
    or eax, 0x900                           # LME, NXE
    wrmsr
    mov eax, 0x80050033                     # PG, AM, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_ptr]
    .byte 0xea                              # ljmp 0x08:1f
    .long 1f
    .short 8
    .code64
1:  xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi
    mov rax, [rdi]
    jmp rax

    .section .boot.data, "aw"
    .balign 8
    .global high_start_ptr
high_start_ptr: .quad high_start
    .global ap_start_ptr
ap_start_ptr:   .quad ap_high_start
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff                # 64-bit code
    .quad 0x00cf92000000ffff                # data
    .quad 0x00cf9a000000ffff                # 32-bit code
boot_gdt_ptr:
    .short 4 * 8 - 1
    .long boot_gdt
    .balign 4096
    .global boot_l4
boot_l4:        .fill 4096, 1, 0
boot_l3_low:    .fill 4096, 1, 0
boot_l3_image:  .fill 4096, 1, 0
boot_l2:        .fill 4 * 4096, 1, 0
boot_stack:     .fill 256, 1, 0
boot_stack_top:

    .section .text.high_start, "ax"
    .code64
high_start:
    lea rsp, [rip + bsp_stack_top]
    mov edi, esi                            # magic
    mov esi, ebp                            # info
    xor ebp, ebp
    call hv_start
    ud2

    .section .bss.bsp_stack, "aw", @nobits
    .balign 4096
    .fill BSP_STACK, 1, 0
bsp_stack_top:

# The AP trampoline, copied to a page below 1 MiB. Real mode; cs = page >> 4.
    .section .rodata.ap, "a"
    .balign 16
    .code16
    .global ap_trampoline
ap_trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
    lgdtd [32]                              # ap_gdt_ptr, from the page's start
    mov eax, 0x11                           # PE, ET
    mov cr0, eax
    .byte 0x66, 0xea                        # ljmpl 0x18:ap_protected (below .boot, absolute)
    .long ap_protected
    .short 0x18
    .org ap_trampoline + 32
ap_gdt_ptr:
    .short 4 * 8 - 1
    .long boot_gdt
    .global ap_trampoline_end
ap_trampoline_end:

    .section .boot.text, "awx"
    .code32
ap_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, offset ap_start_ptr
    jmp enter_long_mode

# Each AP takes the final tables and its own stack, which only they map, from what the BSP set before the
# start-up IPI.
    .section .text.ap_start, "ax"
    .code64
ap_high_start:
    mov rax, [rip + ap_root]
    mov cr3, rax
    mov rsp, [rip + ap_stack]
    xor ebp, ebp
    call hv_ap_start
    ud2

    .section .data.ap, "aw"
    .balign 8
    .global ap_stack
ap_stack: .quad 0
    .global ap_root
ap_root:  .quad 0
    .text
    .code64
