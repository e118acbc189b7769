//! What the attacks on backends have in common: a frontend that says what it likes, and rings whose shared
//! part it writes as it likes. The ring's own half stays in order, or there would be nothing to tell.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::time::Duration;

use guest_kernel::events::EventChannel;
use guest_kernel::executor::{timeout, yield_now};
use guest_kernel::grants::SharedPage;
use guest_kernel::println;
use guest_kernel::ring::{FrontRing, RingKind};
use guest_kernel::share::{GrantedPage, SharedMem};
use guest_kernel::shared_abi::Errno;
use guest_kernel::xenbus::{Device, XenbusState};
use guest_kernel::xenstore::Xenstore;

/// The index that a ring's requester publishes: the first word of its page (`io/ring.h`).
pub const REQ_PROD: usize = 0;
/// Where the requester's other words are: `req_event`, `rsp_prod`, `rsp_event`.
pub const OTHER_WORDS: [usize; 3] = [4, 8, 12];
/// A grant reference that this guest never makes.
pub const WILD_REF: u32 = 0x00de_ad00;
/// How long a backend may take for anything.
const LONG: Duration = Duration::from_secs(30);

/// A frontend that has been let through to its backend.
pub struct Frontend {
    /// Its place in the store.
    pub device: Device,
    /// The channel to the backend.
    pub bell: Rc<EventChannel>,
}

impl Frontend {
    /// Finds the device and waits until its backend wants to hear of a ring.
    pub async fn new(store: &Xenstore, kind: &str, id: u32) -> Result<Frontend, Errno> {
        let device = Device::frontend(store, kind, id).await?;
        device.wait_for_peer(&[XenbusState::InitWait]).await?;
        let bell = Rc::new(EventChannel::alloc_unbound(device.peer)?);
        Ok(Frontend { device, bell })
    }

    /// Tells the backend `nodes` and that is to connect; what it does: `Connected`, or it closes.
    pub async fn offer(&self, nodes: &[(&str, String)]) -> Result<XenbusState, Errno> {
        for (key, value) in nodes {
            self.device.write(key, value).await?;
        }
        self.device.switch_state(XenbusState::Initialised).await?;
        self.settle(&[XenbusState::Connected]).await
    }

    /// The port, as a node wants it.
    pub fn port(&self) -> String {
        self.bell.port().0.to_string()
    }

    /// The backend's next state among `states`, or that it closes. `Unknown` if it does nothing.
    async fn settle(&self, states: &[XenbusState]) -> Result<XenbusState, Errno> {
        timeout(LONG, self.device.wait_for_peer(states)).await.unwrap_or(Ok(XenbusState::Unknown))
    }

    /// Rings the bell and expects that the backend refuses to go on.
    pub async fn refused(&self, what: &str) {
        self.bell.notify();
        judge_closed(what, self.settle(&[]).await);
    }
}

/// Expects that the backend does not go on.
pub fn judge_closed(what: &str, state: Result<XenbusState, Errno>) {
    match state {
        Ok(XenbusState::Closing | XenbusState::Closed) => println!("enemy device: {what}: closed"),
        other => println!("enemy wins: {what}: {other:?}"),
    }
}

/// Says what came of something, and whether the backend was right.
pub fn judge(what: &str, right: bool, came: impl core::fmt::Debug) {
    if right {
        println!("enemy device: {what}: {came:?}");
    } else {
        println!("enemy wins: {what}: {came:?}");
    }
}

/// A ring of one page, offered to `device`'s backend.
pub fn ring<K: RingKind>(device: &Device) -> Result<FrontRing<K, SharedPage>, Errno> {
    Ok(FrontRing::new(SharedPage::new(device.peer)?))
}

/// The ring's reference, as a node wants it.
pub fn reference<K: RingKind>(ring: &FrontRing<K, SharedPage>) -> String {
    ring.memory().gref().0.to_string()
}

/// Sends requests and waits for as many answers, which `each` is given. False if they don't come.
pub async fn exchange<K: RingKind>(
    ring: &mut FrontRing<K, SharedPage>,
    bell: &EventChannel,
    requests: &[K::Request],
    mut each: impl FnMut(K::Response),
) -> bool {
    for request in requests {
        ring.push(request);
    }
    // The bell is rung in any case: the word that asks for it is among those that are attacked.
    let _ = ring.publish();
    bell.notify();
    let mut missing = requests.len();
    for _ in 0..3000 {
        while let Ok(Some((_, answer))) = ring.pop() {
            each(answer);
            missing -= 1;
            if missing == 0 {
                return true;
            }
        }
        let _ = timeout(Duration::from_millis(10), bell.wait()).await;
    }
    false
}

/// Sends `good` again and again and, while the backend reads it, writes the bytes of `bad` over it and takes
/// them back. Each has to get an answer, whatever it is.
pub async fn change_while_read<K: RingKind>(
    ring: &mut FrontRing<K, SharedPage>,
    bell: &EventChannel,
    good: &K::Request,
    bad: &[u8],
    rounds: u32,
) -> bool
where
    K::Request: AsRef<[u8]>,
{
    for _ in 0..rounds {
        let Some(index) = ring.push(good) else { return false };
        let at = 64 + (index % ring.size()) as usize * K::SLOT;
        let _ = ring.publish();
        bell.notify();
        let mut answered = false;
        for turn in 0..200_000u32 {
            ring.memory().write(at, bad);
            ring.memory().write(at, &good.as_ref()[..bad.len()]);
            if let Ok(Some(_)) = ring.pop() {
                answered = true;
                break;
            }
            if turn % 64 == 63 {
                yield_now().await;
            }
        }
        if !answered {
            return false;
        }
    }
    true
}
