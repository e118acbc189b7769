//! The services an image can hold, as their `images/NAME.cfg` describe them.
//!
//! A service's address and port are words of its kernel command line (`ip=10.0.2.20/24 port=80` in the
//! configuration's `extra`): the guest reads them there, and so does this program to forward a port of
//! the host to it.

use anyhow::{Result, bail};

use crate::{cmd, paths};

/// A network service in a guest.
pub struct Service {
    /// Its name: its package's, its configuration's and its domain's.
    pub name: String,
    /// The guest's IPv4 address.
    pub address: String,
    /// The TCP port it listens on.
    pub port: u16,
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
            80 => format!("http://127.0.0.1:{}/", self.host_port),
            _ => format!("127.0.0.1:{}", self.host_port),
        }
    }
}

impl Service {
    /// The host's port when none is asked for: the guest's, or 8000 above it where that needs root.
    fn usual_host_port(&self) -> u16 {
        if self.port < 1024 { self.port + 8000 } else { self.port }
    }
}

/// Every service that has a configuration with an address and a port.
pub fn all() -> Result<Vec<Service>> {
    let dir = paths::root().join("images");
    let mut services = Vec::new();
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "cfg") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let auto = dir.join("auto").join(format!("{name}.cfg")).exists();
        services.extend(parse(name, auto, &String::from_utf8_lossy(&cmd::read(&path)?)));
    }
    services.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(services)
}

fn parse(name: String, auto: bool, config: &str) -> Option<Service> {
    let extra =
        config.lines().find_map(|line| line.trim().strip_prefix("extra")?.trim().strip_prefix('='))?;
    let word =
        |key: &str| extra.trim().trim_matches(['"', '\'']).split(' ').find_map(|w| w.strip_prefix(key));
    let address = word("ip=")?.split('/').next()?.to_string();
    Some(Service { name, address, port: word("port=")?.parse().ok()?, auto })
}

/// The ports to forward: of each service that starts by itself, and of each that `asked` names.
///
/// # Errors
/// A name in `asked` that is no service; two services on one port.
pub fn forwards(services: &[Service], asked: &[(String, u16)]) -> Result<Vec<Forward>> {
    for (name, _) in asked {
        if !services.iter().any(|s| s.name == *name) {
            let known: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
            bail!("--port {name}: no such service; there are {}", known.join(", "));
        }
    }
    let forward = |service: &Service| {
        let asked = asked.iter().rev().find(|(name, _)| *name == service.name).map(|(_, port)| *port);
        let host_port = asked.or(service.auto.then(|| service.usual_host_port()))?;
        let Service { name, address, port, .. } = service;
        Some(Forward { name: name.clone(), host_port, address: address.clone(), port: *port })
    };
    let forwards: Vec<Forward> = services.iter().filter_map(forward).collect();
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

    #[test]
    fn a_service_is_forwarded_when_it_starts_by_itself_or_is_asked_for() {
        let web = parse("web".into(), true, "name = \"web\"\nextra = \"ip=10.0.2.20/24 port=80\"\n");
        let hello = parse("hello".into(), false, "extra=\"ip=10.0.2.22/24 port=7777\"");
        let services = [web.expect("address and port"), hello.expect("address and port")];
        let ports = |asked: &[(String, u16)]| -> Vec<u16> {
            forwards(&services, asked).expect("known").iter().map(|f| f.host_port).collect()
        };
        assert_eq!(ports(&[]), [8080]);
        assert_eq!(ports(&[("web".into(), 9090), ("hello".into(), 7000)]), [9090, 7000]);
        assert!(forwards(&services, &[("wbe".into(), 1)]).is_err());
        assert!(forwards(&services, &[("hello".into(), 8080)]).is_err(), "web has it");
        assert!(parse("x".into(), true, "name = \"x\"\n").is_none());
    }
}
