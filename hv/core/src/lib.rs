//! The hypervisor's decisions.
//!
//! The parts that decide without a machine (`emul`, `event`, `sched`, `time`, `grant`, `ranges` and a few more) are
//! compiled and tested on the host; the rest wires them to the CPU and is compiled for the target alone.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod console_switch;
pub mod dom0_layout;
pub mod dom0_size;
pub mod emul;
pub mod event;
pub mod grant;
pub mod log_levels;
pub mod ranges;
pub mod sched;
pub mod screen;
pub mod time;
pub mod topology;

#[cfg(target_os = "none")]
pub mod access;
#[cfg(target_os = "none")]
pub mod acpi_setup;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod domain;
#[cfg(target_os = "none")]
pub mod efi;
#[cfg(target_os = "none")]
pub mod error;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod keys;
#[cfg(target_os = "none")]
pub mod mm;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(target_os = "none")]
pub mod time_of_day;
#[cfg(target_os = "none")]
pub mod trap;
