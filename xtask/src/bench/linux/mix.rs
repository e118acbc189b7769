//! What the plugin `tests/bench-linux/insnmix.c` writes.

use anyhow::{Context, Result};

/// Counts between two moments: as they are, or per operation.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Counts<T> {
    /// Instructions, everybody's.
    pub all: T,
    /// Those inside the hypervisor.
    pub hypervisor: T,
    /// Loads of CR3.
    pub cr3: T,
    /// Invalidations of a page's translation.
    pub invlpg: T,
}

impl Counts<u64> {
    /// What came after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Counts {
            all: self.all - earlier.all,
            hypervisor: self.hypervisor - earlier.hypervisor,
            cr3: self.cr3 - earlier.cr3,
            invlpg: self.invlpg - earlier.invlpg,
        }
    }

    /// Of each of so many operations.
    pub fn per(&self, operations: u64) -> Counts<f64> {
        let each = |count: u64| count as f64 / operations as f64;
        Counts {
            all: each(self.all),
            hypervisor: each(self.hypervisor),
            cr3: each(self.cr3),
            invlpg: each(self.invlpg),
        }
    }
}

/// The moments and rows of one run.
pub struct Marks {
    /// When the kernel began.
    pub kernel: Counts<u64>,
    /// When the first process ran.
    pub userspace: Counts<u64>,
    /// The measured parts of each row, in the order in which they ran.
    pub rows: Vec<Counts<u64>>,
}

/// Reads the plugin's file.
///
/// # Errors
/// A mark is missing, or a line is not as it should be.
pub fn marks(text: &str) -> Result<Marks> {
    let one = |start: &'static str| {
        lines(text, start).next().with_context(|| format!("the plugin saw no {start:?}"))?
    };
    Ok(Marks { kernel: one("FIRST kern ")?, userspace: one("POINT 3 ")?, rows: rows(text)? })
}

/// The rows alone of the plugin's file.
pub fn rows(text: &str) -> Result<Vec<Counts<u64>>> {
    lines(text, "ROW ").collect()
}

fn lines(text: &str, start: &'static str) -> impl Iterator<Item = Result<Counts<u64>>> {
    text.lines().filter(move |line| line.starts_with(start)).map(counts)
}

fn counts(line: &str) -> Result<Counts<u64>> {
    let of = |name: &str| {
        let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|count| count.parse::<u64>().ok()).with_context(|| format!("no {name} in: {line}"))
    };
    let hypervisor = of("hyp")?;
    Ok(Counts {
        all: of("user")? + of("kern")? + hypervisor,
        hypervisor,
        cr3: of("cr3")?,
        invlpg: of("invlpg")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = "ROW 7 user=1 hyp=2 kern=4 syscall=9 cr3=5 crx=8 invlpg=6 cpuid=0";
        assert_eq!(counts(line).unwrap(), Counts { all: 7, hypervisor: 2, cr3: 5, invlpg: 6 });
        assert!(counts("ROW 7 user=1 hyp=2 kern=4 cr3=5").is_err());
        assert!(counts("ROW 7 user=x hyp=2 kern=4 cr3=5 invlpg=1").is_err());
    }

    #[test]
    fn a_run_that_ended_early_is_an_error() {
        assert!(marks("FIRST kern 0x1 0 user=1 hyp=2 kern=4 cr3=5 invlpg=6\n").is_err());
    }
}
