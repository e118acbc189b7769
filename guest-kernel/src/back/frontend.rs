//! What a backend watches while it serves: its frontend's state, and the toolstack's wishes.
//!
//! The toolstack takes a device away by setting `online` to 0 in the backend's directory and `state`
//! to `Closing`, which asks the frontend to let go. A frontend that is paused or dead never will;
//! then the toolstack removes the frontend's directory, and that is the end whatever it says.
//!
//! It lets a backend die by writing `restart`: requests stay without an answer, and another backend
//! takes the device over. The hardest decision was how the new one knows that what it finds in the
//! frontend's directory is not meant for the old one: the old one's state becomes `Closed`, and
//! nobody goes on before the frontend has let go of the connection and begun again.

use super::Ended;
use crate::executor::select;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::{Result, Watch};
use alloc::format;

/// The frontend of a device, as its backend sees it.
pub(super) struct Frontend<'a> {
    device: &'a Device,
    state: Watch,
    online: Watch,
    restart: Watch,
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The frontend has let go of it, or is no more.
    Left,
    /// The toolstack wants another backend.
    Restart,
}

impl<'a> Frontend<'a> {
    pub(super) async fn watch(device: &'a Device) -> Result<Frontend<'a>> {
        let state = device.store.watch(&format!("{}/state", device.other)).await?;
        let online = device.store.watch(&format!("{}/online", device.own)).await?;
        let restart = device.store.watch(&format!("{}/restart", device.own)).await?;
        Ok(Frontend { device, state, online, restart })
    }

    /// Whether the toolstack wants the device to be.
    async fn online(&self) -> Result<bool> {
        Ok(self.device.read_or("online", 1).await? != 0)
    }

    /// Waits until the frontend has published its parameters; false if it never will.
    pub(super) async fn ready(&mut self) -> Result<bool> {
        loop {
            if !self.online().await? {
                return Ok(false);
            }
            match self.device.peer_state().await? {
                XenbusState::Initialised | XenbusState::Connected => return Ok(true),
                XenbusState::Unknown => return Ok(false),
                _ => self.change().await,
            }
        }
    }

    /// Waits until the connection is to end.
    pub(super) async fn gone(&mut self) -> Result<End> {
        while matches!(self.device.peer_state().await?, XenbusState::Initialised | XenbusState::Connected) {
            if self.device.read_or("restart", 0).await? != 0 {
                return Ok(End::Restart);
            }
            self.change().await;
        }
        Ok(End::Left)
    }

    /// Ends a connection: `Closing` until the frontend has closed, then `Closed` until there is
    /// another. False if there will be none. (A Linux guest that shuts down waits to see `Closing`.)
    pub(super) async fn close(&mut self) -> Result<bool> {
        self.device.switch_state(XenbusState::Closing).await?;
        while self.device.peer_state().await? == XenbusState::Closing {
            self.change().await;
        }
        self.device.switch_state(XenbusState::Closed).await?;
        self.begins_again().await
    }

    /// After a death without a word.
    pub(super) async fn bury(&mut self) -> Result<Ended> {
        self.device.switch_state(XenbusState::Closed).await?;
        if !self.begins_again().await? {
            return Ok(Ended::Closed);
        }
        self.device.store.rm(&format!("{}/restart", self.device.own)).await?;
        self.device.switch_state(XenbusState::Initialising).await?;
        Ok(Ended::Died)
    }

    /// Waits, closed, until the frontend has let go and wants a connection again; false if it never will.
    async fn begins_again(&mut self) -> Result<bool> {
        loop {
            if !self.online().await? {
                return Ok(false);
            }
            match self.device.peer_state().await? {
                XenbusState::Unknown => return Ok(false),
                XenbusState::Initialising | XenbusState::InitWait => return Ok(true),
                _ => self.change().await,
            }
        }
    }

    /// Waits for a change of any of the nodes. Values are read afterwards, so none is missed.
    async fn change(&mut self) {
        select(self.state.next(), select(self.online.next(), self.restart.next())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{JoinHandle, block_on, spawn, yield_now};
    use crate::xenstore::Xenstore;
    use crate::xenstore::tests::served;
    use alloc::rc::Rc;
    use shared_abi::DomId;

    const BACK: &str = "backend/vbd/5/1";
    const FRONT: &str = "device/vbd/1";

    async fn connected(store: &Xenstore) -> Device {
        for (path, value) in [
            (format!("{BACK}/frontend"), FRONT),
            (format!("{BACK}/frontend-id"), "5"),
            (format!("{BACK}/online"), "1"),
            (format!("{BACK}/state"), "4"),
            (format!("{FRONT}/state"), "4"),
        ] {
            store.write(&path, value).await.unwrap();
        }
        Device::backend(store, "vbd", DomId(5), 1).await.unwrap()
    }

    /// Lets the backend see what has been written.
    async fn settle<T>(task: &JoinHandle<T>) -> bool {
        for _ in 0..100 {
            yield_now().await;
        }
        task.is_finished()
    }

    #[test]
    fn who_takes_over_waits_until_the_frontend_has_begun_again() {
        block_on(async {
            let (store, _) = served();
            let device = Rc::new(connected(&store).await);
            let backend = spawn(async move {
                let mut frontend = Frontend::watch(&device).await.unwrap();
                assert_eq!(frontend.gone().await, Ok(End::Restart));
                frontend.bury().await
            });
            assert!(!settle(&backend).await);
            store.write(&format!("{BACK}/restart"), "1").await.unwrap();
            // Dead, and the frontend's parameters are still those for the dead one.
            for state in ["4", "5", "6"] {
                store.write(&format!("{FRONT}/state"), state).await.unwrap();
                assert!(!settle(&backend).await);
                assert_eq!(store.read(&format!("{BACK}/state")).await.as_deref(), Ok("6"));
            }
            store.write(&format!("{FRONT}/state"), "1").await.unwrap();
            assert_eq!(backend.await, Some(Ok(Ended::Died)));
            assert_eq!(store.read(&format!("{BACK}/state")).await.as_deref(), Ok("1"));
            assert_eq!(store.try_read(&format!("{BACK}/restart")).await, Ok(None));
        });
    }

    /// A device that is to go used to be cut off at once: what its guest had written was lost to it.
    #[test]
    fn a_device_that_is_to_go_is_served_until_the_frontend_lets_go_or_is_removed() {
        block_on(async {
            for removed in [false, true] {
                let (store, _) = served();
                let device = Rc::new(connected(&store).await);
                let backend = spawn(async move {
                    let mut frontend = Frontend::watch(&device).await.unwrap();
                    let end = frontend.gone().await;
                    (end, frontend.close().await)
                });
                store.write(&format!("{BACK}/online"), "0").await.unwrap();
                store.write(&format!("{BACK}/state"), "5").await.unwrap();
                assert!(!settle(&backend).await);
                if removed {
                    store.rm(&format!("{FRONT}/state")).await.unwrap();
                    // The tests' daemon tells of writes alone.
                    store.write(&format!("{BACK}/online"), "0").await.unwrap();
                } else {
                    store.write(&format!("{FRONT}/state"), "5").await.unwrap();
                    assert!(!settle(&backend).await);
                    store.write(&format!("{FRONT}/state"), "6").await.unwrap();
                }
                assert_eq!(backend.await, Some((Ok(End::Left), Ok(false))));
                assert_eq!(store.read(&format!("{BACK}/state")).await.as_deref(), Ok("6"));
            }
        });
    }
}
