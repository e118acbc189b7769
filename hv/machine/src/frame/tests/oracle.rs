//! Random operations on a small machine, against a model that is too simple to be wrong in the same way.
//!
//! The model has no words, phases, locks or shortcuts: a map of uses per frame, tables checked by plain
//! recursion on a copy of the whole state, which is thrown away when something is refused. Each step must
//! answer alike; after each the real counts must be what [`audit`] counts.

use super::audit::audit;
use super::*;
use proptest::prelude::*;
use shared_abi::errno::Errno;
use std::collections::BTreeMap;

const FRAMES: u64 = 9;
/// The entries used: first, last of the lower half, a hypervisor slot (in L4), last.
const SLOTS: [usize; 4] = [0, 255, 256, 511];

#[derive(Clone, Debug)]
enum Op {
    /// The guest writes memory as data, which must be possible.
    Poke {
        frame: u64,
        slot: usize,
        value: u64,
    },
    Pin {
        frame: u64,
        level: u32,
    },
    Unpin {
        frame: u64,
    },
    Update {
        frame: u64,
        slot: usize,
        value: u64,
        preserve: bool,
    },
    Hold {
        frame: u64,
        level: u32,
    },
    Drop {
        which: usize,
    },
    Disown {
        frame: u64,
    },
}

fn value() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        4 => Just(TABLE),
        3 => Just(RO),
        3 => Just(RW),
        1 => Just(0),
        1 => Just(RO | pte::NX),
        1 => Just(TABLE | pte::PSE),
        1 => Just(TABLE | pte::PCD),
        1 => Just(RO & !pte::USER | pte::AVAIL_HIGH),
    ];
    // One frame more than there are, for what is no RAM.
    (0..=FRAMES, flags).prop_map(|(frame, flags)| pte::entry(Mfn(frame), flags))
}

fn op() -> impl Strategy<Value = Op> {
    let frame = 0..FRAMES;
    let slot = (0..SLOTS.len()).prop_map(|index| SLOTS[index]);
    prop_oneof![
        6 => (frame.clone(), slot.clone(), value()).prop_map(|(frame, slot, value)| Op::Poke { frame, slot, value }),
        5 => (frame.clone(), 1u32..=4).prop_map(|(frame, level)| Op::Pin { frame, level }),
        2 => frame.clone().prop_map(|frame| Op::Unpin { frame }),
        8 => (frame.clone(), slot, value(), any::<bool>())
            .prop_map(|(frame, slot, value, preserve)| Op::Update { frame, slot, value, preserve }),
        2 => (frame.clone(), 0u32..=4).prop_map(|(frame, level)| Op::Hold { frame, level }),
        2 => (0usize..4).prop_map(|which| Op::Drop { which }),
        1 => frame.prop_map(|frame| Op::Disown { frame }),
    ]
}

/// What the model knows of a frame.
#[derive(Clone, Default)]
struct Simple {
    level: u32,
    uses: u32,
    refs: u32,
    pinned: bool,
    allocated: bool,
    slots: BTreeMap<usize, u64>,
}

#[derive(Clone)]
struct Model(Vec<Simple>);

const WRITABLE: u32 = 0;

impl Model {
    fn refer(&mut self, frame: u64) -> bool {
        let frame = &mut self.0[frame as usize];
        frame.refs += (frame.refs > 0) as u32;
        frame.refs > 0
    }

    /// One more use as a table of `level`, or as data (0).
    fn take(&mut self, frame: u64, level: u32) -> bool {
        let index = frame as usize;
        if self.0[index].uses > 0 && self.0[index].level != level || !self.refer(frame) {
            return false;
        }
        if self.0[index].uses == 0 && level > 0 {
            if !self.0[index].allocated {
                return false;
            }
            // In use from now on, so that it can't contain itself.
            (self.0[index].uses, self.0[index].level) = (1, level);
            for (slot, value) in self.0[index].slots.clone() {
                let counted = level == 4 && slot == 256 || self.take_entry(level, value);
                if !counted {
                    return false;
                }
            }
            return true;
        }
        self.0[index].level = level;
        self.0[index].uses += 1;
        true
    }

    fn take_entry(&mut self, level: u32, value: u64) -> bool {
        let frame = pte::mfn(value).0;
        if value & pte::PRESENT == 0 {
            return true;
        }
        if value & (pte::PCD | pte::PSE) != 0 || frame >= FRAMES {
            return false;
        }
        match (level, value & pte::RW != 0) {
            (1, false) => self.refer(frame),
            (1, true) => self.take(frame, WRITABLE),
            _ => self.take(frame, level - 1),
        }
    }

    fn put(&mut self, frame: u64, typed: bool) {
        let this = &mut self.0[frame as usize];
        this.refs -= 1;
        if typed {
            this.uses -= 1;
            let level = this.level;
            if this.uses == 0 && level > 0 {
                for (slot, value) in this.slots.clone() {
                    if !(level == 4 && slot == 256) {
                        self.put_entry(level, value);
                    }
                }
                if level == 4 {
                    self.0[frame as usize].slots.remove(&256);
                }
            }
        }
    }

    fn put_entry(&mut self, level: u32, value: u64) {
        if value & pte::PRESENT != 0 {
            self.put(pte::mfn(value).0, level > 1 || value & pte::RW != 0);
        }
    }

    /// Does `step` on a copy, which becomes the state if it succeeds.
    fn attempt(&mut self, step: impl FnOnce(&mut Model) -> bool) -> bool {
        let mut copy = self.clone();
        let done = step(&mut copy);
        if done {
            *self = copy;
        }
        done
    }

    fn apply(&mut self, op: &Op, held: &mut Vec<(u64, bool)>) -> bool {
        match *op {
            Op::Poke { frame, slot, value } => {
                let this = &mut self.0[frame as usize];
                let able = this.refs > 0 && (this.uses == 0 || this.level == WRITABLE);
                if able {
                    this.slots.insert(slot, value);
                }
                able
            }
            Op::Pin { frame, level } => self.attempt(|model| {
                let fresh = model.take(frame, level) && !model.0[frame as usize].pinned;
                let this = &mut model.0[frame as usize];
                this.pinned = true;
                fresh && this.allocated
            }),
            Op::Unpin { frame } => {
                let pinned = core::mem::take(&mut self.0[frame as usize].pinned);
                if pinned {
                    self.put(frame, true);
                }
                pinned
            }
            Op::Update { frame, slot, value, .. } => self.attempt(|model| {
                let this = &model.0[frame as usize];
                let level = this.level;
                if this.uses == 0 || level == 0 || level == 4 && slot == 256 {
                    return false;
                }
                if !model.take_entry(level, value) {
                    return false;
                }
                if let Some(old) = model.0[frame as usize].slots.insert(slot, value) {
                    model.put_entry(level, old);
                }
                true
            }),
            Op::Hold { frame, level } => {
                let done = self.attempt(|model| model.take(frame, level));
                if done {
                    held.push((frame, true));
                }
                done
            }
            Op::Drop { which } => {
                let able = which < held.len();
                if able {
                    let (frame, typed) = held.remove(which);
                    self.put(frame, typed);
                }
                able
            }
            Op::Disown { frame } => {
                let able = core::mem::take(&mut self.0[frame as usize].allocated);
                if able {
                    if core::mem::take(&mut self.0[frame as usize].pinned) {
                        self.put(frame, true);
                    }
                    self.put(frame, false);
                }
                able
            }
        }
    }
}

/// A typed use that the test holds.
enum Held<'t> {
    Data(Frame<'t, Writable>),
    Table(Table<'t>),
}

impl Held<'_> {
    fn mfn(&self) -> Mfn {
        match self {
            Held::Data(frame) => frame.mfn(),
            Held::Table(table) => table.mfn(),
        }
    }
}

/// Applies `op` to the real thing; `Err(Again)` passes through.
fn apply<'t>(
    table: &'t FrameTable,
    op: &Op,
    base: u64,
    held: &mut Vec<Held<'t>>,
    work: &mut Work<'t>,
) -> Progress<()> {
    let rights = Rights::plain(D1);
    let real = |value: u64| {
        let frame = pte::mfn(value).0;
        // What is no frame of the model's is beyond all memory.
        let mfn = if frame < FRAMES { base + frame } else { table.frames() + 5 };
        pte::entry(Mfn(mfn), value)
    };
    let mfn = |frame: u64| Mfn(base + frame);
    table.settle(work)?;
    match *op {
        Op::Poke { frame, slot, value } => {
            let page = table.get_writable(mfn(frame), D1, work)?;
            page.page().store_u64(slot * 8, real(value));
            page.release(work);
        }
        Op::Pin { frame, level } => table.pin(mfn(frame), level, &rights, work)?,
        Op::Unpin { frame } => table.unpin(mfn(frame), D1, work)?,
        Op::Update { frame, slot, value, preserve } => {
            let tab = table.get_table(mfn(frame), D1).ok_or(Stop::Refused(Errno::EINVAL))?;
            let store = if preserve { Store::PreserveAd } else { Store::Set };
            let done = table.update_entry(&tab, slot, real(value), store, &rights, work);
            tab.release(work);
            done?;
        }
        Op::Hold { frame, level: 0 } => {
            held.push(Held::Data(table.get_writable(mfn(frame), D1, work)?));
        }
        Op::Hold { frame, level } => {
            table.take(mfn(frame).0 as u32, D1, Type::table(level).unwrap(), &rights, work)?;
            held.push(Held::Table(Table::adopt(table, mfn(frame).0 as u32, level)));
        }
        Op::Drop { which } => {
            if which >= held.len() {
                return Err(Stop::Refused(Errno::EINVAL));
            }
            match held.remove(which) {
                Held::Data(frame) => frame.release(work),
                Held::Table(table) => table.release(work),
            }
        }
        Op::Disown { frame } => table.disown(mfn(frame), D1, work)?,
    }
    Ok(())
}

fn handles(held: &[Held<'_>]) -> Vec<(Mfn, bool)> {
    held.iter().map(|held| (held.mfn(), true)).collect()
}

/// A machine with the model's frames populated in a row; the first of them, and how many are free.
fn prepared() -> (FrameTable, u64, u64) {
    let table = machine(64);
    table.populate(D1, 0, Limit::Any).unwrap();
    table.relinquish(D1, &mut work(&table)).unwrap();
    let free = table.free_frames();
    let mut block: Vec<u64> = (0..16).map(|_| table.populate(D1, 0, Limit::Any).unwrap().0).collect();
    block.sort();
    let base = *block.windows(FRAMES as usize).find(|run| run[8] - run[0] == 8).unwrap().first().unwrap();
    for mfn in block {
        if !(base..base + FRAMES).contains(&mfn) {
            table.disown(Mfn(mfn), D1, &mut work(&table)).unwrap();
        }
    }
    (table, base, free)
}

/// Applies `op` to both and compares answers and counts.
fn step<'t>(
    table: &'t FrameTable,
    op: &Op,
    base: u64,
    (model, model_held): (&mut Model, &mut Vec<(u64, bool)>),
    held: &mut Vec<Held<'t>>,
    work: &mut Work<'t>,
) -> Result<(), TestCaseError> {
    let expected = model.apply(op, model_held);
    let found = apply(table, op, base, held, work);
    prop_assert_eq!(found.is_ok(), expected, "{:?}: {:?}", op, found);
    prop_assert_ne!(found, Err(Stop::Again));
    table.settle(work).unwrap();
    audit(table, &handles(held));
    for (frame, simple) in model.0.iter().enumerate() {
        let word = table.word(Mfn(base + frame as u64)).unwrap();
        prop_assert_eq!((word.refs(), word.types()), (simple.refs.into(), simple.uses.into()));
    }
    Ok(())
}

/// Every sequence of four of these operations on two frames that name each other and themselves. The frames
/// are alike, so the first operation is on the first of them.
#[test]
fn every_short_sequence_agrees_with_the_model() {
    let mut alphabet = Vec::new();
    for frame in [0, 1] {
        for target in [0, 1] {
            for flags in [RO, RW] {
                alphabet.push(Op::Poke { frame, slot: 0, value: pte::entry(Mfn(target), flags) });
            }
        }
        alphabet.push(Op::Pin { frame, level: 1 });
        alphabet.push(Op::Pin { frame, level: 2 });
        alphabet.push(Op::Unpin { frame });
        alphabet.push(Op::Hold { frame, level: 0 });
        alphabet.push(Op::Disown { frame });
        let value = pte::entry(Mfn(1 - frame), RW);
        alphabet.push(Op::Update { frame, slot: 0, value, preserve: false });
    }
    let (table, _, free) = prepared();
    let mut work = work(&table);
    table.relinquish(D1, &mut work).unwrap();
    for number in 0..alphabet.len().pow(4) {
        let frame = Simple { refs: 1, allocated: true, ..Simple::default() };
        let (mut model, mut model_held, mut held) = (Model(std::vec![frame; 2]), Vec::new(), Vec::new());
        // The first half of the alphabet is about frame 0.
        if number % alphabet.len() >= alphabet.len() / 2 {
            continue;
        }
        let base = table.populate(D1, 1, Limit::Any).unwrap().0;
        let mut rest = number;
        for _ in 0..4 {
            let op = &alphabet[rest % alphabet.len()];
            rest /= alphabet.len();
            step(&table, op, base, (&mut model, &mut model_held), &mut held, &mut work).unwrap();
        }
        for held in held {
            match held {
                Held::Data(frame) => frame.release(&mut work),
                Held::Table(table) => table.release(&mut work),
            }
        }
        table.relinquish(D1, &mut work).unwrap();
        assert_eq!((table.owned(D1), table.free_frames()), (0, free));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_frame_table_agrees_with_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let (table, base, free) = prepared();
        let frame = Simple { refs: 1, allocated: true, ..Simple::default() };
        let mut model = Model(std::vec![frame; FRAMES as usize]);
        let (mut held, mut model_held) = (Vec::new(), Vec::new());
        let mut work = work(&table);
        for op in &ops {
            step(&table, op, base, (&mut model, &mut model_held), &mut held, &mut work)?;
        }
        drop(held);
        table.relinquish(D1, &mut work).unwrap();
        audit(&table, &[]);
        prop_assert_eq!((table.owned(D1), table.free_frames()), (0, free));
    }

    /// The same with little budget: an operation that says `Again` is sometimes not asked again, and the
    /// next is another one, as a guest may do.
    #[test]
    fn interrupted_and_abandoned_work_keeps_the_counts(
        ops in prop::collection::vec((op(), 0u32..1500, 0u32..4), 1..60),
        // With fewer than 4 a step may not come forward.
        last in 4u32..700,
    ) {
        let (table, base, free) = prepared();
        let mut held = Vec::new();
        let mut vcpus = [Work::new(&table, 0), Work::new(&table, 0)];
        for (step, (op, budget, retries)) in ops.iter().enumerate() {
            let work = &mut vcpus[step % 2];
            for _ in 0..=*retries {
                work.refill(*budget);
                let found = apply(&table, op, base, &mut held, work);
                audit(&table, &handles(&held));
                if found != Err(Stop::Again) {
                    break;
                }
            }
        }
        drop(held);
        let [one, mut work] = vcpus;
        drop(one);
        let mut steps = 0;
        loop {
            work.refill(last);
            match table.relinquish(D1, &mut work) {
                Ok(()) => break,
                Err(stop) => prop_assert_eq!(stop, Stop::Again),
            }
            steps += 1;
            prop_assert!(steps < 20_000);
        }
        audit(&table, &[]);
        prop_assert_eq!((table.owned(D1), table.free_frames()), (0, free));
    }
}
