//! The network services in guests, as the guests' `xl.cfg` files describe them.
//!
//! A service's address and port are words of its kernel command line (`ip=10.0.2.20/24 port=80` in the
//! configuration's `extra`): the guest reads them there, and so does this program to forward a port of
//! the host to it. A guest that gets its address elsewhere has it in the `ip=` of its `vif`.

pub mod crowd;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::build::ramdisk::Added;
use crate::{cmd, paths};

/// A network service in a guest.
pub struct Service {
    /// Its name: its package's, its configuration's and its domain's.
    pub name: String,
    /// The guest's IPv4 address.
    pub address: String,
    /// The TCP port it listens on, if its configuration tells.
    pub port: Option<u16>,
    /// dom0 starts it by itself.
    pub auto: bool,
}

/// A TCP port of this host's loopback that leads to a service.
#[derive(Clone)]
pub struct Forward {
    /// The service's name.
    pub name: String,
    /// The port on 127.0.0.1.
    pub host_port: u16,
    /// The guest's address.
    pub address: String,
    /// The port in the guest.
    pub port: u16,
}

impl Forward {
    /// What a person would type to use it.
    pub fn shown(&self) -> String {
        match self.port {
            22 => format!("ssh://root@127.0.0.1:{}", self.host_port),
            80 => format!("http://127.0.0.1:{}/", self.host_port),
            _ => format!("127.0.0.1:{}", self.host_port),
        }
    }
}

/// A forwarded port that a user asks for: `SERVICE=PORT`, or `SERVICE=PORT:GUESTPORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The service's name.
    pub name: String,
    /// The port on 127.0.0.1.
    pub host_port: u16,
    /// The port in the guest, if it is another than the service's own.
    pub port: Option<u16>,
}

impl Asked {
    /// Reads it as it was typed.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like web=9090, or debian=8000:80 for the guest's port 80";
        let (name, ports) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(FORM)?;
        let port = |text: &str| {
            text.parse::<u16>().ok().filter(|&p| p != 0).ok_or("a port is a number from 1 to 65535")
        };
        let (host, guest) = ports.split_once(':').map_or((ports, None), |(host, guest)| (host, Some(guest)));
        Ok(Self { name: name.into(), host_port: port(host)?, port: guest.map(port).transpose()? })
    }
}

/// Every service that has a configuration with an address.
pub fn all() -> Result<Vec<Service>> {
    with(&[])
}

/// [`all`], and those whose configurations are `added` to dom0's.
pub fn with(added: &[Added]) -> Result<Vec<Service>> {
    let dir = paths::root().join("images");
    let mut configs: Vec<(String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        configs
            .extend(stem(&path.file_name().unwrap_or_default().to_string_lossy()).map(|name| (name, path)));
    }
    let added_in = |folder: &'static str| {
        added
            .iter()
            .filter_map(move |added| Some((stem(added.path.strip_prefix(folder)?)?, added.file.clone())))
    };
    // the last one of a name counts
    configs.extend(added_in("etc/xen/").chain(added_in("etc/xen/auto/")));
    let mut services: Vec<Service> = Vec::new();
    for (name, file) in configs {
        let auto = dir.join("auto").join(format!("{name}.cfg")).exists()
            || added_in("etc/xen/auto/").any(|(other, _)| other == name);
        let config = cmd::read(&file)?;
        services.retain(|other| other.name != name);
        services.extend(parse(name, auto, &String::from_utf8_lossy(&config)));
    }
    services.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(services)
}

/// The name in `NAME.cfg`.
fn stem(file: &str) -> Option<String> {
    file.strip_suffix(".cfg").filter(|name| !name.contains('/')).map(String::from)
}

fn parse(name: String, auto: bool, config: &str) -> Option<Service> {
    let word = |key: &str| {
        let lines = config.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut words = lines.flat_map(|line| line.split([' ', '\t', ',', '"', '\'', '[', ']']));
        words.find_map(|word| word.strip_prefix(key))
    };
    let address: Ipv4Addr = word("ip=")?.split(['/', ':']).next()?.parse().ok()?;
    Some(Service {
        name,
        address: address.to_string(),
        port: word("port=").and_then(|p| p.parse().ok()),
        auto,
    })
}

/// The ports to forward: of each service that starts by itself, and of each that is `asked` for. The last one for a
/// guest's port counts.
///
/// # Errors
/// A name in `asked` that is no service; two services on one port.
pub fn forwards(services: &[Service], asked: &[Asked]) -> Result<Vec<Forward>> {
    let mut forwards: Vec<Forward> = Vec::new();
    let mut add = |service: &Service, host_port, port| {
        let Service { name, address, .. } = service;
        forwards.retain(|other| (&other.name, other.port) != (name, port));
        forwards.push(Forward { name: name.clone(), host_port, address: address.clone(), port });
    };
    for service in services.iter().filter(|service| service.auto) {
        if let Some(port) = service.port {
            // 8000 above the guest's where that needs root
            add(service, if port < 1024 { port + 8000 } else { port }, port);
        }
    }
    for Asked { name, host_port, port } in asked {
        let Some(service) = services.iter().find(|service| service.name == *name) else {
            let known: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
            bail!(
                "--port {name}: no configuration of that name has an address; there are {}",
                known.join(", ")
            );
        };
        let no_port =
            || format!("--port {name}: its configuration names no port: write {name}={host_port}:PORT");
        add(service, *host_port, port.or(service.port).with_context(no_port)?);
    }
    for (n, one) in forwards.iter().enumerate() {
        if let Some(other) = forwards[..n].iter().find(|other| other.host_port == one.host_port) {
            bail!("port {} cannot lead to both {} and {}", one.host_port, other.name, one.name);
        }
    }
    Ok(forwards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(texts: &[&str]) -> Vec<Asked> {
        texts.iter().map(|text| Asked::parse(text).expect("a port")).collect()
    }

    #[test]
    fn a_service_is_forwarded_when_it_starts_by_itself_or_is_asked_for() {
        let web = parse("web".into(), true, "name = \"web\"\nextra = \"ip=10.0.2.20/24 port=80\"\n");
        let hello = parse("hello".into(), false, "extra=\"ip=10.0.2.22/24 port=7777\"");
        let linux = parse("linux".into(), false, "# ip=1.2.3.4\nvif = [ 'mac=x,ip=10.0.2.99' ]\n");
        let services = [web, hello, linux].map(|service| service.expect("an address"));
        let ports = |texts: &[&str]| -> Vec<(u16, String, u16)> {
            let forwards = forwards(&services, &asked(texts)).expect("known");
            forwards.into_iter().map(|f| (f.host_port, f.address, f.port)).collect()
        };
        let web = |port| (port, "10.0.2.20".to_string(), 80);
        assert_eq!(ports(&[]), [web(8080)]);
        assert_eq!(ports(&["web=9090", "hello=7000"]), [web(9090), (7000, "10.0.2.22".into(), 7777)]);
        assert_eq!(ports(&["web=1000", "web=9090"]), [web(9090)]);
        let linux = |host, port| (host, "10.0.2.99".to_string(), port);
        assert_eq!(ports(&["linux=2222:22", "linux=81:80"]), [web(8080), linux(2222, 22), linux(81, 80)]);
        for wrong in [&["wbe=1"][..], &["hello=8080"], &["linux=2222"], &["linux=1:2", "linux=1:3"]] {
            assert!(forwards(&services, &asked(wrong)).is_err(), "{wrong:?}");
        }
        assert!(parse("x".into(), true, "name = \"x\"\nextra = \"ip=dhcp port=80\"").is_none());
    }

    #[test]
    fn a_port_is_checked_before_anything_is_built() {
        let parsed = Asked::parse("web=9090:80").expect("ports");
        assert_eq!(parsed, Asked { name: "web".into(), host_port: 9090, port: Some(80) });
        for bad in
            ["web", "web=", "=80", "web=0", "web=65536", "web=x", "web=-1", "web=1:", "web=:1", "web=1:0"]
        {
            assert!(Asked::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configuration_that_is_added_takes_the_place_of_ours() {
        let added = |path: &str, name: &str| Added {
            path: path.into(),
            file: paths::root().join("images").join(name),
        };
        let auto = with(&[added("etc/xen/auto/mine.cfg", "web.cfg"), added("etc/xen/web.cfg", "kv.cfg")]);
        let auto = auto.expect("read");
        let find = |name: &str| auto.iter().find(|service| service.name == name).expect(name);
        assert_eq!((find("mine").address.as_str(), find("mine").auto), ("10.0.2.20", true));
        assert_eq!((find("web").address.as_str(), find("web").port), ("10.0.2.21", Some(6379)));
        assert!(with(&[added("boot/x.cfg", "web.cfg")]).expect("read").iter().all(|s| s.name != "x"));
    }
}
