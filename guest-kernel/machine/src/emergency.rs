//! The console of last resort: text out by hypercall, without heap, locks or tasks.

use crate::hypercall::console_write;
use core::fmt;

/// Writes to the hypervisor's console; what it refuses is lost.
pub struct Emergency;

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let _ = console_write(text.as_bytes());
        Ok(())
    }
}

/// Prints a formatted line at once.
pub fn print(args: fmt::Arguments) {
    let _ = fmt::Write::write_fmt(&mut Emergency, args);
}
