//! Events, timers and tasks.

use crate::{Verdict, check_eq};
use alloc::format;
use core::time::Duration;
use guest_kernel::events::EventChannel;
use guest_kernel::executor::{Elapsed, sleep, spawn, timeout};
use guest_kernel::shared_abi::{DomId, Errno, Port};
use guest_kernel::time::{Instant, wallclock};

const SELF: DomId = DomId::SELF;

fn pair() -> Result<(EventChannel, EventChannel), Errno> {
    let near = EventChannel::alloc_unbound(SELF)?;
    let far = EventChannel::bind_interdomain(SELF, near.port())?;
    Ok((near, far))
}

pub async fn events() -> Verdict {
    let (near, far) = pair().map_err(|e| format!("channel: {e}"))?;
    let echo = spawn(async move {
        for _ in 0..1000 {
            far.wait().await;
            far.notify();
        }
    });
    for round in 0..1000 {
        near.notify();
        if timeout(Duration::from_secs(5), near.wait()).await.is_err() {
            return Err(format!("no answer in round {round}"));
        }
    }
    check_eq!(echo.await, Some(()));
    Ok(())
}

pub fn ports() -> Verdict {
    let (near, far) = pair().map_err(|e| format!("channel: {e}"))?;
    let port = far.port();
    drop(near);
    drop(far);
    check_eq!(EventChannel::bind_interdomain(SELF, port).map(drop), Err(Errno::EINVAL));
    check_eq!(EventChannel::bind_interdomain(SELF, Port(1 << 20)).map(drop), Err(Errno::EINVAL));
    check_eq!(EventChannel::bind_interdomain(DomId(1234), port).map(drop), Err(Errno::ESRCH));
    check_eq!(EventChannel::bind_virq(99).map(drop), Err(Errno::EINVAL));
    Ok(())
}

pub async fn sleeps() -> Verdict {
    let (wall, start) = (wallclock(), Instant::now());
    let long = spawn(sleep(Duration::from_secs(3600)));
    for _ in 0..10 {
        sleep(Duration::from_millis(3)).await;
    }
    let elapsed = start.elapsed();
    check_eq!(elapsed >= Duration::from_millis(30) && elapsed < Duration::from_secs(5), true);
    check_eq!(wallclock() - wall >= elapsed, true);
    // 2020 is over: the wall clock is set.
    check_eq!(wall > Duration::from_secs(50 * 365 * 86400), true);
    long.abort();
    check_eq!(long.await, None);
    Ok(())
}

pub async fn timeouts() -> Verdict {
    let (near, _far) = pair().map_err(|e| format!("channel: {e}"))?;
    check_eq!(timeout(Duration::from_millis(5), near.wait()).await, Err(Elapsed));
    Ok(())
}
