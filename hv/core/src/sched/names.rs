//! Who bears which of a policy's numbers.

use super::{Handle, Policy};
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_machine::lock::{Mutex, rank};
use shared_abi::errno::Errno;

/// The bearers, by number.
pub struct Names<T>(Mutex<Vec<Option<Arc<T>>>>);

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Names<T> {
    /// Nobody bears one.
    pub const fn new() -> Names<T> {
        Names(Mutex::new(rank::SCHED, Vec::new()))
    }

    /// Who bears a number.
    pub fn get(&self, number: Handle) -> Option<Arc<T>> {
        self.0.lock().get(number as usize).cloned().flatten()
    }

    /// Says who bears a number that a policy has just given out.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set(&self, number: Handle, bearer: Arc<T>) -> Result<(), Errno> {
        let mut all = self.0.lock();
        let i = number as usize;
        let more = (i + 1).saturating_sub(all.len());
        all.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        all.extend((0..more).map(|_| None));
        all[i] = Some(bearer);
        Ok(())
    }

    /// Takes a number that `bearer` bore away from the policy and from it; whether that is done, now or before. Once it
    /// is, the number may be another's, which stays.
    pub fn remove(&self, number: Handle, bearer: &T, policy: &impl Policy) -> bool {
        let is = |now: &mut Arc<T>| core::ptr::eq(&raw const **now, bearer);
        if !self.get(number).is_some_and(|mut now| is(&mut now)) {
            return true;
        }
        if policy.remove(number).is_err() {
            return false;
        }
        let gone = self.0.lock().get_mut(number as usize).and_then(|slot| slot.take_if(is));
        drop(gone);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{Credit, Params};

    /// A domain's destruction takes its vcpus' numbers one by one, and begins anew when one is still on a CPU. Those that
    /// it had taken before were not there to be taken then, so it never ended; and one that had been given out again
    /// meanwhile was taken from another domain's vcpu.
    #[test]
    fn a_number_is_taken_once_and_its_next_bearer_keeps_it() {
        let sched = Credit::new(1).unwrap();
        let names = Names::new();
        let vcpu = |name: &'static str| {
            let (number, vcpu) = (sched.insert(Params::default()).unwrap(), Arc::new(name));
            names.set(number, vcpu.clone()).unwrap();
            (number, vcpu)
        };
        let (first, second) = (vcpu("first"), vcpu("second"));
        let _ = sched.wake(second.0, 0);
        assert_eq!(sched.pick(0, 0).run, Some(second.0));
        let remove = |of: &(Handle, Arc<&'static str>)| names.remove(of.0, &*of.1, &sched);
        assert!(remove(&first));
        assert!(!remove(&second), "it runs");
        assert!(remove(&first), "nobody bears its number");
        let another = vcpu("another");
        assert_eq!(another.0, first.0);
        assert!(remove(&first), "another bears its number");
        assert!(sched.params(another.0).is_ok() && names.get(another.0).is_some());

        let _ = sched.sleep(second.0);
        assert_eq!(sched.pick(0, 10).run, None);
        assert!(!remove(&second), "its registers are on the CPU");
        let _ = sched.descheduled(second.0);
        assert!(remove(&second) && names.get(second.0).is_none());
    }
}
