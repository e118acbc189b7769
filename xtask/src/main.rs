//! Builds, runs, tests and measures Oxen.
fn main() {}
