//! Policies as lists of leaves: how a toolstack reads and changes them
//! (`XEN_DOMCTL_get_cpu_policy`, `XEN_DOMCTL_set_cpu_policy`).

use crate::emul::msr::{ARCH_CAPABILITIES, PLATFORM_INFO};
use shared_abi::errno::Errno;

use super::{BASIC_MAX, CACHES, ECX1_HYPERVISOR, EDX7_ITSC, EXTD_MAX_AMD, FEAT_MAX, Leaf, Policy, TOPOLOGY};

/// The leaf and subleaf that make a list of leaves unacceptable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadLeaf {
    /// The leaf.
    pub leaf: u32,
    /// Its subleaf, or `u32::MAX` for a leaf without (`XEN_CPUID_NO_SUBLEAF`).
    pub subleaf: u32,
}

/// `XEN_CPUID_NO_SUBLEAF` (arch-x86/xen.h).
const NO_SUBLEAF: u32 = u32::MAX;

impl Policy {
    /// Every leaf of the policy with its subleaf, or `u32::MAX` where it has none, in ascending
    /// order. A toolstack makes a list of the same length of them again: the caches are all in it, and the two limits of a
    /// hypervisor's leaves, which are not set.
    pub fn leaves(&self) -> impl Iterator<Item = (u32, u32, Leaf)> + '_ {
        let subleaves = |leaf: u32| match leaf {
            4 => 0..CACHES as u32,
            7 => 0..self.feat[0].eax + 1,
            0xb => 0..TOPOLOGY as u32,
            0xd => 0..64,
            _ => NO_SUBLEAF..NO_SUBLEAF,
        };
        let basic = (0..=self.basic[0].eax).flat_map(move |leaf| {
            let plain = (!matches!(leaf, 4 | 7 | 0xb | 0xd)).then_some((leaf, NO_SUBLEAF));
            plain.into_iter().chain(subleaves(leaf).map(move |subleaf| (leaf, subleaf)))
        });
        let extended = (0x8000_0000..=self.extd[0].eax).map(|leaf| (leaf, NO_SUBLEAF));
        let empty = |leaf: u32, subleaf: u32, out: &Leaf| {
            matches!((leaf, subleaf), (0xd, 2..)) && *out == Leaf::default()
        };
        let limits = [0x4000_0000, 0x4000_0100].map(|leaf| (leaf, NO_SUBLEAF));
        basic
            .chain(limits)
            .chain(extended)
            .map(|(leaf, subleaf)| (leaf, subleaf, self.stored(leaf, subleaf)))
            .filter(move |(leaf, subleaf, out)| !empty(*leaf, *subleaf, out))
    }

    /// The policy changed by a toolstack's leaves, which may take away but not exceed what `max`
    /// has: features beyond it are dropped, and a higher number of leaves is an error.
    pub fn updated(
        &self,
        max: &Policy,
        leaves: impl IntoIterator<Item = (u32, u32, Leaf)>,
    ) -> Result<Policy, BadLeaf> {
        let mut new = self.clone();
        for (leaf, subleaf, value) in leaves {
            new.set(leaf, subleaf, value).ok_or(BadLeaf { leaf, subleaf })?;
        }
        for (leaf, subleaf, has, may) in [
            (0, NO_SUBLEAF, new.basic[0].eax, max.basic[0].eax),
            (7, 0, new.feat[0].eax, max.feat[0].eax),
            (0x8000_0000, NO_SUBLEAF, new.extd[0].eax, max.extd[0].eax.max(0x8000_0000)),
        ] {
            if has > may {
                return Err(BadLeaf { leaf, subleaf });
            }
        }
        new.clamp(max);
        new.settle();
        Ok(new)
    }

    /// Has the domain read `value` from a register, of those whose contents are a domain's own. It can't be told of
    /// more than `max` is: that a flaw is absent, above all.
    ///
    /// # Errors
    /// `EINVAL`: no such register or value; `EOVERFLOW`: one that it has no room for.
    pub fn set_register(&mut self, max: &Policy, register: u32, value: u64) -> Result<(), Errno> {
        match register {
            // 32 bits, of which none is offered.
            PLATFORM_INFO if value >> 32 != 0 => return Err(Errno::EOVERFLOW),
            PLATFORM_INFO if value == 0 => {}
            ARCH_CAPABILITIES if value & !max.arch_capabilities == 0 => self.arch_capabilities = value,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn set(&mut self, leaf: u32, subleaf: u32, value: Leaf) -> Option<()> {
        let plain = subleaf == NO_SUBLEAF;
        match leaf {
            4 => *self.caches.get_mut(subleaf as usize)? = value,
            7 => *self.feat.get_mut(subleaf as usize)? = value,
            0xd if subleaf == 0 => self.xstate.set_mask(u64::from(value.edx) << 32 | u64::from(value.eax)),
            0xd if subleaf == 1 => self.xstate.set_instructions(value.eax),
            // The sizes and offsets of states are the hardware's.
            0xd if subleaf < 64 => {}
            // Topology is the hardware's, as is the hypervisor's own range.
            0xb => {}
            0x4000_0000..=0x4000_01ff => {}
            0..=BASIC_MAX if plain => self.basic[leaf as usize] = value,
            0x8000_0000..=EXTD_MAX_AMD if plain => self.extd[(leaf & 0xffff) as usize] = value,
            _ => return None,
        }
        Some(())
    }

    /// Drops what `max` doesn't have.
    fn clamp(&mut self, max: &Policy) {
        let hypervisor = self.basic[1].ecx & ECX1_HYPERVISOR;
        self.basic[1].ecx = self.basic[1].ecx & max.basic[1].ecx | hypervisor;
        self.basic[1].edx &= max.basic[1].edx;
        for subleaf in 0..=FEAT_MAX as usize {
            let (new, max) = (&mut self.feat[subleaf], &max.feat[subleaf]);
            new.eax = if subleaf == 0 { new.eax } else { new.eax & max.eax };
            new.ebx &= max.ebx;
            new.ecx &= max.ecx;
            new.edx &= max.edx;
        }
        self.extd[1].ecx &= max.extd[1].ecx;
        // The bits that AMD repeats from leaf 1 are made afresh.
        self.extd[1].edx &= max.extd[1].edx;
        self.extd[7].edx &= max.extd[7].edx & EDX7_ITSC;
        self.extd[8].ebx &= max.extd[8].ebx;
        self.extd[0x21].eax &= max.extd[0x21].eax;
        self.xstate.clamp(&max.xstate);
    }
}
