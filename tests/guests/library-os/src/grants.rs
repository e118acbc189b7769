//! Grants from this domain to itself, which Xen permits.

use crate::{Verdict, check_eq, me};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use guest_kernel::grants::{Access, CopyBatch, Grant, GrantMapping};
use guest_kernel::memory::Pages;
use guest_kernel::shared_abi::{DomId, Errno, GrantRef};

fn offered(access: Access) -> Result<(Rc<Pages>, Grant), Errno> {
    let pages = Rc::new(Pages::new(1)?);
    let grant = Grant::offer(&pages, 0, me(), access)?;
    Ok((pages, grant))
}

pub fn map() -> Verdict {
    let (pages, grant) = offered(Access::ReadWrite).map_err(|e| format!("offer: {e}"))?;
    let twice = [grant.reference(), grant.reference()];
    let mapping = GrantMapping::map(me(), &twice, Access::ReadWrite).map_err(|e| format!("map: {e}"))?;
    pages.write_bytes(9, b"there");
    check_eq!(mapping.read_value::<[u8; 5]>(4096 + 9), *b"there");
    mapping.write_bytes(100, b"and back");
    check_eq!(pages.read_value::<[u8; 8]>(100), *b"and back");
    check_eq!(mapping.mfn(1), pages.mfn(0));
    Ok(())
}

pub fn bad_references() -> Verdict {
    let (_pages, grant) = offered(Access::ReadOnly).map_err(|e| format!("offer: {e}"))?;
    let map = |domid, reference, access| GrantMapping::map(domid, &[reference], access).map(drop);
    check_eq!(map(me(), grant.reference(), Access::ReadOnly), Ok(()));
    check_eq!(map(me(), grant.reference(), Access::ReadWrite), Err(Errno::EINVAL));
    check_eq!(map(me(), GrantRef(u32::MAX), Access::ReadOnly), Err(Errno::ENOENT));
    check_eq!(map(DomId(1234), grant.reference(), Access::ReadOnly), Err(Errno::ESRCH));
    // One bad reference undoes the whole mapping.
    let mixed = [grant.reference(), GrantRef(u32::MAX)];
    check_eq!(GrantMapping::map(me(), &mixed, Access::ReadOnly).map(drop), Err(Errno::ENOENT));
    Ok(())
}

pub fn copies() -> Verdict {
    let (pages, grant) = offered(Access::ReadWrite).map_err(|e| format!("offer: {e}"))?;
    pages.write_bytes(0, b"0123456789");
    // A buffer that lies across pages of the heap.
    let mut buffer = alloc::vec![0u8; 9000];
    let (first, second) = buffer[4090..].split_at_mut(8);
    let mut batch = CopyBatch::new();
    let added = batch.read(me(), grant.reference(), 1, first);
    check_eq!(added, Ok(()));
    check_eq!(batch.read(me(), GrantRef(2000), 1, &mut second[..4]), Ok(()));
    check_eq!(batch.write(me(), grant.reference(), 4090, b"123456"), Ok(()));
    check_eq!(batch.write(me(), grant.reference(), 4090, b"1234567"), Err(Errno::EINVAL));
    let results: Vec<bool> = batch.run().map(|result| result.is_ok()).collect();
    check_eq!(results, [true, false, true]);
    check_eq!(&buffer[4090..4098], b"12345678");
    check_eq!(pages.read_value::<[u8; 6]>(4090), *b"123456");
    Ok(())
}

pub fn exhaustion() -> Verdict {
    let pages = Rc::new(Pages::new(1).map_err(|e| format!("no page: {e}"))?);
    let offer = || Grant::offer(&pages, 0, me(), Access::ReadWrite);
    let all: Vec<Grant> = core::iter::from_fn(|| offer().ok()).collect();
    check_eq!(all.len() >= 512 - 8, true);
    check_eq!(offer().map(drop), Err(Errno::ENOSPC));
    drop(all);
    check_eq!(offer().map(drop), Ok(()));
    Ok(())
}

pub fn outlives() -> Verdict {
    let (pages, grant) = offered(Access::ReadWrite).map_err(|e| format!("offer: {e}"))?;
    let reference = grant.reference();
    let mapping =
        GrantMapping::map(me(), &[reference], Access::ReadWrite).map_err(|e| format!("map: {e}"))?;
    drop(grant);
    // The frame is held back while it is mapped; the mapping still shows it.
    check_eq!(Rc::strong_count(&pages), 2);
    pages.write_bytes(0, b"still");
    check_eq!(mapping.read_value::<[u8; 5]>(0), *b"still");
    drop(mapping);
    Ok(())
}
