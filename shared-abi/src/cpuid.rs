//! Restates `arch-x86/cpuid.h`: the leaves in which Xen shows itself.
//!
//! Leaf 0 (from the first): number of leaves and signature. 1: version. 2: hypercall pages and their
//! MSR. 3: time. 4: what translated guests get. 5: what PV guests get.

abi_constants! {
    "Where the leaves start. Another hypervisor's may be there, and Xen's a multiple of 0x100 later.": u32 {
        XEN_CPUID_FIRST_LEAF = 0x4000_0000,
    }
    "The signature, \"XenVMMXenVMM\".": u32 {
        XEN_CPUID_SIGNATURE_EBX = 0x566e_6558,
        XEN_CPUID_SIGNATURE_ECX = 0x6558_4d4d,
        XEN_CPUID_SIGNATURE_EDX = 0x4d4d_566e,
    }
    "Leaf 2, ecx.": u32 {
        XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1 << 0,
    }
    "Leaf 4, eax.": u32 {
        XEN_HVM_CPUID_APIC_ACCESS_VIRT = 1 << 0,
        XEN_HVM_CPUID_X2APIC_VIRT = 1 << 1,
        XEN_HVM_CPUID_IOMMU_MAPPINGS = 1 << 2,
        XEN_HVM_CPUID_VCPU_ID_PRESENT = 1 << 3,
        XEN_HVM_CPUID_DOMID_PRESENT = 1 << 4,
        XEN_HVM_CPUID_EXT_DEST_ID = 1 << 5,
        XEN_HVM_CPUID_UPCALL_VECTOR = 1 << 6,
    }
    "Leaf 5, ebx: bits of a machine address.": u32 {
        XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xff,
    }
    "The highest leaf, counted from the first.": u32 {
        XEN_CPUID_MAX_NUM_LEAVES = 5,
    }
}

/// `XEN_CPUID_LEAF`: the leaf `index` of Xen's, at its usual place.
pub const fn leaf(index: u32) -> u32 {
    XEN_CPUID_FIRST_LEAF + index
}
