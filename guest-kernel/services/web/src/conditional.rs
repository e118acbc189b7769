//! Validators of a file, and requests that depend on them (RFC 9110, section 13).

use crate::{date, request::Request};
use alloc::format;
use alloc::string::String;
use guest_kernel::fs::Metadata;

/// The entity tag of a file's current content. It is a strong one: the volume does not change
/// while it is mounted, and a new volume gives a file another inode, time or size.
pub fn entity_tag(file: &Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}\"", file.inode, file.modified, file.size)
}

/// Whether the client has the file already: 304.
pub fn not_modified(request: &Request<'_>, tag: &str, file: &Metadata) -> bool {
    // With an entity tag in the request its date does not matter.
    match (request.if_none_match, request.if_modified_since) {
        (Some(tags), _) => tags.split(',').any(|theirs| {
            let theirs = theirs.trim();
            theirs == "*" || theirs.strip_prefix("W/").unwrap_or(theirs) == tag
        }),
        (None, Some(since)) => date::parse(since).is_some_and(|since| u64::from(file.modified) <= since),
        (None, None) => false,
    }
}

/// Whether a `Range` counts: not if the client has a part of another state of the file.
pub fn range_applies(request: &Request<'_>, tag: &str, file: &Metadata) -> bool {
    match request.if_range {
        None => true,
        Some(text) if text.contains('"') => text.trim() == tag,
        Some(text) => date::parse(text) == Some(u64::from(file.modified)),
    }
}
