//! How an interface gets its address: by DHCP, or as written down.

use core::fmt;
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// What to configure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Ask a DHCP server, for as long as it takes.
    Dhcp,
    /// This.
    Static(Address),
}

/// An address and the way out of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Own address and the length of the network's prefix.
    pub cidr: Ipv4Cidr,
    /// Where to send what is not for the own network.
    pub gateway: Option<Ipv4Address>,
    /// A name server.
    pub dns: Option<Ipv4Address>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        Ok(())
    }
}

/// An `ip=` that is neither `dhcp` nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

impl Addressing {
    /// Reads the value of an `ip=` option: `dhcp`, `ADDRESS[/PREFIX][,GATEWAY[,DNS]]`, or Linux's
    /// `CLIENT:SERVER:GATEWAY:NETMASK:…`. A prefix that is not given is 24.
    pub fn parse(value: &str) -> Result<Self, BadAddress> {
        if matches!(value, "dhcp" | "auto" | ":::::dhcp") {
            return Ok(Addressing::Dhcp);
        }
        let optional = |text: Option<&str>| match text {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| BadAddress),
        };
        if value.contains(':') {
            let mut fields = value.split(':');
            let address: Ipv4Address = fields.next().unwrap_or("").parse().map_err(|_| BadAddress)?;
            let gateway = optional(fields.nth(1))?;
            let mask: Option<Ipv4Address> = optional(fields.next())?;
            let prefix = match mask {
                None => 24,
                Some(mask) => {
                    let bits = u32::from_be_bytes(mask.octets());
                    if bits.leading_ones() + bits.trailing_zeros() < 32 {
                        return Err(BadAddress);
                    }
                    bits.leading_ones() as u8
                }
            };
            return Ok(Addressing::Static(Address {
                cidr: Ipv4Cidr::new(address, prefix),
                gateway,
                dns: None,
            }));
        }
        let mut fields = value.split(',');
        let own = fields.next().unwrap_or("");
        let (address, prefix) = match own.split_once('/') {
            None => (own, 24),
            Some((address, prefix)) => (address, prefix.parse().map_err(|_| BadAddress)?),
        };
        let address: Ipv4Address = address.parse().map_err(|_| BadAddress)?;
        if prefix > 32 {
            return Err(BadAddress);
        }
        let (gateway, dns) = (optional(fields.next())?, optional(fields.next())?);
        Ok(Addressing::Static(Address { cidr: Ipv4Cidr::new(address, prefix), gateway, dns }))
    }

    /// The `ip=` option of a kernel command line, if there is one, with `gw=` and `dns=` beside it.
    pub fn from_cmdline(cmdline: &str) -> Option<Result<Self, BadAddress>> {
        let value = |key: &str| {
            cmdline
                .split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
                .next_back()
        };
        let parsed = Self::parse(value("ip")?);
        let more = || {
            let Addressing::Static(mut address) = parsed? else { return parsed };
            for (key, field) in [("gw", &mut address.gateway), ("dns", &mut address.dns)] {
                if let Some(text) = value(key) {
                    *field = Some(text.parse().map_err(|_| BadAddress)?);
                }
            }
            Ok(Addressing::Static(address))
        };
        Some(more())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    fn fixed(address: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Addressing {
        let [a, b, c, d] = address;
        Addressing::Static(Address {
            cidr: Ipv4Cidr::new(Ipv4Address::new(a, b, c, d), prefix),
            gateway: gateway.map(|[a, b, c, d]| Ipv4Address::new(a, b, c, d)),
            dns: None,
        })
    }

    #[test]
    fn reads_every_form() {
        let ours = [10, 0, 2, 20];
        let gateway = Some([10, 0, 2, 2]);
        for (text, meant) in [
            ("dhcp", Addressing::Dhcp),
            ("10.0.2.20", fixed(ours, 24, None)),
            ("10.0.2.20/16", fixed(ours, 16, None)),
            ("10.0.2.20/16,10.0.2.2", fixed(ours, 16, gateway)),
            ("10.0.2.20::10.0.2.2:255.255.255.0:web:eth0:off", fixed(ours, 24, gateway)),
            ("10.0.2.20:::255.255.240.0", fixed(ours, 20, None)),
        ] {
            assert_eq!(Addressing::parse(text), Ok(meant), "{text}");
            let cmdline = format!("console=hvc0 ip={text} quiet");
            assert_eq!(Addressing::from_cmdline(&cmdline), Some(Ok(meant)));
        }
        for bad in
            ["", "x", "1.2.3", "1.2.3.4/33", "1.2.3.4/x", "1.2.3.4,y", "1.2.3.4:::255.0.255.0", ":1", "/"]
        {
            assert_eq!(Addressing::parse(bad), Err(BadAddress), "{bad}");
        }
        assert_eq!(Addressing::from_cmdline("console=hvc0 zip=1"), None);
        let cmdline = "ip=10.0.2.20/16 gw=10.0.2.2 port=80";
        assert_eq!(Addressing::from_cmdline(cmdline), Some(Ok(fixed(ours, 16, gateway))));
        assert_eq!(Addressing::from_cmdline("ip=10.0.2.20 gw=home"), Some(Err(BadAddress)));
        assert_eq!(Addressing::from_cmdline("ip=1.2.3.4 ip=dhcp gw=x"), Some(Ok(Addressing::Dhcp)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9./:,a-z]{0,40}") {
            let _ = Addressing::parse(&text);
        }
    }
}
