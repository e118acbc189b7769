//! How long a hypervisor takes to boot: from where the loader hands over to its dom0's first line.
//!
//! Both tell the processor's time-stamp counter, which counts instructions since power-on here. Oxen logs
//! what it was when it was entered; for Xen its first line stands, which comes soon after.

use anyhow::{Context, Result};

use super::Figure;

/// Makes Oxen tell the counter, and Xen do so in each line.
pub const ARGUMENTS: &str = " loglvl=all console_timestamps=raw";

/// The figure in a console's text, of which `power_on` is the guest bench's count at its first line.
///
/// # Errors
/// The hypervisor's first line is not there or tells no time.
pub fn figure(said: &str, power_on: &Figure) -> Result<Figure> {
    let entry = said.lines().find_map(entered).context("the hypervisor does not tell when it began")?;
    let value = power_on.value.checked_sub(entry).context("dom0 spoke before the hypervisor")?;
    let name = "hypervisor's entry to dom0's first line".into();
    Ok(Figure { name, value, ..power_on.clone() })
}

/// The counter in `(oxen) [    0.027904] entered at TSC 8123456` or `(XEN) [0000000001aa2b3c] Xen version …`.
fn entered(line: &str) -> Option<u64> {
    if let Some((_, rest)) = line.split_once("(oxen) [") {
        return rest.split_once("] entered at TSC ")?.1.parse().ok();
    }
    let (time, text) = line.strip_prefix("(XEN) [")?.split_once("] ")?;
    text.starts_with("Xen version").then(|| u64::from_str_radix(time, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_hypervisors_first_line_tells_when() {
        let dom0 = Figure { name: "power-on".into(), unit: "ns", value: 40_000_000 };
        let oxen =
            "Booting from ROM..(oxen) [    0.027904] Oxen 0.1.0\n(oxen) [    0.9] entered at TSC 8000000\n";
        let figure = figure(oxen, &dom0).unwrap();
        assert_eq!((figure.value, figure.unit), (32_000_000, "ns"));
        let xen = "(XEN) [0000000001aa2b3c] Xen version 4.17.7\n(XEN) [0000000001aa2b3d] Bootloader\n";
        assert_eq!(super::figure(xen, &dom0).unwrap().value, 40_000_000 - 0x1aa_2b3c);
        assert!(super::figure("(XEN) Xen version 4.17.7\n", &dom0).is_err());
        assert!(super::figure("(oxen) [    0.9] entered at TSC 50000000\n", &dom0).is_err());
    }
}
