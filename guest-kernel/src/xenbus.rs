//! The two halves of a split device finding each other: nodes, states, handshake.
//!
//! Each half owns a directory in the store, names the other's, and publishes a `state`. A
//! [`Device`] is one half's view of the pair; frontends and backends use the same one. What the
//! other half writes is hostile input: every read is parsed, and waiting for its state also ends
//! when its directory is gone.

use crate::hypercall::Errno;
use crate::xenstore::{Permissions, Result, Watch, Xenstore};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::FromStr;
use shared_abi::DomId;
pub use shared_abi::io::xenbus::XenbusState;

/// One half of a split device.
#[derive(Clone)]
pub struct Device {
    /// The store.
    pub store: Xenstore,
    /// The directory of this half.
    pub own: String,
    /// The directory of the other half.
    pub other: String,
    /// The domain of the other half.
    pub peer: DomId,
    /// The device's number.
    pub id: u32,
}

impl Device {
    /// Our frontend `device/<kind>/<id>`. `ENOENT` if the toolstack made none.
    pub async fn frontend(store: &Xenstore, kind: &str, id: u32) -> Result<Device> {
        Self::open(store, format!("device/{kind}/{id}"), "backend", "backend-id", id).await
    }

    /// Our backend `backend/<kind>/<frontend>/<id>`.
    pub async fn backend(store: &Xenstore, kind: &str, frontend: DomId, id: u32) -> Result<Device> {
        let own = format!("backend/{kind}/{}/{id}", frontend.0);
        let device = Self::open(store, own, "frontend", "frontend-id", id).await?;
        // The path says who it is for; a node that says otherwise is not to be trusted.
        if device.peer == frontend { Ok(device) } else { Err(Errno::EINVAL) }
    }

    async fn open(store: &Xenstore, own: String, path: &str, domid: &str, id: u32) -> Result<Device> {
        let other = store.read(&format!("{own}/{path}")).await?;
        let peer = DomId(store.read_parsed(&format!("{own}/{domid}")).await?);
        Ok(Device { store: store.clone(), own, other, peer, id })
    }

    /// A node of ours as text.
    pub async fn read(&self, key: &str) -> Result<String> {
        self.store.read(&format!("{}/{key}", self.own)).await
    }

    /// A node of ours, parsed; `default` if it is not there.
    pub async fn read_or<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        or(self.store.read_parsed(&format!("{}/{key}", self.own)).await, default)
    }

    /// A node of the other half, parsed. `EINVAL` if it doesn't parse.
    pub async fn read_peer<T: FromStr>(&self, key: &str) -> Result<T> {
        self.store.read_parsed(&format!("{}/{key}", self.other)).await
    }

    /// A node of the other half, parsed; `default` if it is not there.
    pub async fn read_peer_or<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        or(self.read_peer(key).await, default)
    }

    /// Writes a node of ours.
    pub async fn write(&self, key: &str, value: impl Display) -> Result<()> {
        self.store.write(&format!("{}/{key}", self.own), value.to_string()).await
    }

    /// Writes nodes of ours all at once.
    pub async fn publish(&self, nodes: &[(&str, &str)]) -> Result<()> {
        self.store
            .transaction(async |t| {
                for (key, value) in nodes {
                    t.write(&format!("{}/{key}", self.own), value).await?;
                }
                Ok(())
            })
            .await
    }

    /// Tells the other half our state.
    pub async fn switch_state(&self, state: XenbusState) -> Result<()> {
        self.write("state", state.number()).await
    }

    /// Says that our half is closed, unless our directory is gone: a plain write would bring a part of it back.
    pub async fn close(&self) -> Result<()> {
        let path = format!("{}/state", self.own);
        let closed = XenbusState::Closed.number();
        self.store
            .transaction(async |t| {
                t.read(&path).await?;
                t.write_display(&path, closed).await
            })
            .await
    }

    /// Our state as the store has it.
    pub async fn state(&self) -> Result<XenbusState> {
        state_at(&self.store, &self.own).await
    }

    /// The other half's state; `Unknown` if it is not there.
    pub async fn peer_state(&self) -> Result<XenbusState> {
        state_at(&self.store, &self.other).await
    }

    /// A stream of the other half's states.
    pub async fn watch_peer(&self) -> Result<PeerStates> {
        let watch = self.store.watch(&format!("{}/state", self.other)).await?;
        Ok(PeerStates { store: self.store.clone(), other: self.other.clone(), watch, last: None })
    }

    /// Waits until the other half is in one of `states`, or closed, or gone (`Unknown`).
    pub async fn wait_for_peer(&self, states: &[XenbusState]) -> Result<XenbusState> {
        use XenbusState::{Closed, Closing, Unknown};
        let mut peer = self.watch_peer().await?;
        loop {
            let state = peer.next().await?;
            if states.contains(&state) || matches!(state, Unknown | Closing | Closed) {
                return Ok(state);
            }
        }
    }

    /// Makes our directory readable by the other half, as the toolstack does.
    pub async fn share_with_peer(&self, own_domid: DomId) -> Result<()> {
        self.store.set_perms(&self.own, &Permissions::readable_by(own_domid, self.peer)).await
    }
}

fn or<T>(result: Result<T>, default: T) -> Result<T> {
    match result {
        Err(Errno::ENOENT) => Ok(default),
        result => result,
    }
}

async fn state_at(store: &Xenstore, directory: &str) -> Result<XenbusState> {
    let text = store.try_read(&format!("{directory}/state")).await?;
    Ok(text.map_or(XenbusState::Unknown, |text| XenbusState::parse(&text)))
}

/// The states that the other half passes through; those in quick succession may be seen as one.
pub struct PeerStates {
    store: Xenstore,
    other: String,
    watch: Watch,
    last: Option<XenbusState>,
}

impl PeerStates {
    /// The state now, at the first call; then the next that differs from the last.
    pub async fn next(&mut self) -> Result<XenbusState> {
        loop {
            self.watch.next().await.ok_or(Errno::EIO)?;
            let state = state_at(&self.store, &self.other).await?;
            if self.last != Some(state) {
                self.last = Some(state);
                return Ok(state);
            }
        }
    }
}

/// The numbers of our frontends of a kind (`vif`, `vbd`).
pub async fn frontends(store: &Xenstore, kind: &str) -> Result<Vec<u32>> {
    let names = or(store.directory(&format!("device/{kind}")).await, Vec::new())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Our backends of a kind: whose they are and their numbers.
pub async fn backends(store: &Xenstore, kind: &str) -> Result<Vec<(DomId, u32)>> {
    let mut found = Vec::new();
    for domain in or(store.directory(&format!("backend/{kind}")).await, Vec::new())? {
        let Ok(domain) = domain.parse() else { continue };
        let devices = backends_of(store, kind, DomId(domain)).await?;
        found.extend(devices.into_iter().map(|id| (DomId(domain), id)));
    }
    Ok(found)
}

/// The numbers of our backends of a kind for one domain.
pub async fn backends_of(store: &Xenstore, kind: &str, domain: DomId) -> Result<Vec<u32>> {
    let names = or(store.directory(&format!("backend/{kind}/{}", domain.0)).await, Vec::new())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{block_on, sleep, spawn};
    use crate::xenstore::tests::served;
    use XenbusState::{Closed, Connected, InitWait, Initialised, Initialising, Unknown};
    use core::time::Duration;

    /// What the toolstack writes for one network card of domain 5.
    async fn toolstack(store: &Xenstore) {
        for (path, value) in [
            ("device/vif/0/backend", "backend/vif/5/0"),
            ("device/vif/0/backend-id", "0"),
            ("backend/vif/5/0/frontend", "device/vif/0"),
            ("backend/vif/5/0/frontend-id", "5"),
            ("device/vif/0/state", "1"),
            ("backend/vif/5/0/state", "1"),
            ("device/vif/x/backend", "nonsense"),
        ] {
            store.write(path, value).await.unwrap();
        }
    }

    #[test]
    fn the_halves_find_each_other_and_connect() {
        block_on(async {
            let (store, _) = served();
            toolstack(&store).await;
            assert_eq!(frontends(&store, "vif").await, Ok([0].into()));
            assert_eq!(frontends(&store, "vbd").await, Ok(Vec::new()));
            assert_eq!(backends(&store, "vif").await, Ok([(DomId(5), 0)].into()));
            let other = store.clone();
            let backend = spawn(async move {
                let device = Device::backend(&other, "vif", DomId(5), 0).await.unwrap();
                device.switch_state(InitWait).await.unwrap();
                assert_eq!(device.wait_for_peer(&[Initialised]).await, Ok(Initialised));
                assert_eq!(device.read_peer::<u32>("ring-ref").await, Ok(8));
                assert_eq!(device.read_peer_or("feature", 3).await, Ok(3));
                device.switch_state(Connected).await.unwrap();
                device.wait_for_peer(&[]).await
            });
            let device = Device::frontend(&store, "vif", 0).await.unwrap();
            assert_eq!((device.peer, device.state().await), (DomId(0), Ok(Initialising)));
            let mut peer = device.watch_peer().await.unwrap();
            while peer.next().await.unwrap() != InitWait {}
            device.publish(&[("ring-ref", "8"), ("event-channel", "4")]).await.unwrap();
            device.switch_state(Initialised).await.unwrap();
            assert_eq!(peer.next().await, Ok(Connected));
            device.switch_state(Closed).await.unwrap();
            assert_eq!(backend.await, Some(Ok(Closed)));
        });
    }

    /// A backend that noted its end after the toolstack had taken its directory away left a node there: the device
    /// could not be attached again.
    #[test]
    fn who_is_gone_closes_nothing() {
        block_on(async {
            let (store, _) = served();
            toolstack(&store).await;
            let device = Device::backend(&store, "vif", DomId(5), 0).await.unwrap();
            assert_eq!(device.close().await, Ok(()));
            assert_eq!(device.state().await, Ok(Closed));
            store.rm("backend/vif/5/0/state").await.unwrap();
            assert_eq!(device.close().await, Err(Errno::ENOENT));
            assert_eq!(device.state().await, Ok(Unknown));
        });
    }

    /// A frontend may write anything into its own nodes: a number that is none, a state that is
    /// none, or nothing at all. Waiting for it must end, not hang or fail the backend.
    #[test]
    fn what_the_other_half_writes_is_not_believed() {
        block_on(async {
            let (store, _) = served();
            toolstack(&store).await;
            let device = Device::backend(&store, "vif", DomId(5), 0).await.unwrap();
            store.write("device/vif/0/ring-ref", "8 or so").await.unwrap();
            store.write("device/vif/0/state", "77").await.unwrap();
            assert_eq!(device.read_peer::<u32>("ring-ref").await, Err(Errno::EINVAL));
            assert_eq!(device.wait_for_peer(&[Connected]).await, Ok(Unknown));
            store.rm("device/vif/0/state").await.unwrap();
            assert_eq!(device.wait_for_peer(&[Connected]).await, Ok(Unknown));
            store.write("backend/vif/5/0/frontend-id", "7").await.unwrap();
            assert_eq!(Device::backend(&store, "vif", DomId(5), 0).await.map(drop), Err(Errno::EINVAL));
            sleep(Duration::from_millis(1)).await;
        });
    }
}
