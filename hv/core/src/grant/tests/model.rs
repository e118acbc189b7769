//! Random operations of three domains, some of them hostile, against a model that keeps uses in
//! plain maps. After each, every entry's marks and every page-table entry are compared; at the
//! end all domains are destroyed, in whatever state they are, and every frame must be back.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;

use super::*;
use shared_abi::errno::Errno;

#[derive(Clone, Copy, Debug)]
enum Op {
    Grant { dom: usize, gref: u32, to: usize, frame: usize, flags: u16 },
    Scribble { dom: usize, gref: u32, word: u32 },
    Map { dom: usize, from: usize, gref: u32, slot: usize, flags: u32 },
    Unmap { dom: usize, handle: u32, slot: usize, host: bool, device: bool },
    Overwrite { dom: usize, slot: usize },
    Upgrade { dom: usize, slot: usize },
    Copy { dom: usize, from: usize, gref: u32, write: bool },
    Pin { dom: usize, frame: usize },
    Unpin { dom: usize, frame: usize },
    SetVersion { dom: usize },
    Destroy { dom: usize },
}

/// Some of those that a change of the version keeps, and some others.
const GREFS: core::ops::Range<u32> = 6..10;
const SLOTS: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let dom = || 0..3usize;
    let gref = || prop_oneof![9 => GREFS, 1 => Just(700u32)];
    let slot = || 1..SLOTS;
    let map_flags = prop::sample::select(std::vec![
        HOST,
        HOST | RO,
        HOST,
        HOST | RO,
        HOST | GNTMAP_DEVICE_MAP,
        GNTMAP_DEVICE_MAP | RO,
        RO
    ]);
    let entry_flags = prop::sample::select(std::vec![
        GTF_PERMIT_ACCESS,
        GTF_PERMIT_ACCESS,
        GTF_PERMIT_ACCESS | GTF_READONLY,
        GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
        GTF_INVALID,
        GTF_TRANSITIVE
    ]);
    prop_oneof![
        6 => (dom(), GREFS, dom(), 0..DATA + 2, entry_flags)
            .prop_map(|(dom, gref, to, frame, flags)| Op::Grant { dom, gref, to, frame, flags }),
        1 => (dom(), GREFS, any::<u32>()).prop_map(|(dom, gref, word)| Op::Scribble { dom, gref, word }),
        10 => (dom(), dom(), gref(), slot(), map_flags)
            .prop_map(|(dom, from, gref, slot, flags)| Op::Map { dom, from, gref, slot, flags }),
        8 => (dom(), 0..6u32, slot(), any::<bool>(), any::<bool>())
            .prop_map(|(dom, handle, slot, host, device)| Op::Unmap { dom, handle, slot, host, device }),
        2 => (dom(), slot()).prop_map(|(dom, slot)| Op::Overwrite { dom, slot }),
        1 => (dom(), slot()).prop_map(|(dom, slot)| Op::Upgrade { dom, slot }),
        2 => (dom(), dom(), gref(), any::<bool>())
            .prop_map(|(dom, from, gref, write)| Op::Copy { dom, from, gref, write }),
        2 => (dom(), 0..DATA).prop_map(|(dom, frame)| Op::Pin { dom, frame }),
        2 => (dom(), 0..DATA).prop_map(|(dom, frame)| Op::Unpin { dom, frame }),
        2 => dom().prop_map(|dom| Op::SetVersion { dom }),
        1 => dom().prop_map(|dom| Op::Destroy { dom }),
    ]
}

#[derive(Clone, Copy)]
struct Mapping {
    granter: usize,
    gref: u32,
    mfn: Mfn,
    write: bool,
    host: bool,
    device: bool,
}

#[derive(Default)]
struct Model {
    /// By domain and handle.
    mappings: BTreeMap<(usize, u32), Mapping>,
    /// What stands in page tables: by domain and slot.
    slots: BTreeMap<(usize, usize), (Mfn, bool)>,
    pinned: Vec<Mfn>,
    dead: [bool; 3],
}

impl Model {
    /// The domain and frame an entry is in use with.
    fn active(&self, granter: usize, gref: u32) -> Option<(usize, Mfn)> {
        let of = |m: &&Mapping| m.granter == granter && m.gref == gref;
        self.mappings.iter().find(|(_, m)| of(m)).map(|((dom, _), m)| (*dom, m.mfn))
    }

    fn has_writer(&self, granter: usize, gref: u32) -> bool {
        self.mappings.values().any(|m| m.granter == granter && m.gref == gref && m.write)
    }

    fn is_table(&self, w: &World, mfn: Mfn) -> bool {
        self.pinned.contains(&mfn) || w.doms.iter().any(|d| d.l1 == mfn)
    }

    fn is_written(&self, mfn: Mfn) -> bool {
        self.slots.values().any(|s| *s == (mfn, true))
            || self.mappings.values().any(|m| m.mfn == mfn && m.device && m.write)
    }

    /// What a use must come to: the frame, or a status.
    fn begin(
        &self,
        w: &World,
        by: usize,
        from: usize,
        gref: u32,
        write: bool,
        map: bool,
    ) -> Result<Mfn, i16> {
        if gref >= 512 {
            return Err(GNTST_BAD_GNTREF);
        }
        if self.dead[from] {
            return Err(GNTST_GENERAL_ERROR);
        }
        let (flags, to, frame) = w.entry(from, gref);
        let to = u32::from(to.0);
        let active = self.active(from, gref);
        let unwritable = write && flags & GTF_READONLY != 0;
        let mfn = match active {
            Some((user, _)) if user != by => return Err(GNTST_GENERAL_ERROR),
            Some(_) if unwritable && !self.has_writer(from, gref) => return Err(GNTST_GENERAL_ERROR),
            Some((_, mfn)) => mfn,
            None => {
                let sub_page = map && flags & GTF_SUB_PAGE != 0;
                if flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS || to != by as u32 + 1 || unwritable || sub_page
                {
                    return Err(GNTST_GENERAL_ERROR);
                }
                let mfn = Mfn(frame);
                if mfn != w.doms[from].l1 && !w.doms[from].data.contains(&mfn) {
                    return Err(GNTST_BAD_PAGE);
                }
                mfn
            }
        };
        if write && self.is_table(w, mfn) {
            return Err(GNTST_GENERAL_ERROR);
        }
        Ok(mfn)
    }

    fn apply(&mut self, w: &mut World, op: Op) {
        let actor = match op {
            Op::Grant { dom, .. }
            | Op::Scribble { dom, .. }
            | Op::Map { dom, .. }
            | Op::Unmap { dom, .. }
            | Op::Overwrite { dom, .. }
            | Op::Upgrade { dom, .. }
            | Op::Copy { dom, .. }
            | Op::Pin { dom, .. }
            | Op::Unpin { dom, .. }
            | Op::SetVersion { dom }
            | Op::Destroy { dom } => dom,
        };
        if self.dead[actor] {
            return;
        }
        match op {
            Op::Grant { dom, gref, to, frame, flags } => {
                // A frame of its own, a page table of its own, or somebody else's frame.
                let mfn = match frame {
                    0..DATA => w.doms[dom].data[frame],
                    DATA => w.doms[dom].l1,
                    _ => w.doms[(dom + 1) % 3].data[0],
                };
                // A well-behaved guest leaves an entry in use alone.
                if self.active(dom, gref).is_none() {
                    w.write_entry(dom, gref, flags, w.doms[to].id, mfn);
                }
            }
            Op::Scribble { dom, gref, word } => {
                let marks = w.entry_flags(dom, gref) & (GTF_READING | GTF_WRITING);
                let flags = word as u16 & !(GTF_READING | GTF_WRITING) | marks;
                w.write_entry(dom, gref, flags, DomId((word >> 16) as u16), Mfn(u64::from(word) >> 3));
            }
            Op::Map { dom, from, gref, slot, flags } => {
                let (host, device) = (flags & HOST != 0, flags & GNTMAP_DEVICE_MAP != 0);
                let write = flags & RO == 0;
                let wanted = if host || device {
                    self.begin(w, dom, from, gref, write, true)
                } else {
                    Err(GNTST_BAD_GNTREF)
                };
                let got = w.map(dom, from, gref, slot, flags);
                assert_eq!(got.map(|m| Mfn(m.dev_bus_addr >> 12)), wanted.map_err(Failure::Status));
                if let (Ok(m), Ok(mfn)) = (got, wanted) {
                    let new = Mapping { granter: from, gref, mfn, write, host, device };
                    assert!(self.mappings.insert((dom, m.handle), new).is_none(), "a handle given twice");
                    if host {
                        self.slots.insert((dom, slot), (mfn, write));
                    }
                }
            }
            Op::Unmap { dom, handle, slot, host, device } => {
                let known = self.mappings.get(&(dom, handle)).copied();
                let dev_bus_addr = if device { known.map_or(4096, |m| m.mfn.0 << 12) } else { 0 };
                let host_addr = if host { slot as u64 * 4096 } else { 0 };
                let got = w.unmap(dom, &Unmap { handle, host_addr, dev_bus_addr });
                let Some(m) = known else {
                    assert_eq!(got, status(GNTST_BAD_HANDLE));
                    return;
                };
                let (host, device) = (host && m.host, device && m.device);
                if host && self.slots.get(&(dom, slot)) != Some(&(m.mfn, m.write)) {
                    assert_eq!(got, status(GNTST_GENERAL_ERROR));
                    return;
                }
                assert_eq!(got, Ok(()));
                if host {
                    self.slots.remove(&(dom, slot));
                }
                let left = Mapping { host: m.host && !host, device: m.device && !device, ..m };
                if left.host || left.device {
                    self.mappings.insert((dom, handle), left);
                } else {
                    self.mappings.remove(&(dom, handle));
                }
            }
            Op::Overwrite { dom, slot } => {
                assert!(w.update(dom, slot, 0));
                self.slots.remove(&(dom, slot));
            }
            Op::Upgrade { dom, slot } => {
                let old = w.slot(dom, slot);
                if w.update(dom, slot, old | pte::RW)
                    && let Some(entry) = self.slots.get_mut(&(dom, slot))
                {
                    let own = w.doms[dom].data.contains(&entry.0);
                    assert!(entry.1 || own, "a read-only mapping of another's frame became writable");
                    entry.1 = true;
                }
            }
            Op::Copy { dom, from, gref, write } => {
                let theirs = side(w.doms[from].id, Some(gref), Mfn(0), 0);
                let mine = side(DomId::SELF, None, w.doms[dom].data[0], 0);
                let (source, dest) = if write { (mine, theirs) } else { (theirs, mine) };
                let flags = if write { GNTCOPY_DEST_GREF } else { GNTCOPY_SOURCE_GREF };
                let op = GnttabCopy { source, dest, len: 0, flags, ..GnttabCopy::default() };
                let got = copy(w, &op, w.doms[dom].id);
                let wanted = self.begin(w, dom, from, gref, write, false).map(drop);
                let mine_is_table = !write && self.is_table(w, w.doms[dom].data[0]);
                let wanted = if mine_is_table { wanted.and(Err(GNTST_GENERAL_ERROR)) } else { wanted };
                assert_eq!(got, wanted.map_err(Failure::Status));
            }
            Op::Pin { dom, frame } => {
                let (mfn, rights) = (w.doms[dom].data[frame], Rights::plain(w.doms[dom].id));
                let done = w.frames.pin(mfn, 1, &rights, &mut w.work()).is_ok();
                assert_eq!(done, !self.pinned.contains(&mfn) && !self.is_written(mfn));
                if done {
                    self.pinned.push(mfn);
                }
            }
            Op::Unpin { dom, frame } => {
                let mfn = w.doms[dom].data[frame];
                let mut work = w.work();
                let done = w.frames.unpin(mfn, w.doms[dom].id, &mut work).is_ok();
                w.frames.settle(&mut work).unwrap();
                assert_eq!(done, self.pinned.contains(&mfn));
                self.pinned.retain(|p| *p != mfn);
            }
            Op::SetVersion { dom } => {
                let version = w.doms[dom].table.borrow().version();
                let kept = || (0..8).map(|gref| w.entry(dom, gref).0 & GTF_TYPE_MASK);
                let wanted =
                    if GREFS.skip_while(|gref| *gref < 8).any(|gref| self.active(dom, gref).is_some()) {
                        Err(Errno::EBUSY)
                    } else if version == 2 && kept().any(|kind| kind == GTF_TRANSITIVE) {
                        Err(Errno::ERANGE)
                    } else {
                        Ok(())
                    };
                let got = w.doms[dom].table.borrow_mut().set_version(3 - version);
                assert_eq!(got, wanted);
            }
            Op::Destroy { dom } => {
                w.destroy(dom);
                self.dead[dom] = true;
                self.mappings.retain(|(d, _), _| *d != dom);
                self.slots.retain(|(d, _), _| *d != dom);
                self.pinned.retain(|p| !w.doms[dom].data.contains(p));
            }
        }
    }

    fn check(&self, w: &World) {
        for (dom, d) in w.doms.iter().enumerate() {
            let mut in_use = 0;
            for gref in GREFS {
                let (mut marks, mut uses) = (0, 0);
                if self.active(dom, gref).is_some() {
                    marks |= GTF_READING;
                    uses += 1;
                }
                if self.has_writer(dom, gref) {
                    marks |= GTF_WRITING;
                }
                in_use += uses;
                assert_eq!(
                    w.entry_flags(dom, gref) & (GTF_READING | GTF_WRITING),
                    marks,
                    "marks of {gref} of {dom}"
                );
            }
            assert_eq!(d.table.borrow().pinned(), in_use);
            assert_eq!(
                d.track.borrow().used() as usize,
                self.mappings.keys().filter(|(d, _)| *d == dom).count()
            );
            if self.dead[dom] {
                continue;
            }
            for slot in 1..SLOTS {
                let entry = w.slot(dom, slot);
                let stands = (entry & pte::PRESENT != 0).then(|| (pte::mfn(entry), entry & pte::RW != 0));
                assert_eq!(stands, self.slots.get(&(dom, slot)).copied());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn three_domains_agree_with_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(3);
        let mut model = Model::default();
        for op in ops {
            model.apply(&mut world, op);
            model.check(&world);
        }
        world.end();
    }
}
