//! Where dom0's p2m list and page tables lie, and how far they map.

/// Pages of 4 MiB.
const BLOCK: u64 = 1024;
/// Pages behind the stack that are mapped at least.
const SLACK: u64 = 128;

/// The part of the mapped region behind kernel and ramdisk, in pages from the region's base: the p2m list, start_info,
/// page tables, one page of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The p2m list.
    pub p2m: u64,
    /// start_info.
    pub info: u64,
    /// The tables.
    pub tables: u64,
    /// How many.
    pub count: u64,
    /// The stack.
    pub stack: u64,
    /// What is mapped ends here.
    pub end: u64,
}

/// Tables of each level that map `start..end`.
pub fn tables(start: u64, end: u64) -> [u64; 4] {
    [21, 30, 39, 48].map(|shift| ((end - 1) >> shift) - (start >> shift) + 1)
}

impl Layout {
    /// For a region at address `base` with `used` pages before the p2m list, which has `p2m_pages`.
    ///
    /// Tables and stack are in the region too: it grows until it holds what maps it. Its end is on a 4 MiB boundary, and
    /// the first one behind the tables: up to there Linux unmaps what it has no use for. What lay beyond would stay, to be
    /// written and executed.
    pub fn new(base: u64, used: u64, p2m_pages: u64) -> Layout {
        let (mut p2m, mut count) = (used, 0);
        loop {
            let info = p2m + p2m_pages;
            let stack = info + 1 + count;
            let end = (stack + 1 + SLACK).next_multiple_of(BLOCK);
            let need = tables(base, base + end * 4096).iter().sum();
            let behind = (end - BLOCK + 1).saturating_sub(stack);
            if need <= count && behind == 0 {
                return Layout { p2m, info, tables: info + 1, count, stack, end };
            }
            p2m += behind;
            count = count.max(need);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_mapped_ends_with_the_tables_block() {
        for base in [0xffff_ffff_8000_0000, 0xffff_ffff_8010_0000] {
            for used in 0x4a00..0x4a00 + 2 * BLOCK {
                let l = Layout::new(base, used, 256);
                assert!(used <= l.p2m && l.p2m - used <= SLACK + 2, "{used:#x}: {l:?}");
                assert_eq!((l.info, l.tables, l.stack), (l.p2m + 256, l.info + 1, l.tables + l.count));
                assert!(l.stack + 1 + SLACK <= l.end && l.end.is_multiple_of(BLOCK), "{used:#x}: {l:?}");
                assert_eq!((l.tables + l.count).next_multiple_of(BLOCK), l.end, "{used:#x}: {l:?}");
                assert!(tables(base, base + l.end * 4096).iter().sum::<u64>() <= l.count, "{used:#x}: {l:?}");
            }
        }
    }
}
