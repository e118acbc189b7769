//! What the guest `tests/guests/bench` prints: `row NAME: COUNT` of instructions, a line each, and
//! `time NAME: COUNT` of virtual nanoseconds for what waits too.

use anyhow::{Context, Result, bail};

use super::Figure;

/// The guest's figures, in its order.
///
/// # Errors
/// The guest says that it failed, a line is not as it should be, or there is none.
pub fn figures(said: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for line in said.lines() {
        if line.starts_with("bench failed") {
            bail!("{line}");
        }
        let row = line.strip_prefix("row ").map(|row| (row, "instructions"));
        let time = || Some((line.strip_prefix("time ")?, "virtual nanoseconds, waits included"));
        let Some((row, unit)) = row.or_else(time) else { continue };
        let (name, count) = row.rsplit_once(": ").with_context(|| format!("not a row: {line}"))?;
        let value = count.parse().with_context(|| format!("not a row: {line}"))?;
        figures.push(Figure { name: name.into(), unit, value });
    }
    if figures.is_empty() {
        bail!("the guest bench printed no row");
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_among_other_lines() {
        let said = "(XEN) row of dots\ntime to start: 9\nrow null hypercall: 217\nrow mmu_update, each of 64: 80\nbench end\n";
        let figures = figures(said).unwrap();
        let found: Vec<_> = figures.iter().map(|f| (f.name.as_str(), f.value)).collect();
        assert_eq!(found, [("to start", 9), ("null hypercall", 217), ("mmu_update, each of 64", 80)]);
        assert_ne!(figures[0].unit, figures[1].unit);
    }

    #[test]
    fn what_failed_is_told() {
        let refused = "row a: 1\nrow b: error -22\nbench failed: a call was refused\n";
        assert!(figures(refused).unwrap_err().to_string().contains("row b"));
        let failed = "row a: 1\nbench failed: no memory\n";
        assert_eq!(figures(failed).unwrap_err().to_string(), "bench failed: no memory");
        assert!(figures("bench end\n").is_err());
    }
}
