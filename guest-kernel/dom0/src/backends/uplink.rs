//! A guest's interface as a port of the bridge.

use crate::bridge::{Bridge, Ip, MacPolicy, Plug};
use alloc::rc::Rc;
use guest_kernel::back::net;
use guest_kernel::net::{Frame, FrameSink};

/// Attached while the guest is connected.
pub(super) struct Uplink {
    plug: Rc<Plug>,
    policy: MacPolicy,
    ip: Option<Ip>,
}

impl Uplink {
    /// A port whose guest may use the addresses that `policy` says, and is asked for `ip`.
    pub fn new(bridge: Rc<Bridge>, policy: MacPolicy, ip: Option<Ip>) -> Rc<Uplink> {
        Rc::new(Uplink { plug: Plug::new(bridge), policy, ip })
    }
}

impl FrameSink for Uplink {
    fn frame(&self, frame: Frame<'_>) {
        self.plug.frame(frame);
    }

    fn flush(&self) {
        self.plug.flush();
    }
}

impl net::Uplink for Uplink {
    fn plug(&self, guest: Rc<dyn FrameSink>) {
        self.plug.attach(self.policy, self.ip, false, guest);
    }

    fn unplug(&self) {
        self.plug.detach();
    }
}
