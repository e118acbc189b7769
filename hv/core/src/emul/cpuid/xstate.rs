//! Leaf 0xD: the processor states that XSAVE saves, as far as the policy's features own them.

use super::Leaf;
use super::features::{Features, XSTATE_1_EAX};

/// States are numbered from 0; 2 to 18 are kept (AVX … AMX).
const STATES: usize = 19;
/// Bytes of the x87 and SSE area and the XSAVE header, which every image begins with.
const LEGACY_SIZE: u32 = 576;
const X87_SSE: u64 = 3;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 7 << 5;
/// Subleaf 1 EAX: the compact format exists, so EBX tells its size.
const XSAVEC: u32 = 1 << 1;

/// The states of a policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Xstate {
    mask: u64,
    /// Subleaf 1 EAX.
    instructions: u32,
    /// EAX size, EBX offset, ECX flags, of each state from 2 on.
    components: [Leaf; STATES],
}

impl Xstate {
    /// The hardware's states; `max_leaf` is its highest basic leaf.
    pub fn read(host: impl Fn(u32, u32) -> Leaf, max_leaf: u32) -> Xstate {
        let mut xstate = Xstate::default();
        if max_leaf < 0xd {
            return xstate;
        }
        let main = host(0xd, 0);
        xstate.mask = u64::from(main.edx) << 32 | u64::from(main.eax);
        xstate.instructions = host(0xd, 1).eax;
        for n in 2..STATES {
            if xstate.mask >> n & 1 != 0 {
                xstate.components[n] = host(0xd, n as u32);
            }
        }
        xstate
    }

    /// Keeps the states that the features use.
    pub fn limit(&mut self, features: &Features) {
        if !features.xsave {
            *self = Xstate::default();
            return;
        }
        let mut keep = X87_SSE;
        if features.avx {
            keep |= AVX;
        }
        if features.avx512 {
            keep |= AVX512;
        }
        self.mask &= keep;
        self.instructions &= XSTATE_1_EAX;
        for (n, component) in self.components.iter_mut().enumerate() {
            if n < 2 || self.mask >> n & 1 == 0 {
                *component = Leaf::default();
            } else {
                *component = Leaf { ecx: component.ecx & 2, edx: 0, ..*component };
            }
        }
    }

    /// The states that may be enabled in XCR0.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    pub fn set_mask(&mut self, mask: u64) {
        self.mask = mask;
    }

    pub fn set_instructions(&mut self, instructions: u32) {
        self.instructions = instructions;
    }

    /// Drops what `max` doesn't have.
    pub fn clamp(&mut self, max: &Xstate) {
        self.mask &= max.mask;
        self.instructions &= max.instructions;
        self.components = max.components;
    }

    /// Bytes of an image of `states` in the standard format.
    fn standard_size(&self, states: u64) -> u32 {
        let end = |n: usize| self.components[n].ebx.saturating_add(self.components[n].eax);
        (2..STATES).filter(|n| states >> n & 1 != 0).map(end).fold(LEGACY_SIZE, u32::max)
    }

    /// Bytes of an image of `states` in the compact format.
    fn compact_size(&self, states: u64) -> u32 {
        let mut size = LEGACY_SIZE;
        for n in (2..STATES).filter(|n| states >> n & 1 != 0) {
            let aligned = self.components[n].ecx & 2 != 0;
            if aligned {
                size = size.saturating_add(63) & !63;
            }
            size = size.saturating_add(self.components[n].eax);
        }
        size
    }

    /// The subleaf, without the sizes that depend on XCR0.
    pub fn stored(&self, subleaf: u32) -> Leaf {
        if self.mask == 0 {
            return Leaf::default();
        }
        match subleaf {
            0 => Leaf {
                eax: self.mask as u32,
                ecx: self.standard_size(self.mask),
                edx: (self.mask >> 32) as u32,
                ..Leaf::default()
            },
            1 => Leaf { eax: self.instructions, ..Leaf::default() },
            n => self.components.get(n as usize).copied().unwrap_or_default(),
        }
    }

    /// Fills in the size of an image of the states that are enabled.
    pub fn enabled_size(&self, subleaf: u32, xcr0: u64, leaf: &mut Leaf) {
        match subleaf {
            0 if self.mask != 0 => leaf.ebx = self.standard_size(xcr0 & self.mask),
            1 if self.instructions & XSAVEC != 0 => leaf.ebx = self.compact_size(xcr0 & self.mask),
            _ => {}
        }
    }
}
