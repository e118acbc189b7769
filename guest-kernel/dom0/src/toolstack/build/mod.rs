//! The domain builder: from a kernel image to a domain that runs.
//!
//! [`image`] reads kernels, [`layout`] plans a domain's memory, and its page tables, as data. Neither knows of
//! hypercalls; both are fed by files that an administrator may have got from anywhere.

pub mod builder;
pub mod image;
pub mod layout;

pub use builder::{Built, build};
