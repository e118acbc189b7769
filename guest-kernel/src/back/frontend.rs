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
