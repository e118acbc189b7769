//! Xenstore, as an ordinary domain finds it.

use crate::{Verdict, check_eq};
use alloc::format;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;
use guest_kernel::executor::{spawn, timeout};
use guest_kernel::shared_abi::Errno;
use guest_kernel::xenstore::Xenstore;

fn failed(errno: Errno) -> alloc::string::String {
    format!("{errno}")
}

pub async fn nodes(store: &Xenstore) -> Verdict {
    let domid: u16 = store.read_parsed("domid").await.map_err(failed)?;
    check_eq!(store.read("name").await.map(|name| name.is_empty()), Ok(false));
    check_eq!(store.read(&format!("/local/domain/{domid}/domid")).await, Ok(format!("{domid}")));
    let value = "v".repeat(1500);
    check_eq!(store.write("data/test", &value).await, Ok(()));
    check_eq!(store.read("data/test").await, Ok(value));
    check_eq!(store.directory("data").await.map(|names| names.iter().any(|name| name == "test")), Ok(true));
    check_eq!(store.get_perms("data/test").await.map(|perms| perms.owner.0), Ok(domid));
    check_eq!(store.rm("data/test").await, Ok(()));
    check_eq!(store.try_read("data/test").await, Ok(None));
    Ok(())
}

pub async fn transactions(store: &Xenstore) -> Verdict {
    check_eq!(store.write("data/count", "0").await, Ok(()));
    let runs = Cell::new(0);
    let result = store
        .transaction(async |t| {
            let count: u32 = t.read_parsed("data/count").await?;
            runs.set(runs.get() + 1);
            if runs.get() == 1 {
                // Somebody else changes it under the transaction's feet.
                store.write("data/count", "10").await?;
            }
            t.write_display("data/count", count + 1).await
        })
        .await;
    check_eq!((result, runs.get()), (Ok(()), 2));
    check_eq!(store.read("data/count").await.as_deref(), Ok("11"));
    let result: Result<(), Errno> = store
        .transaction(async |t| {
            t.write("data/count", "99").await?;
            Err(Errno::EINVAL)
        })
        .await;
    check_eq!(result, Err(Errno::EINVAL));
    check_eq!(store.read("data/count").await.as_deref(), Ok("11"));
    Ok(())
}

pub async fn watches(store: &Xenstore) -> Verdict {
    let mut watch = store.watch("data").await.map_err(failed)?;
    check_eq!(watch.next().await.as_deref(), Some("data"));
    check_eq!(store.write("data/watched", "1").await, Ok(()));
    let event = timeout(Duration::from_secs(5), watch.next()).await;
    check_eq!(event.as_ref().map(Option::as_deref), Ok(Some("data/watched")));
    Ok(())
}

pub async fn refusals(store: &Xenstore) -> Verdict {
    check_eq!(store.write("/local/domain/0/evil", "1").await, Err(Errno::EACCES));
    check_eq!(store.write("/evil", "1").await, Err(Errno::EACCES));
    check_eq!(store.read("data/no such").await, Err(Errno::EINVAL));
    check_eq!(store.read("data/none").await, Err(Errno::ENOENT));
    check_eq!(store.write("data/big", [b'x'; 4096]).await, Err(Errno::E2BIG));
    Ok(())
}

pub async fn concurrency(store: &Xenstore) -> Verdict {
    let tasks: Vec<_> = (0..40u32)
        .map(|n| {
            let store = store.clone();
            spawn(async move {
                let path = format!("data/many/{n}");
                store.write_display(&path, n * n).await?;
                store.read_parsed::<u32>(&path).await
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        check_eq!(task.await, Some(Ok((n * n) as u32)));
    }
    Ok(())
}
