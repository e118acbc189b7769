//! Segment descriptors of a guest: which a GDT or LDT may hold.
//!
//! A guest's kernel runs in ring 3, so every code and data segment is given that privilege. Of system
//! descriptors nothing present may stand: a TSS or LDT would name hypervisor structures, and a gate is a
//! way into ring 0. (Xen tolerates call gates by emulating them; nothing we know of uses them, so here
//! they are refused.) Bases and limits need no check: in 64-bit mode they don't protect the hypervisor,
//! page tables do.

use super::types::Progress;
use super::{FrameTable, Stop, Work};
use crate::ram::Page;
use shared_abi::{DomId, Mfn, errno::Errno};

const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
/// Clear in system descriptors.
const SEGMENT: u64 = 1 << 44;
const TYPE: u64 = 15 << 40;

/// The descriptor as it may stand, or `None`.
pub fn sanitise(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        // It faults on use.
        return Some(descriptor);
    }
    if descriptor & SEGMENT != 0 {
        return Some(descriptor | DPL);
    }
    // Type 0 is reserved and faults on use; it also is what the upper half of a wide one looks like.
    (descriptor & TYPE == 0).then_some(descriptor)
}

/// Checks and corrects a frame of descriptors.
pub(super) fn check(page: Page<'_>) -> Result<(), Errno> {
    for offset in (0..4096).step_by(8) {
        sanitise(page.load_u64(offset)).ok_or(Errno::EINVAL)?;
    }
    for offset in (0..4096).step_by(8) {
        let value = page.load_u64(offset);
        match sanitise(value) {
            Some(corrected) if corrected != value => page.store_u64(offset, corrected),
            _ => {}
        }
    }
    Ok(())
}

impl FrameTable {
    /// `update_descriptor`: stores a checked descriptor into a frame of `owner`'s: in one that holds
    /// descriptors in use, or as data. `offset` is in bytes.
    pub fn update_descriptor(
        &self,
        mfn: Mfn,
        offset: usize,
        descriptor: u64,
        owner: DomId,
        work: &mut Work<'_>,
    ) -> Progress<()> {
        let refused = Stop::Refused(Errno::EINVAL);
        let descriptor = sanitise(descriptor).ok_or(refused)?;
        if offset >= 4096 || !offset.is_multiple_of(8) {
            return Err(refused);
        }
        let in_use = self.word(mfn).is_some_and(|word| word.ty() == super::Type::SegDesc && word.types() > 0);
        if in_use {
            let frame = self.get_descriptors(mfn, owner, work)?;
            self.ram().page(frame.number()).store_u64(offset, descriptor);
            frame.release(work);
        } else {
            let frame = self.get_writable(mfn, owner, work)?;
            frame.page().store_u64(offset, descriptor);
            frame.release(work);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_get_ring_3_and_system_descriptors_are_refused() {
        let kernel_code = 0x00af_9b00_0000_ffff;
        assert_eq!(sanitise(kernel_code), Some(0x00af_fb00_0000_ffff));
        assert_eq!(sanitise(0), Some(0));
        for ty in 0..16u64 {
            let system = PRESENT | ty << 40;
            assert_eq!(sanitise(system).is_some(), ty == 0, "present system type {ty}");
            assert_eq!(sanitise(ty << 40 | 0x1234), Some(ty << 40 | 0x1234), "absent type {ty}");
            for dpl in 0..4u64 {
                let segment = PRESENT | SEGMENT | ty << 40 | dpl << 45;
                assert_eq!(sanitise(segment), Some(segment | DPL));
            }
        }
    }
}
