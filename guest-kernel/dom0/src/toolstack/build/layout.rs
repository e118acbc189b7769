//! Where everything of a new domain lies, and the page tables that say so, as data.
//!
//! The pages of a domain are pfn 0 to `pages`. As Xen's own builder does it, the first pages are mapped one
//! to one from the kernel's virtual base on: kernel, ramdisk, p2m, start info, xenstore ring, console ring,
//! page tables, boot stack, and at least 512 KiB more, up to a multiple of 4 MiB. A kernel may ask for
//! its p2m elsewhere (INIT_P2M), and take a ramdisk that is not mapped (MOD_START_PFN): those two then come
//! after all of it in pfns.
//!
//! Page tables are mapped read-only, as Xen demands of frames that it is to use as tables.

use super::image::Kernel;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use shared_abi::{Mfn, Pfn, pte};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const SLACK: u64 = 512 << 10;
const ALIGN: u64 = 4 << 20;
const TABLE_FLAGS: u64 = pte::PRESENT | pte::RW | pte::USER | pte::ACCESSED;
/// The part of the address space that is Xen's: L4 entries 256 to 271.
const HYPERVISOR: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// A range of virtual addresses that is mapped to consecutive pfns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapped {
    address: u64,
    pfn: u64,
    pages: u64,
}

/// The plan of one domain. Ranges are of pfns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// All pages of the domain.
    pub pages: u64,
    /// Where pfn 0 is mapped.
    pub virt_base: u64,
    /// The ramdisk.
    pub ramdisk: Range<u64>,
    /// Whether the ramdisk has no virtual address.
    pub ramdisk_by_pfn: bool,
    /// The list of machine frames.
    pub p2m: Range<u64>,
    /// The virtual address of that list.
    pub p2m_address: u64,
    /// The start info.
    pub start_info: u64,
    /// The xenstore ring.
    pub xenstore: u64,
    /// The console ring.
    pub console: u64,
    /// The page tables, the root first.
    pub tables: Range<u64>,
    /// The boot stack, one page.
    pub stack: u64,
    mapped: Vec<Mapped>,
}

/// Tables of each level that mapping `ranges` takes, L1 first.
fn table_counts(ranges: &[Mapped]) -> [u64; 3] {
    [21, 30, 39].map(|shift| {
        let mut seen: Vec<u64> = Vec::new();
        for range in ranges.iter().filter(|range| range.pages > 0) {
            let last = range.address.wrapping_add((range.pages - 1) * PAGE);
            seen.extend(range.address >> shift..=last >> shift);
        }
        seen.sort_unstable();
        seen.dedup();
        seen.len() as u64
    })
}

impl Layout {
    /// Plans a domain of `pages` pages. The error says what does not fit.
    pub fn plan(kernel: &Kernel<'_>, ramdisk_bytes: u64, pages: u64) -> Result<Layout, String> {
        let too_small = |needed: u64| {
            let (needed, has) = ((needed * PAGE).div_ceil(1 << 20), (pages * PAGE) >> 20);
            format!(
                "not enough memory for this kernel and ramdisk: {needed} MiB are needed, the domain has {has} MiB"
            )
        };
        let base = kernel.virt_base;
        let kernel_pages = (kernel.end - base).div_ceil(PAGE);
        let ramdisk_pages = ramdisk_bytes.div_ceil(PAGE);
        let p2m_pages = (pages * 8).div_ceil(PAGE);
        // Before any arithmetic that could overflow with absurd addresses.
        if kernel_pages > pages || ramdisk_pages > pages {
            return Err(too_small(kernel_pages.max(ramdisk_pages).min(1 << 40)));
        }
        let by_pfn = kernel.ramdisk_by_pfn && ramdisk_pages > 0;

        let mut next = kernel_pages;
        let mut take = |count: u64| {
            let range = next..next + count;
            next = range.end;
            range
        };
        let mapped_ramdisk = take(if by_pfn { 0 } else { ramdisk_pages });
        let mapped_p2m = take(if kernel.init_p2m.is_some() { 0 } else { p2m_pages });
        let (start_info, xenstore, console) = (take(1).start, take(1).start, take(1).start);
        let fixed = next;

        // The tables map themselves, so their number decides what they have to map.
        let mut count = 0;
        let (mapped, top) = loop {
            let used = fixed + count + 1;
            let end =
                base.checked_add(used * PAGE + SLACK).and_then(|end| end.checked_next_multiple_of(ALIGN));
            // The very top of the address space stays free.
            let end = end.ok_or("the kernel's virtual base leaves no room for it")?;
            let extra = (end - base) / PAGE;
            let after = if by_pfn { used + ramdisk_pages } else { used };
            let top = if kernel.init_p2m.is_some() { after + p2m_pages } else { after };
            let mut mapped = vec![Mapped { address: base, pfn: 0, pages: extra.min(pages) }];
            if let Some(address) = kernel.init_p2m {
                mapped.push(Mapped { address, pfn: after, pages: p2m_pages });
            }
            let needed = 1 + table_counts(&mapped).iter().sum::<u64>();
            if needed <= count || top > pages {
                break (mapped, top);
            }
            count = needed;
        };
        if top > pages {
            return Err(too_small(top));
        }
        for range in &mapped {
            let end = range.address.checked_add(range.pages * PAGE);
            let canonical = |address: u64| !(1 << 47..HYPERVISOR.end).contains(&address);
            let clear = |end: u64| canonical(end - 1) && (range.address >= HYPERVISOR.end || end <= 1 << 47);
            if range.address % PAGE != 0 || !canonical(range.address) || !end.is_some_and(clear) {
                return Err("the kernel asks for addresses that are not a guest's".into());
            }
        }
        if let [first, p2m] = mapped[..]
            && p2m.address < first.address + first.pages * PAGE
            && first.address < p2m.address + p2m.pages * PAGE
        {
            return Err("the kernel asks for its p2m inside itself".into());
        }
        let tables = fixed..fixed + count;
        let stack = tables.end;
        let after = stack + 1;
        let ramdisk = if by_pfn { after..after + ramdisk_pages } else { mapped_ramdisk };
        let p2m = match mapped.get(1) {
            Some(range) => range.pfn..range.pfn + range.pages,
            None => mapped_p2m,
        };
        let p2m_address = kernel.init_p2m.unwrap_or(base + p2m.start * PAGE);
        Ok(Layout {
            pages,
            virt_base: base,
            ramdisk,
            ramdisk_by_pfn: by_pfn,
            p2m,
            p2m_address,
            start_info,
            xenstore,
            console,
            tables,
            stack,
            mapped,
        })
    }

    /// The virtual address of a pfn in the one-to-one part.
    pub fn address(&self, pfn: u64) -> u64 {
        self.virt_base + pfn * PAGE
    }

    /// The pfn that holds `address` of the one-to-one part.
    pub fn pfn_of(&self, address: u64) -> u64 {
        (address - self.virt_base) / PAGE
    }

    /// The page tables' contents, in the order of [`tables`](Self::tables): the root is the first. `mfn` gives
    /// the machine frame of each of the domain's pages.
    pub fn page_tables(&self, mfn: impl Fn(Pfn) -> Mfn) -> Vec<[u64; pte::ENTRIES]> {
        let count = (self.tables.end - self.tables.start) as usize;
        let mut tables = Vec::with_capacity(count);
        tables.push([0; pte::ENTRIES]);
        // The table of each level that covers an address, by the address' part above that level.
        let mut index: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for range in &self.mapped {
            let mut current: Option<(u64, usize)> = None;
            for page in 0..range.pages {
                let address = range.address + page * PAGE;
                let table = match current {
                    Some((part, table)) if part == address >> pte::LEVEL_SHIFT[1] => table,
                    _ => self.l1_table(&mut tables, &mut index, address, &mfn),
                };
                current = Some((address >> pte::LEVEL_SHIFT[1], table));
                let pfn = range.pfn + page;
                let flags = if self.tables.contains(&pfn) { TABLE_FLAGS & !pte::RW } else { TABLE_FLAGS };
                tables[table][pte::index(address, 1)] = pte::entry(mfn(Pfn(pfn)), flags);
            }
        }
        tables.resize(count, [0; pte::ENTRIES]);
        tables
    }

    /// The L1 table for `address`, made with those above it where they are missing.
    fn l1_table(
        &self,
        tables: &mut Vec<[u64; pte::ENTRIES]>,
        index: &mut BTreeMap<(usize, u64), usize>,
        address: u64,
        mfn: &impl Fn(Pfn) -> Mfn,
    ) -> usize {
        let mut table = 0;
        for level in [4, 3, 2] {
            let next = *index.entry((level, address >> pte::LEVEL_SHIFT[level - 1])).or_insert(tables.len());
            if next == tables.len() {
                let pfn = Pfn(self.tables.start + next as u64);
                tables[table][pte::index(address, level)] = pte::entry(mfn(pfn), TABLE_FLAGS);
                tables.push([0; pte::ENTRIES]);
            }
            table = next;
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Segment;
    use super::*;
    use proptest::prelude::*;

    fn kernel(virt_base: u64, end: u64, init_p2m: Option<u64>, ramdisk_by_pfn: bool) -> Kernel<'static> {
        let segments = vec![Segment { address: virt_base, data: b"", size: end - virt_base }];
        Kernel { segments, virt_base, entry: virt_base, hypercall_page: None, init_p2m, ramdisk_by_pfn, end }
    }

    /// Machine frames in no order: an odd multiplier is a bijection on 40 bits.
    fn mfn(pfn: Pfn) -> Mfn {
        Mfn((pfn.0 * 0x9e37_79b1 + 77) & 0xff_ffff_ffff)
    }

    /// What the processor would find at `address`: the frame, and whether all levels allow writing.
    fn walk(layout: &Layout, tables: &[[u64; 512]], address: u64) -> Option<(Mfn, bool)> {
        let mut table = 0;
        let mut writable = true;
        for level in [4, 3, 2, 1] {
            let entry = tables[table][pte::index(address, level)];
            if entry & pte::PRESENT == 0 {
                return None;
            }
            writable &= entry & pte::RW != 0;
            if level == 1 {
                return Some((pte::mfn(entry), writable));
            }
            table =
                (0..tables.len()).find(|n| mfn(Pfn(layout.tables.start + *n as u64)) == pte::mfn(entry))?;
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn pages_do_not_overlap_and_tables_map_what_was_planned(
            base in prop::sample::select(vec![0, 0xffff_ffff_8000_0000, 0xffff_8800_0000_0000, 0x4000_0000]),
            kernel_bytes in 1u64..8 << 20,
            ramdisk in 0u64..3 << 20,
            megabytes in 4u64..40,
            p2m in prop::option::of(prop::sample::select(vec![0xffff_8900_0000_0000u64, 0xffff_ffff_c000_0000, 0x80_0000_0000])),
            by_pfn in any::<bool>(),
        ) {
            let pages = megabytes * 256;
            let kernel = kernel(base, base + kernel_bytes, p2m, by_pfn);
            let Ok(layout) = Layout::plan(&kernel, ramdisk, pages) else {
                // Only for want of memory.
                prop_assert!(kernel_bytes + ramdisk + 80 * PAGE > megabytes << 20);
                return Ok(());
            };
            let one = |pfn| pfn..pfn + 1;
            let mut parts = [
                0..kernel_bytes.div_ceil(PAGE), layout.ramdisk.clone(), layout.p2m.clone(), one(layout.start_info),
                one(layout.xenstore), one(layout.console), layout.tables.clone(), one(layout.stack),
            ];
            parts.sort_by_key(|part| (part.start, part.end));
            prop_assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(parts.iter().all(|part| part.end <= pages));
            prop_assert_eq!(layout.ramdisk.end - layout.ramdisk.start, ramdisk.div_ceil(PAGE));
            prop_assert!((layout.p2m.end - layout.p2m.start) * PAGE >= pages * 8);

            let tables = layout.page_tables(mfn);
            prop_assert_eq!(tables.len() as u64, layout.tables.end - layout.tables.start);
            let mapped_to = |address| walk(&layout, &tables, address);
            let must = parts.iter().filter(|part| {
                let outside = (by_pfn && **part == layout.ramdisk) || (p2m.is_some() && **part == layout.p2m);
                !outside && part.start < part.end
            });
            for pfn in must.flat_map(|part| [part.start, part.end - 1]) {
                let writable = !layout.tables.contains(&pfn);
                prop_assert_eq!(mapped_to(layout.address(pfn)), Some((mfn(Pfn(pfn)), writable)), "pfn {}", pfn);
            }
            for pfn in layout.tables.clone() {
                prop_assert_eq!(mapped_to(layout.address(pfn)), Some((mfn(Pfn(pfn)), false)));
            }
            for (n, pfn) in layout.p2m.clone().enumerate() {
                prop_assert_eq!(mapped_to(layout.p2m_address + n as u64 * PAGE), Some((mfn(Pfn(pfn)), true)));
            }
            // The slack, as far as there are pages for it.
            let slack = (layout.stack + SLACK / PAGE).min(pages - 1);
            prop_assert!(mapped_to(layout.address(slack)).is_some());

            // No table is mapped writable anywhere, and no entry names a frame that is not the domain's.
            let own: alloc::collections::BTreeSet<u64> = (0..pages).map(|pfn| mfn(Pfn(pfn)).0).collect();
            for entry in tables.iter().flatten().filter(|entry| **entry != 0) {
                prop_assert!(own.contains(&pte::mfn(*entry).0));
            }
            prop_assert!(tables[0][256..272].iter().all(|entry| *entry == 0));
        }

        #[test]
        fn absurd_kernels_are_refused(base in any::<u64>(), len in any::<u64>(), p2m in prop::option::of(any::<u64>()), ramdisk in any::<u64>()) {
            let base = base & !0xfff;
            let kernel = kernel(base, base.saturating_add(len).max(base + 1), p2m, false);
            let _ = Layout::plan(&kernel, ramdisk, 2048);
        }
    }

    #[test]
    fn want_of_memory_names_the_sizes() {
        let error = Layout::plan(&kernel(0, 9 << 20, None, false), 0, 2048).unwrap_err();
        assert!(error.contains("9 MiB are needed, the domain has 8 MiB"), "{error}");
    }
}
