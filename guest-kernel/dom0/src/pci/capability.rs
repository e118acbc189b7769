//! A function's list of capabilities.

use super::{Address, COMMAND, Config, Function};

/// MSI-X.
pub const MSIX: u8 = 0x11;
/// The maker's own: virtio's.
pub const VENDOR: u8 = 0x09;

/// Where the list begins.
const LIST: u8 = 0x34;
/// In the status register: there is a list.
const HAS_LIST: u32 = 1 << 20;
/// Capabilities are at least 4 bytes and lie behind the 64-byte header.
const MOST: usize = (256 - 64) / 4;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    function: Address,
    /// What it is: [`MSIX`], [`VENDOR`]…
    pub id: u8,
    at: u8,
}

impl Capability {
    /// The 32-bit register `offset` bytes from the capability's start, a multiple of 4; zero
    /// behind the end of configuration space.
    pub fn read(&self, config: &impl Config, offset: u8) -> u32 {
        self.at.checked_add(offset).map_or(0, |register| config.read(self.function, register))
    }

    /// Writes the 16-bit register there, an even offset.
    pub fn write_u16(&self, config: &impl Config, offset: u8, value: u16) {
        if let Some(register) = self.at.checked_add(offset) {
            config.write_u16(self.function, register, value);
        }
    }
}

impl Function {
    /// The function's capabilities.
    pub fn capabilities<C: Config>(&self, config: &C) -> impl Iterator<Item = Capability> {
        let has = config.read(self.address, COMMAND) & HAS_LIST != 0;
        let mut next = if has { config.read(self.address, LIST) as u8 & 0xfc } else { 0 };
        let function = self.address;
        (0..MOST).map_while(move |_| {
            let at = next;
            if at < 64 {
                return None;
            }
            let head = config.read(function, at);
            next = (head >> 8) as u8 & 0xfc;
            Some(Capability { function, id: head as u8, at })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::enumerate;
    use super::super::fake::Fake;
    use super::*;

    /// A list that bites its own tail ended nowhere: it is cut at the most that have room.
    #[test]
    fn a_list_ends_even_if_it_does_not() {
        let at = Address { bus: 0, device: 1, function: 0 };
        let fake = Fake::default();
        fake.device(at, 0x1af4, 0x1042);
        let function = enumerate(&fake)[0];
        assert_eq!(function.capabilities(&fake).count(), 0);
        fake.or(at, COMMAND, HAS_LIST);
        fake.or(at, LIST, 0x40);
        fake.bytes(at, 0x40, &[MSIX, 0xfc, 7]);
        fake.bytes(at, 0xfc, &[VENDOR, 0x40]);
        let ids: Vec<_> = function.capabilities(&fake).map(|c| c.id).collect();
        assert_eq!(ids.len(), MOST);
        assert_eq!(ids[..3], [MSIX, VENDOR, MSIX]);
        let last = function.capabilities(&fake).nth(1).unwrap();
        assert_eq!(last.read(&fake, 4), 0);
    }
}
