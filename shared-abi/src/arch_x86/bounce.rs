//! What the hypervisor pushes on a 64-bit PV kernel's stack when it enters the kernel.
//!
//! No public header has these as structures; they are the ABI all the same, and Linux's and Mini-OS's
//! entry code rely on them. The lowest address comes first. `rcx` and `r11` are there because `syscall`
//! and `sysret` use them; a kernel takes them off and is left with the processor's own frame, which it
//! returns through with the `iret` hypercall ([`super::IretContext`]).
//!
//! In every `cs`: bits 0 to 15 are the selector, with ring 0 if the *kernel* was interrupted and ring 3
//! if a program was (both run in ring 3); bits 32 to 39 are the event mask as it was before.

/// An event, a system call, an NMI, or a trap without error code.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[allow(missing_docs, reason = "registers")]
pub struct BounceFrame {
    pub rcx: u64,
    pub r11: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// A trap with error code.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[allow(missing_docs, reason = "registers")]
pub struct BounceFrameError {
    pub rcx: u64,
    pub r11: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The failsafe callback: a return to the guest failed, on a bad selector or a bad frame.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[allow(missing_docs, reason = "registers")]
pub struct FailsafeFrame {
    pub rcx: u64,
    pub r11: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(
    size_of::<BounceFrame>() == 56 && size_of::<BounceFrameError>() == 64 && size_of::<FailsafeFrame>() == 88
);

/// Puts the event mask as it was before into a frame's `cs`.
pub const CS_UPCALL_MASK_SHIFT: u32 = 32;
