//! Tests of the emulator over a model machine.

mod cpuid;
mod decode;
mod io;
mod model;
mod msr;
mod pagetable;
mod privop;
mod robust;
