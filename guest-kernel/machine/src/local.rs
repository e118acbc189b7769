//! State of the single vcpu, safe to reach from anywhere.
//!
//! A static needs `Sync`; a lock would be a lie about a machine with one vcpu whose upcalls never
//! run Rust code. [`Local`] hands out `&mut T` for the length of a closure and panics on
//! re-entrance, the one way left to get two of them. The decision that mattered was the host:
//! tests there run on many threads, so each thread gets its own `T` and no soundness argument
//! depends on the number of threads.

use core::cell::RefCell;

/// A lazily initialised value owned by the vcpu (on the host: by the thread).
pub struct Local<T: 'static> {
    init: fn() -> T,
    #[cfg(target_os = "none")]
    cell: core::cell::OnceCell<RefCell<T>>,
}

// SAFETY: on the target only one thread of execution exists: one vcpu, no preemption, and the
// upcall and trap handlers never touch a `Local`. On the host the value lives in thread-local
// storage and the struct itself is an immutable function pointer.
unsafe impl<T> Sync for Local<T> {}

impl<T: 'static> Local<T> {
    /// A value that `init` makes at the first use.
    pub const fn new(init: fn() -> T) -> Self {
        Local {
            init,
            #[cfg(target_os = "none")]
            cell: core::cell::OnceCell::new(),
        }
    }

    /// Runs `f` with the value. Panics if called again from within `f`.
    #[cfg(target_os = "none")]
    pub fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.cell.get_or_init(|| RefCell::new((self.init)())).borrow_mut())
    }

    /// Runs `f` with this thread's value, which lives for ever, like a static: nothing is torn
    /// down at the thread's end in an order that the target does not have. Panics if called again
    /// from within `f`.
    #[cfg(not(target_os = "none"))]
    pub fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        use std::any::Any;
        use std::collections::HashMap;
        std::thread_local! {
            static VALUES: RefCell<HashMap<usize, &'static dyn Any>> = RefCell::default();
        }
        let key = core::ptr::from_ref(self).addr();
        let known = VALUES.with(|v| v.borrow().get(&key).copied());
        let value = known.unwrap_or_else(|| {
            let new: &'static dyn Any =
                std::boxed::Box::leak(std::boxed::Box::new(RefCell::new((self.init)())));
            VALUES.with(|v| v.borrow_mut().insert(key, new));
            new
        });
        let cell = value.downcast_ref::<RefCell<T>>().expect("a Local has one type");
        f(&mut cell.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNT: Local<u32> = Local::new(|| 7);

    #[test]
    fn keeps_its_value_and_each_thread_has_its_own() {
        COUNT.with(|c| *c += 1);
        assert_eq!(COUNT.with(|c| *c), 8);
        assert_eq!(std::thread::spawn(|| COUNT.with(|c| *c)).join().unwrap(), 7);
    }

    #[test]
    #[should_panic]
    fn refuses_re_entrance() {
        COUNT.with(|_| COUNT.with(|c| *c));
    }
}
