//! Restates `io/protocols.h`: the `protocol` node's value, which says how a ring's structures are laid out.

/// Laid out as by a 32-bit x86 compiler.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// Laid out as by a 64-bit x86 compiler.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
/// Laid out as by an Arm compiler.
pub const XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
/// This crate's own.
pub const XEN_IO_PROTO_ABI_NATIVE: &str = XEN_IO_PROTO_ABI_X86_64;
