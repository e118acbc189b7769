//! `xl.cfg`: from text to a checked domain description.
//!
//! [`syntax`] knows the file's form and where each value stands; [`keys`] knows the keys' names and [`domain`] their
//! meaning. An error says line, column and what was expected there. Unlike `xl`, which skips a key it does not know, a
//! misspelt key is an error here; what has no effect, old files' unknown keys too, is warned about.

pub mod disk;
pub mod domain;
pub mod keys;
pub mod syntax;
pub mod vif;

pub use disk::Disk;
pub use domain::{Action, DomainConfig};
pub use syntax::{At, ConfigError};
pub use vif::Vif;
