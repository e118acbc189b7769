//! Tests over tables assembled here and over those of QEMU's machines.

mod broken;
mod build;
mod qemu;
