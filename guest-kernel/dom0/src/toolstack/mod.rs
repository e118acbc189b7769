//! The toolstack: what `xl` is to its user.

pub mod config;
