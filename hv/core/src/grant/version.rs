//! `GNTTABOP_set_version`: a table's entries in the other version's form.
//!
//! The first entries, which the toolstack filled for the console and xenstore and others have in use, keep what they
//! grant, uses that have begun included. All others must be out of use, and are empty afterwards.

use core::sync::atomic::Ordering::SeqCst;

use shared_abi::GrantRef;
use shared_abi::errno::Errno;
use shared_abi::grant_table::{
    GNTTAB_NR_RESERVED_ENTRIES, GTF_PERMIT_ACCESS, GTF_READING, GTF_TRANSITIVE, GTF_TYPE_MASK, GTF_WRITING,
};

use super::active::Entry;
use super::table::GrantTable;

const KEPT: usize = GNTTAB_NR_RESERVED_ENTRIES as usize;
const MARKS: u16 = GTF_READING | GTF_WRITING;

/// One of the first entries, in neither form: flags with the marks, domain, frame.
#[derive(Clone, Copy, Default)]
struct Plain {
    flags: u16,
    dom: u16,
    frame: u32,
}

impl GrantTable<'_> {
    /// Makes the entries of `version`.
    ///
    /// # Errors
    /// `EINVAL` of what is no version; `ENOSYS` of version 2 if the table may not have it; `EBUSY` while other entries
    /// than the first are in use or status frames are mapped, and of a dying domain; `ERANGE` when one of the first has no form in version 1;
    /// `ENOMEM`. Nothing has changed then.
    pub fn set_version(&mut self, version: u32) -> Result<(), Errno> {
        match version {
            1 => {}
            2 if self.max_version() < 2 => return Err(Errno::ENOSYS),
            2 => {}
            _ => return Err(Errno::EINVAL),
        }
        if version == self.version() {
            return Ok(());
        }
        if self.is_dying() || self.pinned() != self.kept_in_use() {
            return Err(Errno::EBUSY);
        }
        let kept = if version == 2 { self.leave_1()? } else { self.leave_2()? };
        self.shared.iter().for_each(|frame| frame.clear());
        self.set_version_to(version);
        for (gref, entry) in (0..).map(GrantRef).zip(kept) {
            self.put(gref, entry);
        }
        Ok(())
    }

    /// How many of the first entries are in use.
    fn kept_in_use(&mut self) -> u32 {
        let Some(first) = self.shared.first_mut() else { return 0 };
        (0..KEPT as u32).filter(|gref| first.active(GrantRef(*gref)).is_some_and(|a| a.in_use())).count()
            as u32
    }

    /// What the first entries of version 1 say; what version 2 needs is there.
    fn leave_1(&mut self) -> Result<[Plain; KEPT], Errno> {
        if let Err(errno) = self.grow_status(self.frame_count()) {
            self.status.clear();
            return Err(errno);
        }
        let mut kept = [Plain::default(); KEPT];
        let Some(first) = self.shared.first() else { return Ok(kept) };
        for (gref, entry) in (0..).map(GrantRef).zip(&mut kept) {
            let word = first.v1(gref).word.load(SeqCst);
            *entry = Plain { flags: word as u16, dom: (word >> 16) as u16, frame: (word >> 32) as u32 };
        }
        Ok(kept)
    }

    /// What the first entries of version 2 say; what that version had is gone.
    fn leave_2(&mut self) -> Result<[Plain; KEPT], Errno> {
        let mut kept = [Plain::default(); KEPT];
        for (gref, entry) in (0..).map(GrantRef).zip(&mut kept) {
            let Ok(v2) = self.v2(gref) else { continue };
            let (head, frame) = (v2.head.load(SeqCst), v2.body.load(SeqCst));
            match head as u16 & GTF_TYPE_MASK {
                GTF_PERMIT_ACCESS => {
                    let flags = head as u16 | v2.status.load(SeqCst);
                    let frame = u32::try_from(frame).map_err(|_| Errno::ERANGE)?;
                    *entry = Plain { flags, dom: (head >> 16) as u16, frame };
                }
                GTF_TRANSITIVE => return Err(Errno::ERANGE),
                // What has begun goes on, also if the guest has changed the entry's type under it.
                _ => entry.flags = v2.status.load(SeqCst) & MARKS,
            }
        }
        // (XSA-255: a frame that a guest can still write must not be anything else.)
        if self.status.iter().any(|frame| frame.is_mapped()) {
            return Err(Errno::EBUSY);
        }
        self.status.clear();
        Ok(kept)
    }

    /// Writes one of the first entries in the form of the version that there is; whoever uses it has its marks there.
    fn put(&mut self, gref: GrantRef, entry: Plain) {
        let (flags, dom, frame) = (entry.flags, u64::from(entry.dom) << 16, u64::from(entry.frame));
        let marks = if self.version() == 1 {
            let Some(v1) = self.shared.first().map(|first| first.v1(gref)) else { return };
            v1.word.store(u64::from(flags) | dom | frame << 32, SeqCst);
            v1.marks()
        } else {
            let Ok(v2) = self.v2(gref) else { return };
            v2.status.store(flags & MARKS, SeqCst);
            v2.body.store(frame, SeqCst);
            v2.head.store(u64::from(flags & !MARKS) | dom, SeqCst);
            v2.marks()
        };
        if let Some(active) = self.shared.first_mut().and_then(|first| first.active(gref)) {
            active.set_marks(marks);
        }
    }
}
