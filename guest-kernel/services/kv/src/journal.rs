//! The log on the volume: what is acknowledged is here.
//!
//! Commands change the store in memory and [`append`](Journal::append) what they changed; one task
//! commits. Each commit takes all that was appended while the one before was under way, writes it
//! as a frame and flushes once, so many connections share a flush. When a frame does not fit into
//! the area any more, the commit writes the whole store to the other area instead and then
//! switches: the store in memory already has what was to be written. Until that is over no command
//! may change the store ([`thawed`](Journal::thawed)), so that the copy is of one moment; reads go on.

use crate::frame::{Found, HEADER, Place};
use crate::op::Op;
use crate::store::Store;
use crate::superblock::{OpenError, Superblock};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use guest_kernel::block::{BlockDevice, BlockError, SECTOR_SIZE};
use guest_kernel::executor::{Notify, yield_now};

/// A frame is closed when it has this many bytes.
const FRAME: usize = 256 << 10;
/// Bytes of the store that are encoded at a time when it is copied.
const PIECE: usize = 64 << 10;
/// Sectors read at a time when the log is read.
const WINDOW: u64 = 128;

/// The volume failed: what was not committed may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// What reading the log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whole frames.
    pub frames: u64,
    /// The log ends with a frame that was not written to its end, which nobody was told of.
    pub torn: bool,
}

/// What has been done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commits, each with one flush or more.
    pub commits: u64,
    /// Commands committed.
    pub commands: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Copies of the store to the other area.
    pub rewrites: u64,
}

struct State {
    superblock: Superblock,
    /// Sectors of the area that hold frames.
    used: u64,
    place: Place,
    /// Frames to be, each with room for its header.
    pending: Vec<Vec<u8>>,
    issued: u64,
    committed: u64,
    failed: bool,
    frozen: bool,
    counts: Counts,
}

/// The log.
pub struct Journal<D> {
    disk: D,
    state: RefCell<State>,
    /// Something was appended.
    appended: Notify,
    /// A commit is over.
    done: Notify,
}

impl<D: BlockDevice> Journal<D> {
    /// Reads the log on `disk`, or begins one if the disk is empty. `salt` should be hard to guess.
    pub async fn open(disk: D, salt: u64) -> Result<(Self, Store, Recovery), OpenError> {
        let superblock = Superblock::open(&disk, salt).await?;
        let mut store = Store::default();
        let (used, place, recovery) = replay(&disk, &superblock, &mut store).await?;
        let state = State {
            superblock,
            used,
            place,
            pending: Vec::new(),
            issued: 0,
            committed: 0,
            failed: false,
            frozen: false,
            counts: Counts::default(),
        };
        let journal =
            Journal { disk, state: RefCell::new(state), appended: Notify::new(), done: Notify::new() };
        Ok((journal, store, recovery))
    }

    /// Bytes that the store may take in the log: a copy of it leaves a quarter of an area free.
    pub fn capacity(&self) -> usize {
        self.state.borrow().superblock.sectors as usize * SECTOR_SIZE / 4 * 3
    }

    /// What has been done.
    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// Bytes of the area in use, and of those how many hold frames.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.borrow();
        (state.superblock.sectors * SECTOR_SIZE as u64, state.used * SECTOR_SIZE as u64)
    }

    /// Whether the volume has failed.
    pub fn failed(&self) -> bool {
        self.state.borrow().failed
    }

    /// Whether the store must not be changed now.
    pub fn frozen(&self) -> bool {
        self.state.borrow().frozen
    }

    /// Waits until the store may be changed.
    pub async fn thawed(&self) {
        while self.frozen() {
            self.done.wait().await;
        }
    }

    /// Adds one command's changes, which stay together. The number to wait for.
    pub fn append(&self, ops: &[u8]) -> u64 {
        let mut state = self.state.borrow_mut();
        match state.pending.last_mut() {
            Some(frame) if frame.len() + ops.len() <= FRAME => frame.extend_from_slice(ops),
            _ => {
                let mut frame = Vec::with_capacity((HEADER + ops.len()).next_multiple_of(SECTOR_SIZE));
                frame.resize(HEADER, 0);
                frame.extend_from_slice(ops);
                state.pending.push(frame);
            }
        }
        state.issued += 1;
        self.appended.notify();
        state.issued
    }

    /// Waits until a command's changes are on the medium.
    pub async fn committed(&self, number: u64) -> Result<(), Failed> {
        loop {
            let (committed, failed) = {
                let state = self.state.borrow();
                (state.committed, state.failed)
            };
            if committed >= number {
                return Ok(());
            }
            if failed {
                return Err(Failed);
            }
            self.done.wait().await;
        }
    }

    /// Commits, as a task, until the volume fails. `now` is in ms since 1970.
    pub async fn run(&self, store: &RefCell<Store>, salt: impl Fn() -> u64, now: impl Fn() -> u64) -> Failed {
        loop {
            self.appended.wait().await;
            // Let everybody who has something to say say it.
            yield_now().await;
            if self.commit(store, salt(), now()).await.is_err() {
                return Failed;
            }
        }
    }

    /// Commits what has been appended.
    pub async fn commit(&self, store: &RefCell<Store>, salt: u64, now: u64) -> Result<(), Failed> {
        let (mut frames, issued, sectors) = {
            let mut state = self.state.borrow_mut();
            if state.failed {
                return Err(Failed);
            }
            let frames = core::mem::take(&mut state.pending);
            let sectors: u64 = frames.iter().map(|frame| frame.len().div_ceil(SECTOR_SIZE) as u64).sum();
            state.frozen = state.used + sectors > state.superblock.sectors;
            (frames, state.issued, sectors)
        };
        if frames.is_empty() {
            return Ok(());
        }
        let result = if self.frozen() {
            drop(frames);
            self.rewrite(store, salt, now).await
        } else {
            self.write(&mut frames, sectors).await
        };
        let mut state = self.state.borrow_mut();
        state.frozen = false;
        match result {
            Ok(()) => {
                state.counts.commits += 1;
                state.counts.commands += issued - state.committed;
                state.committed = issued;
            }
            Err(error) => {
                guest_kernel::log::error!("the log cannot be written: {error:?}");
                state.failed = true;
            }
        }
        self.done.notify();
        result.map_err(|_| Failed)
    }

    /// Writes frames behind the last and makes them durable.
    async fn write(&self, frames: &mut [Vec<u8>], sectors: u64) -> Result<(), BlockError> {
        let (start, mut place, mut at) = {
            let state = self.state.borrow();
            (state.superblock.start(), state.place, state.used)
        };
        for frame in frames {
            place = place.seal(frame);
            self.disk.write(start + at, frame).await?;
            at += (frame.len() / SECTOR_SIZE) as u64;
        }
        self.disk.flush().await?;
        let mut state = self.state.borrow_mut();
        (state.place, state.used) = (place, at);
        state.counts.bytes += sectors * SECTOR_SIZE as u64;
        Ok(())
    }

    /// Writes the store to the other area and switches to it. What is there counts for nothing
    /// until the superblock says so.
    async fn rewrite(&self, store: &RefCell<Store>, salt: u64, now: u64) -> Result<(), BlockError> {
        let new = self.state.borrow().superblock.other(salt);
        let (mut place, mut at, mut after) = (new.first(), 0, None);
        loop {
            let mut frame = vec![0; HEADER];
            after = store.borrow().snapshot(after.as_deref(), PIECE, now, &mut frame);
            if frame.len() > HEADER {
                place = place.seal(&mut frame);
                let sectors = (frame.len() / SECTOR_SIZE) as u64;
                // What fits is decided before a command is run: see `capacity`.
                if at + sectors > new.sectors {
                    return Err(BlockError::OutOfRange);
                }
                self.disk.write(new.start() + at, &frame).await?;
                at += sectors;
            }
            if after.is_none() {
                break;
            }
        }
        self.disk.flush().await?;
        new.write(&self.disk).await?;
        let mut state = self.state.borrow_mut();
        (state.superblock, state.place, state.used) = (new, place, at);
        state.counts.rewrites += 1;
        state.counts.bytes += at * SECTOR_SIZE as u64;
        Ok(())
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }
}

/// Applies the frames of the area in use until the first that is not whole.
async fn replay(
    disk: &impl BlockDevice,
    superblock: &Superblock,
    store: &mut Store,
) -> Result<(u64, Place, Recovery), BlockError> {
    let (mut place, mut at, mut recovery) = (superblock.first(), 0, Recovery::default());
    let mut window: Vec<u8> = Vec::new();
    let mut window_at = 0;
    while at < superblock.sectors {
        let end = window_at + (window.len() / SECTOR_SIZE) as u64;
        if at < window_at || at >= end {
            window.resize(WINDOW.min(superblock.sectors - at) as usize * SECTOR_SIZE, 0);
            window_at = at;
            disk.read(superblock.start() + at, &mut window).await?;
        }
        let bytes = &window[(at - window_at) as usize * SECTOR_SIZE..];
        let header = match place.header(bytes) {
            Found::Header(header) if header.sectors() <= superblock.sectors - at => header,
            Found::Nothing => break,
            Found::Header(_) | Found::Torn => {
                recovery.torn = true;
                break;
            }
        };
        let whole;
        let payload = match bytes.get(HEADER..HEADER + header.length) {
            Some(payload) => payload,
            None => {
                let mut frame = vec![0; header.sectors() as usize * SECTOR_SIZE];
                disk.read(superblock.start() + at, &mut frame).await?;
                whole = frame;
                &whole[HEADER..HEADER + header.length]
            }
        };
        let Some(next) = place.accept(&header, payload) else {
            recovery.torn = true;
            break;
        };
        let mut rest = payload;
        while let Some(op) = Op::decode(&mut rest) {
            store.apply(&op);
        }
        recovery.frames += 1;
        (place, at) = (next, at + header.sectors());
    }
    Ok((at, place, recovery))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::FaultyDisk;
    use guest_kernel::executor::block_on;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// A command: the changes that go together.
    #[derive(Clone, Debug)]
    enum Change {
        Set(u8, usize),
        Delete(u8),
        Move(u8, u8),
        Clear,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            12 => (0u8..12, prop_oneof![0usize..40, 500usize..2500]).prop_map(|(key, len)| Change::Set(key, len)),
            3 => (0u8..12).prop_map(Change::Delete),
            3 => (0u8..12, 0u8..12).prop_map(|(from, to)| Change::Move(from, to)),
            1 => Just(Change::Clear),
        ];
        prop::collection::vec(change, 1..60)
    }

    /// Runs a command in the store, the model and the log, as the server does.
    fn run(
        change: &Change,
        nonce: u64,
        store: &RefCell<Store>,
        model: &mut Model,
        journal: &Journal<FaultyDisk>,
    ) {
        let mut ops = Vec::new();
        let mut apply = |op: Op<'_>| {
            op.encode(&mut ops);
            store.borrow_mut().apply(&op);
        };
        match *change {
            Change::Set(key, len) => {
                let mut value = nonce.to_le_bytes().to_vec();
                value.resize(8 + len, key);
                apply(Op::Set { key: &[key], value: &value, expires: None });
                model.insert([key].into(), value);
            }
            Change::Delete(key) => {
                apply(Op::Delete { key: &[key] });
                model.remove(&[key][..]);
            }
            Change::Move(from, to) => {
                let Some(value) = model.remove(&[from][..]) else { return };
                apply(Op::Delete { key: &[from] });
                apply(Op::Set { key: &[to], value: &value, expires: None });
                model.insert([to].into(), value);
            }
            Change::Clear => {
                apply(Op::Clear);
                model.clear();
            }
        }
        journal.append(&ops);
    }

    fn contents(store: &Store) -> Model {
        store.live(0).map(|(key, entry)| (key.to_vec(), entry.value.to_vec())).collect()
    }

    /// One life after another, each ended by a power cut: after a boot the store is what it was after
    /// some command, none before the last acknowledged one.
    fn lives(changes: Vec<Change>, group: usize, cuts: Vec<u64>, seed: u64) -> Result<(), TestCaseError> {
        // Areas of 50 KiB: twelve values of 2.5 KiB fit, and the log is rewritten often.
        let mut image = vec![0; (16 + 2 * 100) * SECTOR_SIZE];
        let mut states = vec![Model::new()];
        let mut acknowledged = 0;
        for (life, cut) in cuts.into_iter().enumerate() {
            let life = life as u64;
            let disk = FaultyDisk::new(image, cut);
            let changes = changes.clone();
            let (after, now) = block_on(async move {
                let opened = Journal::open(disk.clone(), seed ^ life << 32).await;
                let Ok((journal, store, _)) = opened else { return (disk, Ok((states, acknowledged))) };
                let found = contents(&store);
                let Some(at) = states.iter().skip(acknowledged).position(|state| *state == found) else {
                    return (disk, Err("a state that never was, or is too old"));
                };
                let (mut states, mut acknowledged) = (vec![states.swap_remove(acknowledged + at)], 0);
                let (store, mut model) = (RefCell::new(store), found);
                for (number, commands) in changes.chunks(group).enumerate() {
                    for (n, change) in commands.iter().enumerate() {
                        let nonce = life << 32 | (number * group + n) as u64;
                        run(change, nonce, &store, &mut model, &journal);
                        states.push(model.clone());
                    }
                    if journal.commit(&store, seed.rotate_left(number as u32) ^ life, 0).await.is_err() {
                        break;
                    }
                    acknowledged = states.len() - 1;
                }
                (disk, Ok((states, acknowledged)))
            });
            (states, acknowledged) = now.map_err(TestCaseError::fail)?;
            image = after.image_after_cut(seed ^ life);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_was_acknowledged_outlives_power_cuts(
            changes in changes(), group in 1usize..6, cuts in prop::collection::vec(0u64..120, 2..8), seed: u64
        ) {
            lives(changes, group, cuts, seed)?;
        }
    }

    /// The same work with the power cut at every one of its writes and flushes.
    #[test]
    fn every_moment_is_a_good_one_for_a_power_cut() {
        let changes: Vec<Change> = (0..150u32)
            .map(|n| match n % 7 {
                6 => Change::Move((n % 12) as u8, (n % 5) as u8),
                _ => Change::Set((n % 12) as u8, (n as usize * 613) % 2500),
            })
            .collect();
        for cut in 0..200 {
            lives(changes.clone(), 2, vec![cut, u64::MAX, cut / 2, u64::MAX], cut ^ 0x5eed).unwrap();
        }
    }

    /// A value may contain whole sectors that look like frames. Behind a torn frame that held it, the
    /// log goes on right up to such a sector, which then must not count.
    #[test]
    fn a_forged_frame_is_not_replayed() {
        block_on(async {
            let disk = FaultyDisk::new(vec![0; 256 * SECTOR_SIZE], u64::MAX);
            let (journal, store, _) = Journal::open(disk.clone(), 77).await.unwrap();
            let store = RefCell::new(store);
            let mut evil = vec![0; HEADER];
            Op::Set { key: b"evil", value: b"1", expires: None }.encode(&mut evil);
            // The forger knows everything but the salt.
            Place::first(76).seal(&mut Vec::from(&evil[..]));
            let next = Place::first(76).seal(&mut [0; HEADER].to_vec());
            next.seal(&mut evil);
            let mut ops = Vec::new();
            Op::Set { key: b"good", value: b"2", expires: None }.encode(&mut ops);
            journal.append(&ops);
            journal.commit(&store, 1, 0).await.unwrap();
            disk.write(17, &evil).await.unwrap();
            let (_, store, recovery) = Journal::open(disk, 1).await.unwrap();
            assert_eq!((store.len(), recovery.frames), (1, 1));
        });
    }

    #[test]
    fn a_volume_with_other_data_is_left_alone() {
        block_on(async {
            let mut image = vec![0; 256 * SECTOR_SIZE];
            image[1024 + 56] = 0x53;
            let disk = FaultyDisk::new(image, u64::MAX);
            assert_eq!(Journal::open(disk, 1).await.err(), Some(OpenError::Foreign));
            let disk = FaultyDisk::new(vec![0; 20 * SECTOR_SIZE], u64::MAX);
            assert_eq!(Journal::open(disk, 1).await.err(), Some(OpenError::Small));
        });
    }
}
