//! Memory that others see, and others' memory: see [`Pages`], [`Mapping`] and [`Shared`].
//!
//! Private memory is the heap (`alloc`). Frames that are shared with another domain, the
//! hypervisor or a device are reached by copying only, because their content can change at any
//! moment: copy once, decide on the copy.

pub use guest_machine::exchange::{deflate_domain, inflate_domain, reservation_of_self};
pub use guest_machine::frames::free_frames;
pub use guest_machine::memory::Pages;
pub use guest_machine::paging::{m2p, p2m};
pub use guest_machine::shared::{Shared, full_fence};
pub use guest_machine::window::Mapping;
