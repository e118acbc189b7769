//! How large dom0 is, from the words of the hypervisor's command line.

/// Bytes of `SIZE`: digits and a unit (B, K, M, G, T), K without one.
fn bytes(size: &str) -> Option<u64> {
    let unit = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (digits, unit) = size.split_at(unit);
    let shift = match unit {
        "B" | "b" => 0,
        "" | "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Frames of one amount of `dom0_mem`: `SIZE`, `N%` of the `free` ones, `SIZE+N%`; behind a minus, what is left without
/// so many.
fn amount(text: &str, free: u64) -> Option<u64> {
    let (is_rest, sum) = text.strip_prefix('-').map_or((false, text), |sum| (true, sum));
    let (mut n, mut parts) = (0u64, 0);
    for part in sum.split('+') {
        let frames = match part.strip_suffix('%') {
            Some(percent) => free * percent.parse::<u64>().ok().filter(|percent| *percent < 100)? / 100,
            None => bytes(part)? >> 12,
        };
        n = n.checked_add(frames)?;
        parts += 1;
    }
    (parts <= 2).then_some(if is_rest { free.saturating_sub(n) } else { n })
}

/// Frames for dom0, and how many it may have later: `dom0_mem=AMOUNT` (`min:`, `max:` are limits), else all but a
/// sixteenth, at least 128 MiB less. Without a `max:` it may take what there is.
pub fn frames(dom0_mem: &str, free: u64) -> (u64, u64) {
    let all = free - (free / 16).min(128 << 8);
    let (mut n, mut min, mut max) = (all, 0, u32::MAX.into());
    for part in dom0_mem.split(',') {
        let (name, value) = part.split_once(':').unwrap_or(("", part));
        if let Some(pages) = amount(value, free) {
            match name {
                "min" => min = pages,
                "max" => max = pages,
                _ => n = pages,
            }
        }
    }
    let (min, most) = (min.min(all), max.min(all));
    (n.clamp(min, most.max(min)), max)
}

/// Vcpus for dom0, which gets one for each CPU: `dom0_max_vcpus=N` is how many, `MIN-MAX` (each may be left out) the
/// limits. More than 32 have no place in the shared info page.
pub fn vcpus(dom0_max_vcpus: &str, cpus: u32) -> u32 {
    let (min, max) = dom0_max_vcpus.split_once('-').unwrap_or((dom0_max_vcpus, dom0_max_vcpus));
    let limit = |s: &str, default| s.parse().unwrap_or(default);
    cpus.min(limit(max, u32::MAX)).max(limit(min, 1)).clamp(1, 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dom0_mem_has_xens_forms() {
        const GIB: u64 = 1 << 18;
        let (free, all, any) = (4 * GIB, 4 * GIB - (128 << 8), u64::from(u32::MAX));
        for (option, frames_and_max) in [
            ("", (all, any)),
            ("1G", (GIB, any)),
            ("524288", (GIB / 2, any)),
            ("1G,max:2G", (GIB, 2 * GIB)),
            ("max:2G", (2 * GIB, 2 * GIB)),
            ("min:3G,1G", (3 * GIB, any)),
            ("min:1G,max:2G,512M", (GIB, 2 * GIB)),
            ("-1G", (3 * GIB, any)),
            ("-5G", (0, any)),
            ("25%", (GIB, any)),
            ("1G+25%,max:75%", (2 * GIB, 3 * GIB)),
            ("-1G+25%", (2 * GIB, any)),
            ("64T", (all, any)),
            ("100%", (all, any)),
            ("1G+1G+1G", (all, any)),
            ("much,max:1x", (all, any)),
        ] {
            assert_eq!(frames(option, free), frames_and_max, "dom0_mem={option}");
        }
    }

    #[test]
    fn dom0_max_vcpus_is_a_number_or_limits() {
        for (option, cpus, n) in [
            ("", 4, 4),
            ("3", 4, 3),
            ("6", 4, 6),
            ("1-2", 4, 2),
            ("-2", 4, 2),
            ("6-", 4, 6),
            ("2-8", 4, 4),
            ("0", 4, 1),
            ("100", 4, 32),
            ("few", 4, 4),
        ] {
            assert_eq!(vcpus(option, cpus), n, "dom0_max_vcpus={option}");
        }
    }
}
