//! What the toolstack asks of a running guest: to stop, to restart, to grow or shrink.
//!
//! A request to stop first goes to the program, if it said that it wants to hear of it
//! ([`stop_requested`]): it can then end its work and return from its main function. A program
//! that did not say so, or takes longer than ten seconds, is ended.

use crate::Local;
use crate::executor::{Notify, sleep, spawn, yield_now};
use crate::hypercall::Shutdown;
use crate::xenstore::{Result, Xenstore};
use alloc::rc::Rc;
use core::time::Duration;
use guest_machine::exchange::{deflate_domain, inflate_domain, reservation_of_self};
use guest_machine::frames::free_frames;

/// How long a program may take to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Frames that the balloon never takes from the guest: 1 MiB to go on with.
const KEEP: usize = 256;
/// Frames that are given or taken before other tasks run again.
const STEP: usize = 64;

#[derive(Default)]
struct Stop {
    asked: Option<Shutdown>,
    bell: Rc<Notify>,
    listening: bool,
}

static STOP: Local<Stop> = Local::new(Stop::default);

/// Waits until the domain is asked to stop, and says how. Calling it promises to return from the
/// main function soon after.
pub async fn stop_requested() -> Shutdown {
    let bell = STOP.with(|s| {
        s.listening = true;
        s.bell.clone()
    });
    loop {
        if let Some(how) = STOP.with(|s| s.asked) {
            return how;
        }
        bell.wait().await;
    }
}

/// How the domain ends when the main function returns.
pub(crate) fn how_to_end() -> Shutdown {
    STOP.with(|s| s.asked).unwrap_or(Shutdown::Poweroff)
}

/// Serves `control/shutdown` and `memory/target`, as tasks.
pub(crate) fn start(store: &Xenstore) {
    let (stop, balloon) = (store.clone(), store.clone());
    spawn(async move {
        if let Err(errno) = watch_shutdown(&stop).await {
            log::warn!("control/shutdown is not served: {errno}");
        }
    });
    spawn(async move {
        if let Err(errno) = watch_target(&balloon).await {
            log::warn!("memory/target is not served: {errno}");
        }
    });
}

async fn watch_shutdown(store: &Xenstore) -> Result<()> {
    let mut watch = store.watch("control/shutdown").await?;
    // The toolstack may not have let us write there; the requests still work.
    for feature in ["feature-poweroff", "feature-reboot"] {
        let _ = store.write(&alloc::format!("control/{feature}"), "1").await;
    }
    while watch.next().await.is_some() {
        let how = match store.try_read("control/shutdown").await?.as_deref() {
            Some("poweroff" | "halt") => Shutdown::Poweroff,
            Some("reboot") => Shutdown::Reboot,
            _ => continue,
        };
        // Emptying the node tells the toolstack that we have heard.
        let _ = store.write("control/shutdown", "").await;
        let listening = STOP.with(|s| {
            s.asked = Some(how);
            s.bell.notify();
            s.listening
        });
        if listening {
            sleep(GRACE).await;
            log::warn!("the program did not stop in time");
        }
        crate::shutdown(how);
    }
    Ok(())
}

async fn watch_target(store: &Xenstore) -> Result<()> {
    let mut watch = store.watch("memory/target").await?;
    while watch.next().await.is_some() {
        let Some(text) = store.try_read("memory/target").await? else { continue };
        let Ok(kib) = text.trim().parse::<u64>() else { continue };
        follow((kib / 4) as usize).await?;
    }
    Ok(())
}

/// Gives frames back or takes more until the domain holds `target`, as far as it can. In steps,
/// so that other tasks run in between.
async fn follow(target: usize) -> Result<()> {
    let (start, most) = reservation_of_self()?;
    let (mut now, target) = (start as usize, target.min(most as usize));
    while now != target {
        let (wanted, moved) = if target < now {
            let wanted = (now - target).min(STEP).min(free_frames().saturating_sub(KEEP));
            (wanted, deflate_domain(wanted))
        } else {
            let wanted = (target - now).min(STEP);
            (wanted, inflate_domain(wanted))
        };
        now = if target < now { now - moved } else { now + moved };
        if moved == 0 || moved < wanted {
            break;
        }
        yield_now().await;
    }
    if now != start as usize {
        log::info!("memory: {start} pages before, {now} now, target {target}");
    }
    Ok(())
}
