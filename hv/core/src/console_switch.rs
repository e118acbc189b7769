//! Who gets what is typed on the serial line: the control domain, or the hypervisor, for which each byte is a key
//! (`keys`). Three times the switch character, Ctrl-A, changes over; that is the one way in when dom0 hangs.
//!
//! The first two of the three reach whoever listens, as they come: withheld until the next byte shows what they meant,
//! a Ctrl-A typed for a shell or an editor would seem lost.

/// Counts switch characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    character: Option<u8>,
    /// How many have come in a row.
    count: u8,
    /// Whether the hypervisor listens.
    own: bool,
}

/// What is to be done with a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Typed {
    /// It is input of the control domain's.
    Input,
    /// It is a key of the hypervisor's.
    Key,
    /// It was the last of the three. From here on the hypervisor listens, or does not.
    Switched {
        /// Whether the hypervisor does.
        own: bool,
    },
}

impl Switch {
    /// As `conswitch=` says: a letter, and `x` after it where the hypervisor is to listen first. Any other character
    /// turns switching off.
    pub const fn new(option: Option<&str>) -> Switch {
        const OFF: Switch = Switch { character: None, count: 0, own: false };
        let [character, rest @ ..] = (match option {
            Some(option) => option.as_bytes(),
            None => b"a",
        }) else {
            return OFF;
        };
        if !character.is_ascii_alphabetic() {
            return OFF;
        }
        Switch { character: Some(*character & 0x1f), count: 0, own: matches!(rest, [b'x', ..]) }
    }

    /// A byte came.
    pub fn typed(&mut self, byte: u8) -> Typed {
        self.count = if Some(byte) == self.character { self.count + 1 } else { 0 };
        if self.count == 3 {
            self.count = 0;
            self.own = !self.own;
            return Typed::Switched { own: self.own };
        }
        if self.own { Typed::Key } else { Typed::Input }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{string::String, vec::Vec};

    /// What reaches dom0, and what the hypervisor.
    fn split(option: Option<&str>, typed: &[u8]) -> (String, String) {
        let mut switch = Switch::new(option);
        let (mut dom0, mut own) = (Vec::new(), Vec::new());
        for byte in typed {
            match switch.typed(*byte) {
                Typed::Input => dom0.push(*byte),
                Typed::Key => own.push(*byte),
                Typed::Switched { .. } => {}
            }
        }
        (String::from_utf8(dom0).unwrap(), String::from_utf8(own).unwrap())
    }

    #[test]
    fn three_in_a_row_change_over_and_back() {
        let typed = b"ls\x01\x01 x\x01\x01\x01q\x01h\x01\x01\x01ps";
        assert_eq!(split(None, typed), ("ls\x01\x01 x\x01\x01ps".into(), "q\x01h\x01\x01".into()));
        assert_eq!(split(None, b"\x01\x01\x01\x01\x01\x01a"), ("\x01\x01a".into(), "\x01\x01".into()));
    }

    #[test]
    fn the_option_names_the_character_and_who_is_first() {
        assert_eq!(
            split(Some("B"), b"\x01\x01\x01a\x02\x02\x02b"),
            ("\x01\x01\x01a\x02\x02".into(), "b".into())
        );
        assert_eq!(split(Some("ax"), b"h\x01\x01\x01a"), ("a".into(), "h\x01\x01".into()));
        for off in ["", "0", "-x"] {
            assert_eq!(split(Some(off), b"\x01\x01\x01a"), ("\x01\x01\x01a".into(), String::new()));
        }
    }
}
