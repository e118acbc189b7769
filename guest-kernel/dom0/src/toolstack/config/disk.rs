//! One entry of `disk`, as docs/man/xl-disk-configuration.5 defines it: positional
//! (`phy:/dev/data,xvda,w` or `/dev/data,raw,xvda,rw`), by name (`target=, format=, vdev=, access=`) or both.

use alloc::format;
use alloc::string::String;

/// A disk that the domain is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// The volume, without a `phy:` prefix.
    pub target: String,
    /// The guest's name for it.
    pub vdev: String,
    /// The guest's number for it, as it stands in its xenstore path.
    pub number: u32,
    /// Whether the guest may write.
    pub writable: bool,
}

/// Flags without effect here: dom0's backend discards where the disk can, and copies nothing behind a guest's back.
const DEFAULTS: [&str; 5] = ["discard", "no-discard", "direct-io-safe", "trusted", "untrusted"];

impl Disk {
    /// Reads one entry; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Disk, String> {
        let (mut target, mut vdev, mut writable) = (None, None, None);
        let mut positional = 0;
        for part in text.split(',') {
            let part = part.trim();
            // A target given by name takes the rest of the entry, commas included.
            if let Some(at) = part.strip_prefix("target=").map(|_| text.find("target=").unwrap_or(0) + 7) {
                target = Some(text[at..].trim());
                break;
            }
            match part.split_once('=') {
                Some(("vdev", name)) => vdev = Some(name),
                Some(("access", mode)) => writable = Some(access(mode)?),
                Some(("format", format)) => check_format(format)?,
                Some(("backendtype", "phy") | ("backend", "0" | "Domain-0") | ("devtype", "disk")) => {}
                Some(("devtype", "cdrom")) => writable = Some(false),
                Some(("backendtype", other)) => {
                    return Err(format!("disk backend \"{other}\" is not supported, only \"phy\""));
                }
                Some((key, _)) if positional > 0 || !part.starts_with('/') => {
                    return Err(format!("unknown disk parameter \"{key}\""));
                }
                None if DEFAULTS.contains(&part) => {}
                None if part == "cdrom" => writable = Some(false),
                _ => {
                    match positional {
                        0 => target = Some(part),
                        _ if vdev.is_none() && number(part.split(':').next().unwrap_or("")).is_some() => {
                            vdev = Some(part.split(':').next().unwrap_or(""));
                            if part.ends_with(":cdrom") {
                                writable = Some(false);
                            }
                        }
                        1 => check_format(part)?,
                        _ if writable.is_none() && vdev.is_some() => writable = Some(access(part)?),
                        _ => return Err(format!("\"{part}\" is no device name such as xvda")),
                    }
                    positional += 1;
                }
            }
        }
        let target = target.map(|target| target.strip_prefix("phy:").unwrap_or(target)).unwrap_or("");
        if target.is_empty() {
            return Err("a disk needs a target".into());
        }
        if let Some((prefix @ ("file" | "tap" | "tap2" | "aio"), _)) = target.split_once(':') {
            return Err(format!("disk target \"{prefix}:\" is not supported, only \"phy:\""));
        }
        let vdev = vdev.ok_or("a disk needs a vdev, such as xvda")?;
        let number = number(vdev).ok_or_else(|| format!("\"{vdev}\" is no device name such as xvda"))?;
        Ok(Disk { target: target.into(), vdev: vdev.into(), number, writable: writable.unwrap_or(true) })
    }
}

fn access(mode: &str) -> Result<bool, String> {
    match mode {
        "r" | "ro" => Ok(false),
        "w" | "rw" => Ok(true),
        other => Err(format!("disk access \"{other}\" is none of r, ro, w, rw")),
    }
}

fn check_format(format: &str) -> Result<(), String> {
    match format {
        "" | "raw" => Ok(()),
        "qcow" | "qcow2" | "vhd" | "qed" => {
            Err(format!("disk format \"{format}\" is not supported, only \"raw\""))
        }
        other => Err(format!("unknown disk format \"{other}\"")),
    }
}

/// The virtual device number of a name, by docs/man/xen-vbd-interface.7.
pub fn number(vdev: &str) -> Option<u32> {
    if vdev.starts_with(|c: char| c.is_ascii_digit()) {
        return super::syntax::integer(vdev)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|n| *n < 1 << 29);
    }
    let (kind, rest) = ["xvd", "hd", "sd"].iter().find_map(|kind| Some((*kind, vdev.strip_prefix(kind)?)))?;
    let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (name, partition) = rest.split_at(letters);
    if name.is_empty() || name.len() > 3 || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let disk = name.bytes().fold(0u32, |disk, byte| disk * 26 + u32::from(byte - b'a') + 1) - 1;
    let partition: u32 = if partition.is_empty() { 0 } else { partition.parse().ok().filter(|p| *p > 0)? };
    match kind {
        "xvd" if disk < 16 && partition < 16 => Some(202 << 8 | disk << 4 | partition),
        "xvd" if disk < 1 << 20 && partition < 256 => Some(1 << 28 | disk << 8 | partition),
        "sd" if disk < 16 && partition < 16 => Some(8 << 8 | disk << 4 | partition),
        "hd" if disk < 2 && partition < 64 => Some(3 << 8 | disk << 6 | partition),
        "hd" if disk < 4 && partition < 64 => Some(22 << 8 | (disk - 2) << 6 | partition),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn both_forms_are_read() {
        let disk = |target: &str, number, writable| {
            Ok(Disk { target: target.to_string(), vdev: "xvda".into(), number, writable })
        };
        assert_eq!(Disk::parse("phy:/dev/data,xvda,w"), disk("/dev/data", 51712, true));
        assert_eq!(Disk::parse("/dev/data,raw,xvda,ro"), disk("/dev/data", 51712, false));
        assert_eq!(Disk::parse("/dev/data, , xvda , rw"), disk("/dev/data", 51712, true));
        assert_eq!(Disk::parse("vdev=xvda, access=r, format=raw, target=web,1"), disk("web,1", 51712, false));
        assert_eq!(Disk::parse("phy:data,xvda:cdrom"), disk("data", 51712, false));
        assert_eq!(Disk::parse("/dev/data,vdev=xvda"), disk("/dev/data", 51712, true));
        assert_eq!(Disk::parse("phy:/dev/data,xvda,w,discard,trusted"), disk("/dev/data", 51712, true));
        let named = "format=raw, devtype=cdrom, backend=0, direct-io-safe, vdev=xvda, target=/dev/data";
        assert_eq!(Disk::parse(named), disk("/dev/data", 51712, false));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, part) in [
            ("", "needs a target"),
            ("phy:/dev/x", "needs a vdev"),
            ("/dev/x,qcow2,xvda,w", "\"qcow2\""),
            ("file:/x.img,xvda,w", "\"file:\""),
            ("phy:/dev/x,xvda,q", "\"q\""),
            ("phy:/dev/x,floppy,w", "\"floppy\""),
            ("colour=red,target=x", "\"colour\""),
            ("vdev=zzz,target=x", "\"zzz\""),
        ] {
            let error = Disk::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn device_numbers_are_those_of_the_interface() {
        for (name, value) in [
            ("xvda", 51712),
            ("xvdb3", 51731),
            ("xvdp15", 51967),
            ("xvdq", 268439552),
            ("xvdaa", 268442112),
            ("sda1", 2049),
            ("hdb", 832),
            ("hdc", 5632),
            ("51712", 51712),
        ] {
            assert_eq!(number(name), Some(value), "{name}");
        }
        for bad in ["", "xvd", "xvda0", "xvdA", "sdz", "hde", "xvdaaaa", "xvda999", "0x100000000"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
