//! Tests of the emulator over a model machine.
