//! Where a processor stands among others, and what it caches, as CPUID tells.

/// What CPUID says of threads and cores; `cpuid(leaf, subleaf)` gives eax, ebx, ecx, edx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Low bits of an APIC id that number the threads of a core.
    thread_bits: u32,
    /// Low bits of an APIC id that number the threads of a package.
    package_bits: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Cores of a package.
    pub cores: u32,
}

/// Kinds of levels in leaf 0xb.
const SMT: u32 = 1;
const CORE: u32 = 2;

impl Topology {
    /// By leaf 0xb where there is one, else by AMD's leaf 0x8000_0008; without either, a package is one core.
    pub fn read(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Topology {
        let [highest, ..] = cpuid(0, 0);
        let [smt, core] = [0, 1].map(|level| if highest >= 0xb { cpuid(0xb, level) } else { [0; 4] });
        if smt[1] != 0 && smt[2] >> 8 & 0xff == SMT && core[2] >> 8 & 0xff == CORE {
            let threads = (smt[1] & 0xffff).max(1);
            let cores = ((core[1] & 0xffff) / threads).max(1);
            return Topology { thread_bits: smt[0] & 0x1f, package_bits: core[0] & 0x1f, threads, cores };
        }
        let [highest, ..] = cpuid(0x8000_0000, 0);
        let [.., ecx, _] = if highest >= 0x8000_0008 { cpuid(0x8000_0008, 0) } else { [0; 4] };
        let cores = (ecx & 0xff) + 1;
        let bits = match ecx >> 12 & 0xf {
            0 => cores.next_power_of_two().trailing_zeros(),
            bits => bits,
        };
        Topology { thread_bits: 0, package_bits: bits, threads: 1, cores }
    }

    /// The package of the processor with an APIC id.
    pub fn package(&self, apic_id: u32) -> u32 {
        apic_id >> self.package_bits
    }

    /// Its core in there.
    pub fn core(&self, apic_id: u32) -> u32 {
        (apic_id & ((1 << self.package_bits) - 1)) >> self.thread_bits
    }

    /// Its thread in there.
    pub fn thread(&self, apic_id: u32) -> u32 {
        apic_id & ((1 << self.thread_bits) - 1)
    }
}

/// KiB of the outermost cache: by leaf 4 where there is one, else by AMD's leaf 0x8000_0006.
pub fn cache_kib(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> u32 {
    let [highest, ..] = cpuid(0, 0);
    let caches = (0..8).map(|n| if highest >= 4 { cpuid(4, n) } else { [0; 4] });
    let of_leaf_4 = caches.take_while(|cache| cache[0] & 0x1f != 0).last().map(|[_, ebx, sets, _]| {
        let bytes = [ebx & 0xfff, ebx >> 12 & 0x3ff, ebx >> 22].map(|n| u64::from(n) + 1);
        (bytes.iter().product::<u64>().saturating_mul(u64::from(sets) + 1) >> 10) as u32
    });
    of_leaf_4.unwrap_or_else(|| {
        let [highest, ..] = cpuid(0x8000_0000, 0);
        let [_, _, l2, l3] = if highest >= 0x8000_0006 { cpuid(0x8000_0006, 0) } else { [0; 4] };
        if l3 >> 18 != 0 { (l3 >> 18) * 512 } else { l2 >> 16 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packages of three cores with two threads, as leaf 0xb numbers them.
    #[test]
    fn leaf_0xb_says_how_an_apic_id_is_made() {
        let cpuid = |leaf, subleaf| match (leaf, subleaf) {
            (0, _) => [0xb, 0, 0, 0],
            (0xb, 0) => [1, 2, SMT << 8, 0],
            (0xb, 1) => [3, 6, CORE << 8 | 1, 0],
            _ => [0; 4],
        };
        let t = Topology::read(cpuid);
        assert_eq!((t.threads, t.cores), (2, 3));
        let place = |id| (t.package(id), t.core(id), t.thread(id));
        assert_eq!([0, 1, 5, 8, 13].map(place), [(0, 0, 0), (0, 0, 1), (0, 2, 1), (1, 0, 0), (1, 2, 1)]);
    }

    #[test]
    fn without_it_amds_leaf_does() {
        let cpuid = |leaf, _| match leaf {
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0008 => [0, 0, 2, 0],
            _ => [0; 4],
        };
        let t = Topology::read(cpuid);
        assert_eq!((t.threads, t.cores), (1, 3));
        assert_eq!((t.package(6), t.core(6), t.thread(6)), (1, 2, 0));
        let t = Topology::read(|_, _| [0; 4]);
        assert_eq!((t.threads, t.cores, t.package(3), t.core(3)), (1, 1, 3, 0));
    }

    #[test]
    fn the_outermost_cache_counts() {
        let leaf_4 = |leaf, subleaf| match (leaf, subleaf) {
            (0, _) => [4, 0, 0, 0],
            (4, 0) => [0x21, 7 << 22 | 63, 63, 0],
            (4, 1) => [0x63, 15 << 22 | 63, 16383, 0],
            _ => [0; 4],
        };
        assert_eq!(cache_kib(leaf_4), 16384);
        let amd = |l2: u32, l3: u32| {
            move |leaf, _| match leaf {
                0x8000_0000 => [0x8000_0006, 0, 0, 0],
                0x8000_0006 => [0, 0, l2 << 16, l3 << 18],
                _ => [0; 4],
            }
        };
        assert_eq!(cache_kib(amd(512, 32)), 16384);
        assert_eq!(cache_kib(amd(512, 0)), 512);
        // A hostile or broken leaf is only a wrong number.
        let _ = cache_kib(|_, _| [u32::MAX; 4]);
        let t = Topology::read(|_, _| [u32::MAX; 4]);
        let _ = (t.package(1), t.core(1), t.thread(1));
    }
}
