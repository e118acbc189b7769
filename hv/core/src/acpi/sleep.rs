//! Sleep types, out of AML without interpreting it, and how to enter a sleep state.
//!
//! The DSDT or an SSDT holds `Name (\_S5, Package () { a, b, … })`: constants that every compiler
//! writes the same way. They are found by their bytes. Whoever computes `_S5` in a method (nobody
//! was seen to) can't be powered off by the hypervisor; dom0, which interprets AML, still can.

/// The sleep types of a state: what goes into the SLP_TYP fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepType {
    /// For the PM1a control register, 3 bits.
    pub a: u8,
    /// For the PM1b control register, 3 bits.
    pub b: u8,
}

const NAME: u8 = 0x08;
const ROOT: u8 = b'\\';
const PACKAGE: u8 = 0x12;

const SLP_TYP: u32 = 7 << 10;
const SLP_EN: u32 = 1 << 13;

impl SleepType {
    /// What to write to PM1a and PM1b control, which now hold `a` and `b`, to enter the state:
    /// PM1a's first, then PM1b's.
    pub fn control(&self, a: u32, b: u32) -> (u32, u32) {
        let value = |old: u32, kind: u8| old & !SLP_TYP | u32::from(kind) << 10 | SLP_EN;
        (value(a, self.a), value(b, self.b))
    }
}

/// Finds the package `name` (as `_S5_`) in AML.
pub fn find(aml: &[u8], name: &[u8; 4]) -> Option<SleepType> {
    (0..aml.len()).find_map(|at| {
        let rest = aml[at..].strip_prefix(name)?;
        let before = aml[..at].strip_suffix(&[ROOT]).unwrap_or(&aml[..at]);
        before.ends_with(&[NAME]).then(|| package(rest)).flatten()
    })
}

/// The first two elements of a package of constants; one element is for both registers.
fn package(aml: &[u8]) -> Option<SleepType> {
    let rest = aml.strip_prefix(&[PACKAGE])?;
    // The length's first byte says how many more there are.
    let more = usize::from(rest.first()? >> 6);
    let (&count, rest) = rest.get(1 + more..)?.split_first()?;
    let (a, rest) = constant(rest)?;
    let b = if count > 1 { constant(rest)?.0 } else { a };
    (count > 0).then_some(SleepType { a: a & 7, b: b & 7 })
}

/// An integer constant's low byte, and what follows.
fn constant(aml: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = aml.split_first()?;
    let bytes = match op {
        0x00 | 0x01 | 0xff => return Some((op, rest)),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        0x0e => 8,
        _ => return None,
    };
    Some((*rest.first()?, rest.get(bytes..)?))
}
