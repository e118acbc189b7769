//! `block-list` and `network-list`: what xenstore says of a domain's devices.

use super::{Answer, Args, Outcome, Shell};
use crate::toolstack::hypervisor::Hypervisor;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::json;
use shared_abi::DomId;

/// One device as its directories describe it.
struct Device {
    number: i64,
    front: String,
    backend: String,
    backend_id: i64,
    state: i64,
    port: i64,
}

impl<H: Hypervisor> Shell<H> {
    /// A number in xenstore; -1 if there is none, as xl shows it.
    fn number(&self, path: &str) -> i64 {
        self.manager.store.read_text(path).and_then(|text| text.parse().ok()).unwrap_or(-1)
    }

    fn devices(&self, domain: DomId, kind: &str) -> Vec<Device> {
        let above = format!("/local/domain/{}/device/{kind}", domain.0);
        let names = self.manager.store.directory(&above).unwrap_or_default();
        let device = |name: &String| {
            let front = format!("{above}/{name}");
            let backend = self.manager.store.read_text(&format!("{front}/backend")).unwrap_or_default();
            Device {
                number: name.parse().unwrap_or(-1),
                backend_id: self.number(&format!("{front}/backend-id")),
                state: self.number(&format!("{front}/state")),
                port: self.number(&format!("{front}/event-channel")),
                front,
                backend,
            }
        };
        names.iter().map(device).collect()
    }

    pub(super) fn block_list(&self, args: &Args<'_>) -> Outcome {
        let mut text = format!(
            "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}\n",
            "Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"
        );
        let mut list = Vec::new();
        for word in &args.words {
            let domain = self.domain(word)?;
            for device in self.devices(domain, "vbd") {
                let Device { number, backend_id, state, port, .. } = device;
                let ring = self.number(&format!("{}/ring-ref", device.front));
                text += &format!(
                    "{number:<5} {backend_id:<3} {domain:<6} {state:<5} {port:<6} {ring:<8} {:<30}\n",
                    device.backend,
                    domain = domain.0
                );
                list.push(json!({
                    "domain": domain.0, "vdev": number, "backend_id": backend_id, "state": state,
                    "event_channel": port, "ring_ref": ring, "backend": device.backend,
                }));
            }
        }
        Ok(Answer::new(text, json!(list)))
    }

    pub(super) fn network_list(&self, args: &Args<'_>) -> Outcome {
        let mut text = format!(
            "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}\n",
            "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
        );
        let mut list = Vec::new();
        for word in &args.words {
            let domain = self.domain(word)?;
            for device in self.devices(domain, "vif") {
                let Device { number, backend_id, state, mut port, .. } = device;
                if port < 0 {
                    port = self.number(&format!("{}/event-channel-tx", device.front));
                }
                let mac = self.manager.store.read_text(&format!("{}/mac", device.front)).unwrap_or_default();
                let handle = self.number(&format!("{}/handle", device.front));
                let tx = self.number(&format!("{}/tx-ring-ref", device.front));
                let rx = self.number(&format!("{}/rx-ring-ref", device.front));
                text += &format!(
                    "{number:<3} {backend_id:<2} {mac:<17} {handle:6} {state:5} {port:6} {tx:5}/{rx:<11} {:<30}\n",
                    device.backend
                );
                list.push(json!({
                    "domain": domain.0, "index": number, "mac": mac, "backend_id": backend_id, "handle": handle,
                    "state": state, "event_channel": port, "tx_ring_ref": tx, "rx_ring_ref": rx, "backend": device.backend,
                }));
            }
        }
        Ok(Answer::new(text, json!(list)))
    }
}
