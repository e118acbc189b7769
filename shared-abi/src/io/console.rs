//! Restates `io/console.h`: the console's two byte rings in one page. `in` flows to the guest.
//!
//! Index arithmetic: [`super::ring::bytes`] with the sizes below.

abi_structs! {
    /// The console page.
    pub struct XenconsInterface("struct xencons_interface", 3088) {
        r#in: [u8; IN_SIZE],
        out: [u8; OUT_SIZE],
        in_cons: u32,
        in_prod: u32,
        out_cons: u32,
        out_prod: u32,
    }
}

/// Bytes of the ring towards the guest.
pub const IN_SIZE: usize = 1024;
/// Bytes of the ring from the guest.
pub const OUT_SIZE: usize = 2048;
