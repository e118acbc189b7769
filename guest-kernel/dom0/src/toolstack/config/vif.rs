//! One entry of `vif`, as docs/man/xl-network-configuration.5 defines it.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(
    /// Its bytes, in the order of transmission.
    pub [u8; 6],
);

impl Mac {
    /// The address of interface `index` of the domain `uuid`, in Xen's own range.
    pub fn derived(uuid: &[u8; 16], index: u8) -> Mac {
        // FNV-1a: two domains of one machine are unlikely to meet, and the same domain keeps its address.
        let hash = uuid
            .iter()
            .chain([&index])
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, d] = hash.to_be_bytes();
        Mac([0x00, 0x16, 0x3e, (a ^ d) & 0x7f, b, c])
    }

    /// Reads `aa:bb:cc:dd:ee:ff`.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A limit on what a guest may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Bytes per interval.
    pub bytes: u64,
    /// Length of the interval in microseconds.
    pub interval: u32,
}

/// A network interface that the domain is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vif {
    /// Its address; derived from the domain's uuid if not given.
    pub mac: Option<Mac>,
    /// The bridge it hangs on.
    pub bridge: String,
    /// The address that the guest is told, in its own terms.
    pub ip: Option<String>,
    /// A limit on its sending.
    pub rate: Option<Rate>,
}

impl Vif {
    /// Reads one entry; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Vif, String> {
        let mut vif = Vif { mac: None, bridge: "xenbr0".to_owned(), ip: None, rate: None };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if ["trusted", "untrusted"].contains(&part) {
                continue;
            }
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("\"{part}\" is not of the form key=value"))?;
            match key.trim() {
                "mac" => {
                    let mac =
                        Mac::parse(value).ok_or_else(|| format!("\"{value}\" is no Ethernet address"))?;
                    if mac.0[0] & 1 != 0 {
                        return Err(format!("\"{value}\" is a multicast address"));
                    }
                    vif.mac = Some(mac);
                }
                "bridge" => vif.bridge = value.into(),
                "ip" => vif.ip = Some(value.into()),
                "rate" => vif.rate = Some(rate(value)?),
                "backend" if !["0", "Domain-0"].contains(&value) => {
                    return Err(format!("backend \"{value}\" is not supported, only dom0"));
                }
                "mtu" if value != "1500" => return Err(format!("mtu {value} is not supported, only 1500")),
                "type" | "model" | "script" | "vifname" | "backend" | "gatewaydev" | "devid" | "mtu"
                | "trusted" => {}
                key => return Err(format!("unknown vif parameter \"{key}\"")),
            }
        }
        Ok(vif)
    }
}

/// Reads a rate such as `10Mb/s` or `250KB/s@20ms`.
fn rate(text: &str) -> Result<Rate, String> {
    let bad = || format!("\"{text}\" is no rate such as 10Mb/s or 250KB/s@20ms");
    let (amount, interval) = text.split_once('@').unwrap_or((text, "50ms"));
    let amount = amount.strip_suffix("/s").ok_or_else(bad)?;
    let (amount, bits) = match amount.strip_suffix('b') {
        Some(rest) => (rest, 8),
        None => (amount.strip_suffix('B').ok_or_else(bad)?, 1),
    };
    let (digits, factor) = scaled(amount, &[("G", 1_000_000_000), ("M", 1_000_000), ("K", 1000), ("", 1)]);
    let (time, unit) = scaled(interval, &[("us", 1), ("ms", 1000), ("s", 1_000_000)]);
    let per_second = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)? / bits;
    let interval = time.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)?;
    let interval = u32::try_from(interval).ok().filter(|interval| *interval > 0).ok_or_else(bad)?;
    let bytes = u128::from(per_second) * u128::from(interval) / 1_000_000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(|bytes| Rate { bytes, interval }).ok_or_else(bad)
}

fn scaled<'a>(text: &'a str, units: &[(&str, u64)]) -> (&'a str, u64) {
    units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor))).unwrap_or((text, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_entry_is_read() {
        let vif = Vif::parse("mac=00:16:3e:01:02:03, bridge=br1,ip=10.0.0.2,rate=10Mb/s").unwrap();
        assert_eq!(vif.mac.unwrap().to_string(), "00:16:3e:01:02:03");
        assert_eq!((vif.bridge.as_str(), vif.ip.as_deref()), ("br1", Some("10.0.0.2")));
        assert_eq!(vif.rate, Some(Rate { bytes: 62500, interval: 50000 }));
        assert!(Vif::parse("script=vif-bridge,vifname=a,type=vif,mtu=1500,backend=0,untrusted").is_ok());
        assert_eq!(Vif::parse("").unwrap().bridge, "xenbr0");
        assert_eq!(rate("250KB/s@20ms"), Ok(Rate { bytes: 5000, interval: 20000 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("mac=1", "\"1\""),
            ("mac=01:16:3e:00:00:01", "multicast"),
            ("mca=x", "\"mca\""),
            ("x", "\"x\""),
            ("rate=10", "\"10\""),
            ("backend=driver", "\"driver\""),
            ("mtu=9000", "9000"),
            ("rate=99999999999999999999Gb/s", "rate"),
            ("rate=1b/s@0s", "rate"),
        ] {
            let error = Vif::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_derived_address_is_unicast_and_follows_uuid_and_index() {
        let macs: Vec<Mac> = (0..=255).map(|n| Mac::derived(&[7; 16], n)).collect();
        assert!(macs.iter().all(|mac| mac.0[..3] == [0, 0x16, 0x3e]));
        assert_eq!(Mac::derived(&[7; 16], 0), macs[0]);
        let distinct: alloc::collections::BTreeSet<_> = macs.iter().map(|mac| mac.0).collect();
        assert_eq!(distinct.len(), 256);
    }
    use alloc::vec::Vec;
}
