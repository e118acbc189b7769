//! The machine as plain memory, for tests that run both halves of a driver in one process.

use crate::share::{CopyIn, CopyOut, Doorbell, GrantedPage, PAGE_SIZE, PeerMemory, ShareError, SharedMem};
use shared_abi::GrantRef;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::vec::Vec;

/// A page both sides see.
#[derive(Clone)]
pub struct Page(Rc<[Cell<u8>]>);

impl Page {
    pub fn new() -> Self {
        Page((0..PAGE_SIZE).map(|_| Cell::new(0)).collect())
    }
}

impl SharedMem for Page {
    fn len(&self) -> usize {
        PAGE_SIZE
    }
    fn read(&self, at: usize, to: &mut [u8]) {
        let from = &self.0[at..][..to.len()];
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.get();
        }
    }
    fn write(&self, at: usize, from: &[u8]) {
        for (to, from) in self.0[at..][..from.len()].iter().zip(from) {
            to.set(*from);
        }
    }
    fn load(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn store(&self, at: usize, value: u32) {
        self.write(at, &value.to_le_bytes());
    }
}

/// One domain's grant table, and how its peer uses it.
#[derive(Default)]
pub struct Grants {
    table: RefCell<BTreeMap<u32, Page>>,
    next: Cell<u32>,
    mapped: Cell<usize>,
}

impl Grants {
    pub fn new() -> Rc<Self> {
        Rc::new(Grants { next: Cell::new(8), ..Grants::default() })
    }

    pub fn grant(self: &Rc<Self>) -> Granted {
        let page = Page::new();
        let gref = self.next.get();
        self.next.set(gref + 1);
        self.table.borrow_mut().insert(gref, page.clone());
        Granted { gref, page, grants: self.clone() }
    }

    pub fn pages(self: &Rc<Self>, count: usize) -> Vec<Granted> {
        (0..count).map(|_| self.grant()).collect()
    }

    pub fn page(&self, gref: GrantRef) -> Option<Page> {
        self.table.borrow().get(&gref.0).cloned()
    }

    /// Pages the peer has mapped now.
    pub fn mapped(&self) -> usize {
        self.mapped.get()
    }

    /// Pages granted now.
    pub fn granted(&self) -> usize {
        self.table.borrow().len()
    }
}

pub struct Granted {
    gref: u32,
    page: Page,
    grants: Rc<Grants>,
}

impl Granted {
    pub fn share(&self) -> Page {
        self.page.clone()
    }
}

impl SharedMem for Granted {
    fn len(&self) -> usize {
        PAGE_SIZE
    }
    fn read(&self, at: usize, to: &mut [u8]) {
        self.page.read(at, to)
    }
    fn write(&self, at: usize, from: &[u8]) {
        self.page.write(at, from)
    }
    fn load(&self, at: usize) -> u32 {
        self.page.load(at)
    }
    fn store(&self, at: usize, value: u32) {
        self.page.store(at, value)
    }
}

impl GrantedPage for Granted {
    fn gref(&self) -> GrantRef {
        GrantRef(self.gref)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.grants.table.borrow_mut().remove(&self.gref);
    }
}

/// A mapping of a peer's page; counted.
pub struct Mapping {
    page: Page,
    grants: Rc<Grants>,
}

impl SharedMem for Mapping {
    fn len(&self) -> usize {
        PAGE_SIZE
    }
    fn read(&self, at: usize, to: &mut [u8]) {
        self.page.read(at, to)
    }
    fn write(&self, at: usize, from: &[u8]) {
        self.page.write(at, from)
    }
    fn load(&self, at: usize) -> u32 {
        self.page.load(at)
    }
    fn store(&self, at: usize, value: u32) {
        self.page.store(at, value)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.grants.mapped.set(self.grants.mapped.get() - 1);
    }
}

impl PeerMemory for Grants {
    type Mapping = Mapping;
    fn map(&self, _: GrantRef) -> Result<Mapping, ShareError> {
        unreachable!("tests map through Peer")
    }
    fn copy_in(&self, batch: &mut [CopyIn<'_>]) {
        for copy in batch {
            copy.result = match self.page(copy.gref) {
                Some(page) if usize::from(copy.offset) + copy.to.len() <= PAGE_SIZE => {
                    page.read(copy.offset.into(), copy.to);
                    Ok(())
                }
                _ => Err(ShareError::BadGrant),
            };
        }
    }
    fn copy_out(&self, batch: &mut [CopyOut<'_>]) {
        for copy in batch {
            copy.result = match self.page(copy.gref) {
                Some(page) if usize::from(copy.offset) + copy.from.len() <= PAGE_SIZE => {
                    page.write(copy.offset.into(), copy.from);
                    Ok(())
                }
                _ => Err(ShareError::BadGrant),
            };
        }
    }
}

/// A backend's view of the frontend's grants.
#[derive(Clone)]
pub struct Peer(pub Rc<Grants>);

impl PeerMemory for Peer {
    type Mapping = Mapping;
    fn map(&self, gref: GrantRef) -> Result<Mapping, ShareError> {
        let page = self.0.page(gref).ok_or(ShareError::BadGrant)?;
        self.0.mapped.set(self.0.mapped.get() + 1);
        Ok(Mapping { page, grants: self.0.clone() })
    }
    fn copy_in(&self, batch: &mut [CopyIn<'_>]) {
        self.0.copy_in(batch)
    }
    fn copy_out(&self, batch: &mut [CopyOut<'_>]) {
        self.0.copy_out(batch)
    }
}

/// One end of an event channel.
#[derive(Default)]
pub struct Bell {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    other: RefCell<Weak<Bell>>,
    /// How often the other end was rung from here.
    pub rung: Cell<u64>,
}

impl Bell {
    pub fn pair() -> (Rc<Bell>, Rc<Bell>) {
        let (a, b) = (Rc::new(Bell::default()), Rc::new(Bell::default()));
        *a.other.borrow_mut() = Rc::downgrade(&b);
        *b.other.borrow_mut() = Rc::downgrade(&a);
        (a, b)
    }
}

impl Doorbell for Bell {
    fn notify(&self) {
        self.rung.set(self.rung.get() + 1);
        if let Some(other) = self.other.borrow().upgrade() {
            other.raised.set(true);
            if let Some(waker) = other.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
    fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A small random number generator, so that a failing case is repeated by its seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Task<'a> = (u32, Arc<Flag>, Pin<Box<dyn Future<Output = ()> + 'a>>);

/// Runs tasks in random order, each only when it has been woken: a lost wake-up is a stall.
pub struct Tasks<'a> {
    tasks: Vec<Task<'a>>,
    rng: Rng,
}

impl<'a> Tasks<'a> {
    pub fn new(seed: u64) -> Self {
        Tasks { tasks: Vec::new(), rng: Rng(seed) }
    }

    /// Adds a task to `group`.
    pub fn spawn(&mut self, group: u32, task: impl Future<Output = ()> + 'a) {
        self.tasks.push((group, Arc::new(Flag(AtomicBool::new(true))), Box::pin(task)));
    }

    /// Drops all tasks of `group` where they stand.
    pub fn kill(&mut self, group: u32) {
        self.tasks.retain(|task| task.0 != group);
    }

    /// Number of unfinished tasks in `group`.
    pub fn alive(&self, group: u32) -> usize {
        self.tasks.iter().filter(|task| task.0 == group).count()
    }

    /// Polls woken tasks until none is left, or `limit` polls were made.
    pub fn run(&mut self, limit: usize) {
        for _ in 0..limit {
            let ready: Vec<usize> =
                (0..self.tasks.len()).filter(|&index| self.tasks[index].1.0.load(Ordering::SeqCst)).collect();
            if ready.is_empty() {
                return;
            }
            let index = ready[self.rng.below(ready.len() as u64) as usize];
            let (_, flag, task) = &mut self.tasks[index];
            flag.0.store(false, Ordering::SeqCst);
            let waker = Waker::from(flag.clone());
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                drop(self.tasks.swap_remove(index));
            }
        }
    }
}

/// Lets other tasks run `times` times.
pub async fn pause(times: u64) {
    for _ in 0..times {
        let mut polled = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
