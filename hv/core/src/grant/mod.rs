//! Grant tables: a domain lets another map or copy single frames of its memory.
//!
//! The granting domain writes an entry into a table it shares with the hypervisor; the other maps
//! or copies by reference; the hypervisor marks the entry as in use (`GTF_reading`,
//! `GTF_writing`) for as long as it is. The hardest decision is what to believe of an entry that
//! its owner may rewrite at any moment. An entry is read when its first use begins, at the moment that its
//! mark is set; what was read is kept in the hypervisor's own record ([`active::Active`]) with a reference to
//! the frame, and every later use goes by that record.
//!
//! A mapping's page-table entry holds a reference of its own, which goes when the entry goes, by
//! whatever path ([`hv_machine::frame`]). The record of a mapping ([`maptrack`]) holds the *pin*:
//! the mark in the entry is cleared only when `GNTTABOP_unmap_grant_ref` found that page-table
//! entry and TLBs are flushed, or when the mapping domain is gone.
//!
//! # Lock order
//!
//! A domain's grant table (rank `GRANT`) before its or another's maptrack (rank `MAPTRACK`).
//! Nothing here needs two grant tables at once: a copy claims one side, then the other, and of a grant that
//! passes another's on first that one.
//!
//! | file | concept |
//! | --- | --- |
//! | `v1`, `v2` | one shared entry of the version, as its owner and the hypervisor see it |
//! | `active` | the record of an entry in use |
//! | `table` | a domain's table: frames, entries, records |
//! | `version` | changing the entries' version |
//! | `maptrack` | a domain's mappings of others' frames, by handle |
//! | `map` | map, unmap, replace |
//! | `copy` | copy by reference or frame |
//! | `special` | copy from or to a part of a frame, or another's grant |
//!
//! Not here: `GNTTABOP_transfer` (its status is [`TRANSFER_STATUS`]) and `GNTTABOP_dump_table`.

mod active;
pub mod copy;
pub mod map;
pub mod maptrack;
mod special;
pub mod table;
mod v1;
mod v2;
mod version;

pub use copy::{Copies, Tables};
pub use map::{Map, Mapped, Space, Unmap, Unmapped, Unmapping, map, replace, unmap};
pub use maptrack::Maptrack;
pub use table::GrantTable;

use hv_machine::frame::Stop;
use shared_abi::grant_table::GNTST_BAD_PAGE;
use shared_abi::{DomId, GrantRef};

#[cfg(test)]
mod tests;

/// The status of a `GNTTABOP_transfer`: a frame does not change its owner this way.
pub const TRANSFER_STATUS: i16 = GNTST_BAD_PAGE;

/// Why an operation did not happen. It has changed nothing then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Failure {
    /// `GNTST_*`, for the operation's `status`.
    Status(i16),
    /// Ask again: restart the hypercall at this operation.
    Again,
    /// Of a copy alone: what is granted is no whole frame.
    Special,
    /// Of such a copy: the grant passes on what this domain grants by this reference.
    Through(DomId, GrantRef),
}

impl Failure {
    /// Why the frame layer said no, with the status that a refusal has here.
    fn stop(stop: Stop, refused: i16) -> Failure {
        match stop {
            Stop::Again => Failure::Again,
            Stop::Refused(_) => Failure::Status(refused),
        }
    }
}

impl From<i16> for Failure {
    fn from(status: i16) -> Failure {
        Failure::Status(status)
    }
}
