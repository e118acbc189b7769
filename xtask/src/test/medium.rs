//! What is left on a disk's medium when the power fails.
//!
//! To kill QEMU proves little: what it has written lies in the host's page cache and survives it, flushed
//! or not. So the machine's disk is QEMU's `blklogwrites`, which notes each write and each flush in a file
//! (the format of Linux's `dm-log-writes`), and the medium is made from the image that the machine began
//! with: all writes before the last flush before the cut, and of those after it whatever chance takes,
//! sector by sector, in any order.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const SECTOR: u64 = 512;
/// `WRITE_LOG_MAGIC`, and the flags of `struct log_write_entry`, of Linux's drivers/md/dm-log-writes.c.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;

/// A note in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The first sector written, and how many.
    sector: u64,
    count: u64,
    flags: u64,
    /// Where in the log the sectors' content lies.
    data: u64,
}

/// What was on its way when the power failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Flushes that were complete.
    pub flushes: usize,
    /// Sectors written since the last one that reached the medium, and that did not.
    pub kept: usize,
    /// See `kept`.
    pub lost: usize,
}

/// Makes `medium` what is left of a disk that began as the image `initial`, when the power fails as `log`
/// has `length` bytes. `seed` is the chance that decides about what was not flushed.
pub fn after_cut(initial: &Path, log: &Path, length: u64, seed: u64, medium: &Path) -> Result<Cut> {
    let entries = entries(log, length)?;
    let log = File::open(log)?;
    std::fs::copy(initial, medium).with_context(|| medium.display().to_string())?;
    let medium = File::options().write(true).open(medium)?;
    let put = |to: u64, from: u64, count: u64| -> Result<()> {
        let mut bytes = vec![0; (count * SECTOR) as usize];
        log.read_exact_at(&mut bytes, from)?;
        Ok(medium.write_all_at(&bytes, to * SECTOR)?)
    };
    let flushed = entries.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |at| at + 1);
    let mut cut = Cut { flushes: entries.iter().filter(|e| e.flags & FLUSH != 0).count(), ..Cut::default() };
    let mut volatile = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        // What a discarded sector holds is nobody's business: it keeps what it has.
        if entry.flags & DISCARD != 0 || entry.count == 0 {
            continue;
        }
        if index < flushed || entry.flags & FUA != 0 {
            put(entry.sector, entry.data, entry.count)?;
        } else {
            volatile.extend((0..entry.count).map(|n| (entry.sector + n, entry.data + n * SECTOR)));
        }
    }
    let mut chance = Chance(seed);
    for index in (1..volatile.len()).rev() {
        volatile.swap(index, chance.below(index + 1));
    }
    for (to, from) in volatile {
        if chance.below(2) == 0 {
            put(to, from, 1)?;
            cut.kept += 1;
        } else {
            cut.lost += 1;
        }
    }
    Ok(cut)
}

/// The entries that lie within the first `length` bytes of the log.
fn entries(log: &Path, length: u64) -> Result<Vec<Entry>> {
    let mut log = BufReader::new(File::open(log).with_context(|| log.display().to_string())?);
    // struct log_write_super: magic, version, nr_entries, sectorsize
    let [magic, version] = words(&mut log)?;
    ensure!((magic, version) == (MAGIC, 1), "this is no log of writes");
    let mut entries = Vec::new();
    let mut at = SECTOR;
    while at + SECTOR <= length {
        log.seek(SeekFrom::Start(at))?;
        // struct log_write_entry: sector, nr_sectors, flags, data_len
        let [sector, count, flags, _] = words(&mut log)?;
        let data = at + SECTOR;
        at = data + if flags & DISCARD == 0 { count * SECTOR } else { 0 };
        if (count, flags) == (0, 0) || at > length {
            break; // on its way to the log itself
        }
        entries.push(Entry { sector, count, flags, data });
    }
    Ok(entries)
}

fn words<const N: usize>(from: &mut impl Read) -> Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// Random numbers that a seed repeats (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.0 ^= self.0 >> 27;
        (self.0 >> 33) as usize % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A log with these entries: sector, flags, and a byte for each sector's content.
    fn log(dir: &Path, entries: &[(u64, u64, &[u8])]) -> PathBuf {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8] = 1;
        for (sector, flags, content) in entries {
            let mut header = [0; 512];
            header[..8].copy_from_slice(&sector.to_le_bytes());
            header[8] = content.len() as u8;
            header[16] = *flags as u8;
            bytes.extend(header);
            for byte in *content {
                bytes.extend([*byte; 512]);
            }
        }
        let file = dir.join("log");
        std::fs::write(&file, bytes).unwrap();
        file
    }

    /// What was flushed is there whatever chance does, and only that; a cut before the flush leaves it open.
    #[test]
    fn the_medium_has_all_that_was_flushed_and_some_of_the_rest() {
        let dir = std::env::temp_dir().join(format!("oxen-medium-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (initial, medium) = (dir.join("initial"), dir.join("medium"));
        std::fs::write(&initial, [b'-'; 8 * 512]).unwrap();
        let entries: [(u64, u64, &[u8]); 5] =
            [(1, 0, b"ab"), (0, FLUSH, b""), (2, 0, b"XY"), (5, FUA, b"f"), (6, 0, b"Z")];
        let log = log(&dir, &entries);
        let whole = std::fs::metadata(&log).unwrap().len();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let cut = after_cut(&initial, &log, whole, seed, &medium).unwrap();
            assert_eq!((cut.flushes, cut.kept + cut.lost), (1, 3));
            let bytes = std::fs::read(&medium).unwrap();
            let text: String = bytes.chunks(512).map(|sector| char::from(sector[0])).collect();
            assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert(text);
        }
        let expected =
            ["b-", "bY", "X-", "XY"].iter().flat_map(|xy| ["-", "Z"].map(|z| format!("-a{xy}-f{z}-")));
        assert_eq!(seen, expected.collect());
        // Cut within the first write's content: the log does not have it, so neither has the medium.
        let cut = after_cut(&initial, &log, 3 * 512, 1, &medium).unwrap();
        assert_eq!(cut, Cut::default());
        assert_eq!(std::fs::read(&medium).unwrap(), [b'-'; 8 * 512]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
