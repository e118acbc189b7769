//! The toolstack: what `xl` is to its user.

pub mod build;
pub mod config;
