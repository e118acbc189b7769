//! The toolstack: what `xl` is to its user.

pub mod archive;
pub mod build;
pub mod config;
pub mod deaths;
pub mod devices;
pub mod entries;
#[cfg(test)]
mod fake;
pub mod hypervisor;
pub mod manager;
pub mod shell;
#[cfg(test)]
mod tests;
mod unpack;
pub mod xen;
