//! A domain's devices: `block-list` and `network-list` say what xenstore says of them, `block-attach`,
//! `block-detach` and their like for the network change them.

use super::{Answer, Args, Outcome, Shell};
use crate::toolstack::config::disk::{self, Disk};
use crate::toolstack::config::vif::{Mac, Vif};
use crate::toolstack::devices::KINDS;
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
            // The frontend's directory is the guest's: what is printed as text comes from dom0's own record.
            let record = format!("/libxl/{}/device/{kind}/{name}/backend", domain.0);
            let backend = self.manager.store.read_text(&record).unwrap_or_default();
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
                let mac =
                    self.manager.store.read_text(&format!("{}/mac", device.backend)).unwrap_or_default();
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

    pub(super) async fn block_attach(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "attach a disk to")?;
        let disk = Disk::parse(&args.words[1..].join(","))?;
        self.manager.attach_disk(domain, &disk).await?;
        Ok(Answer::new("", json!({ "domain": domain.0, "vdev": disk.number })))
    }

    pub(super) async fn block_detach(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "detach a disk from")?;
        let name = args.word(1);
        let number =
            disk::number(name).ok_or_else(|| format!("\"{name}\" is no device name such as xvda"))?;
        self.manager.detach(domain, "vbd", number, args.has('f')).await?;
        Ok(Answer::done())
    }

    pub(super) async fn network_attach(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "attach a network interface to")?;
        let vif = Vif::parse(&args.words[1..].join(","))?;
        let index = self.manager.attach_vif(domain, &vif).await?;
        Ok(Answer::new("", json!({ "domain": domain.0, "index": index })))
    }

    pub(super) async fn network_detach(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "detach a network interface from")?;
        let word = args.word(1);
        let index = match Mac::parse(word) {
            Some(_) => {
                let has = |device: &Device| {
                    let mac = self.manager.store.read_text(&format!("{}/mac", device.backend));
                    mac.is_some_and(|mac| mac.eq_ignore_ascii_case(word))
                };
                self.devices(domain, "vif").into_iter().find(has).map(|device| device.number)
            }
            None => word.parse::<u32>().ok().map(i64::from),
        };
        let index = index.and_then(|index| u32::try_from(index).ok());
        let index = index.ok_or_else(|| format!("\"{word}\" is no interface of the domain"))?;
        self.manager.detach(domain, "vif", index, args.has('f')).await?;
        Ok(Answer::done())
    }

    pub(super) async fn backend_restart(&self, args: &Args<'_>) -> Outcome {
        let domain = self.guest(args.word(0), "restart the backends of")?;
        let wanted = args.words.get(1).copied();
        if let Some(kind) = wanted.filter(|kind| !KINDS.contains(kind)) {
            return Err(format!("\"{kind}\" is neither vbd nor vif"));
        }
        let (mut text, mut list) = (String::new(), Vec::new());
        for kind in KINDS.into_iter().filter(|kind| wanted.is_none_or(|wanted| wanted == *kind)) {
            for device in self.devices(domain, kind) {
                let Ok(id) = u32::try_from(device.number) else { continue };
                self.manager.restart_backend(domain, kind, id).await?;
                text += &format!("{kind} {id}: connected to another backend\n");
                list.push(json!({ "kind": kind, "id": id }));
            }
        }
        Ok(Answer::new(text, json!(list)))
    }
}
