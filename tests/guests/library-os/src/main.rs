//! A guest that tests the library OS against the hypervisor and the toolstack it runs on, as the
//! initial domain or as an ordinary one (then with xenstore).
//!
//! Each check prints `PASS name` or `FAIL name: what`; the last line is `library-os: N passed, M
//! failed`, then the domain powers off. What is expected is what Xen 4.17 was seen to answer, so
//! the same run on another hypervisor shows where it differs. The command line can ask for an end
//! by a fault instead: `crash=page`, `crash=stack`, `crash=panic`; or, with `wait=1`, to stay until
//! the toolstack stops the domain.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod grants;
mod memory;
mod store;
mod tasks;

use alloc::string::String;
use guest_kernel::lifecycle::stop_requested;
use guest_kernel::shared_abi::DomId;
use guest_kernel::{Local, System, println};

/// This domain.
static ME: Local<DomId> = Local::new(|| DomId(0));

/// This domain's number: grants to oneself want it spelt out.
fn me() -> DomId {
    ME.with(|me| *me)
}

/// What a check found wrong.
type Verdict = Result<(), String>;

/// Ends a check with a message unless the two are equal.
macro_rules! check_eq {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) if left == right => {}
            (left, right) => return Err(alloc::format!("{} is {left:?}, not {right:?}", stringify!($left))),
        }
    };
}
pub(crate) use check_eq;

guest_kernel::main! {
    async fn main(sys: System) {
        match sys.boot.option("crash") {
            Some("page") => memory::write_to_read_only_page(),
            Some("stack") => println!("{}", recurse(1)),
            Some(why) => panic!("asked to: {why}"),
            None => {}
        }
        if let Some(store) = &sys.store {
            let own = store.read_parsed("domid").await.unwrap_or(0);
            ME.with(|me| *me = DomId(own));
        }
        let (mut passed, mut failed) = (0, 0);
        let mut judge = |name: &str, verdict: Verdict| match verdict {
            Ok(()) => {
                println!("PASS {name}");
                passed += 1;
            }
            Err(why) => {
                println!("FAIL {name}: {why}");
                failed += 1;
            }
        };
        judge("the heap gives pages back", memory::heap());
        judge("shared pages hold what is written", memory::pages());
        judge("frames become contiguous for a device", memory::contiguous());
        judge("the balloon goes down and up", memory::balloon());
        judge("memory can be used to the last frame", memory::exhaustion());
        if sys.boot.initial {
            judge("memory of nobody and of ourselves is refused", memory::refusals());
            judge("firmware's memory can be read", memory::firmware());
        }
        judge("a granted page is shared", grants::map());
        judge("bad references are refused", grants::bad_references());
        judge("copies by reference", grants::copies());
        judge("grants run out and come back", grants::exhaustion());
        judge("a mapped page outlives its grant", grants::outlives());
        judge("events go back and forth", tasks::events().await);
        judge("ports are closed", tasks::ports());
        judge("sleeps take their time", tasks::sleeps().await);
        judge("a quiet channel times out", tasks::timeouts().await);
        if let Some(store) = &sys.store {
            judge("nodes are written and read", store::nodes(store).await);
            judge("transactions are all or nothing", store::transactions(store).await);
            judge("a watch tells of changes", store::watches(store).await);
            judge("the store refuses what is not ours", store::refusals(store).await);
            judge("many requests at once", store::concurrency(store).await);
        }
        println!("library-os: {passed} passed, {failed} failed");
        if sys.boot.option("wait").is_some() {
            println!("asked to stop: {:?}", stop_requested().await);
        }
    }
}

/// Uses up the stack, long before the count is reached.
fn recurse(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { frame[1] + recurse(depth + 1) + frame[2] }
}
