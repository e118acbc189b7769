//! What a backend watches while it serves: its frontend's state, and the toolstack's wish.
//!
//! The toolstack takes a device away by setting `online` to 0 in the backend's directory, also
//! when the frontend is paused or dead and will never say anything again.

use crate::executor::select;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::{Result, Watch};
use alloc::format;

/// The frontend of a device, as its backend sees it.
pub(super) struct Frontend<'a> {
    device: &'a Device,
    state: Watch,
    online: Watch,
}

impl<'a> Frontend<'a> {
    pub(super) async fn watch(device: &'a Device) -> Result<Frontend<'a>> {
        let state = device.store.watch(&format!("{}/state", device.other)).await?;
        let online = device.store.watch(&format!("{}/online", device.own)).await?;
        Ok(Frontend { device, state, online })
    }

    /// Whether the toolstack wants the device to be.
    pub(super) async fn online(&self) -> Result<bool> {
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

    /// Waits until the frontend lets go of the connection, or the device is taken away.
    pub(super) async fn gone(&mut self) -> Result<()> {
        while self.online().await?
            && matches!(self.device.peer_state().await?, XenbusState::Initialised | XenbusState::Connected)
        {
            self.change().await;
        }
        Ok(())
    }

    /// Ends a connection: `Closing` until the frontend has closed, then `Closed` until there is
    /// another. False if there will be none. (A Linux guest that shuts down waits to see `Closing`.)
    pub(super) async fn close(&mut self) -> Result<bool> {
        self.device.switch_state(XenbusState::Closing).await?;
        while self.online().await? && self.device.peer_state().await? == XenbusState::Closing {
            self.change().await;
        }
        self.device.switch_state(XenbusState::Closed).await?;
        loop {
            if !self.online().await? {
                return Ok(false);
            }
            match self.device.peer_state().await? {
                XenbusState::Closing | XenbusState::Closed => self.change().await,
                state => return Ok(state != XenbusState::Unknown),
            }
        }
    }

    /// Waits for a change of either node. Values are read afterwards, so none is missed.
    async fn change(&mut self) {
        select(self.state.next(), self.online.next()).await;
    }
}
