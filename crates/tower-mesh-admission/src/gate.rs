//! How many calls are under way, and who waits for one of them to end.
//!
//! One word holds both numbers, so that each step is one atomic change of it: a call that comes cannot miss that others wait before it, and one that ends cannot
//! miss a call that has just begun to wait. The word counts what waits before the queue holds it, both under the queue's lock.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tower_mesh_core::Priority;

use crate::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use crate::sync::{Mutex, MutexGuard};

pub(crate) struct Gate {
    /// Calls under way in the low half, calls that wait in the high half.
    word: AtomicU64,
    /// How many may be under way for a call of each priority to be the last of them.
    places: [AtomicU32; 3],
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<Key, oneshot::Sender<u32>>,
    next: u64,
}

/// The place in the queue: the highest priority first, and of those the first that came.
pub(crate) type Key = (Reverse<Priority>, u64);

/// What becomes of a call at the gate for which there is room.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is under way, as one of so many.
    Now(u32),
    /// It waits for leave, which tells it of how many it is one.
    Wait(Key, oneshot::Receiver<u32>),
}

const ONE_WAITS: u64 = 1 << 32;

const fn under_way(word: u64) -> u32 {
    word as u32
}

impl Gate {
    pub(crate) fn new(places: [u32; 3]) -> Self {
        Self {
            word: AtomicU64::new(0),
            places: places.map(AtomicU32::new),
            queue: Mutex::new(Queue::default()),
        }
    }

    /// Calls under way, and calls that wait.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let word = self.word.load(Relaxed);
        (under_way(word), (word >> 32) as u32)
    }

    /// Admits a call if there is room and nobody waits; of how many under way it is one.
    #[inline]
    pub(crate) fn try_enter(&self, priority: Priority) -> Option<u32> {
        let places = self.places(priority);
        let enter = |word: u64| (word < u64::from(places)).then(|| word + 1);
        self.word.fetch_update(AcqRel, Acquire, enter).ok().map(|word| under_way(word) + 1)
    }

    /// As [`try_enter`](Self::try_enter), past those who wait if they are less important, and else to wait if fewer than `max_waiting` do. Where as many do, the
    /// last and least of them loses its place to one that is more important.
    #[cold]
    pub(crate) fn enter(&self, priority: Priority, max_waiting: u32) -> Option<Entry> {
        let displaced;
        let mut queue = self.lock();
        let places = self.places(priority);
        let ahead = queue.waiting.first_key_value().is_some_and(|((first, _), _)| first.0 >= priority);
        let is_full = queue.waiting.len() >= max_waiting as usize;
        let weakest = queue.waiting.last_key_value().map(|(key, _)| *key);
        let instead = weakest.filter(|(weakest, _)| is_full && max_waiting > 0 && weakest.0 < priority);
        let step = |word: u64| match (!ahead && under_way(word) < places, is_full, instead) {
            (true, ..) => Some(word + 1),
            (false, false, _) => Some(word + ONE_WAITS),
            (false, true, Some(_)) => Some(word),
            (false, true, None) => None,
        };
        match self.word.fetch_update(AcqRel, Acquire, step) {
            Err(_) => return None,
            Ok(word) if !ahead && under_way(word) < places => return Some(Entry::Now(under_way(word) + 1)),
            Ok(_) => displaced = instead.and_then(|key| queue.waiting.remove(&key)),
        }
        let key = (Reverse(priority), queue.next);
        queue.next += 1;
        let (leave, waits) = oneshot::channel();
        queue.waiting.insert(key, leave);
        drop(queue);
        // Wakes it: after the lock.
        drop(displaced);
        Some(Entry::Wait(key, waits))
    }

    /// A call has ended.
    #[inline]
    pub(crate) fn leave(&self) {
        let before = self.word.fetch_sub(1, AcqRel);
        debug_assert!(under_way(before) > 0, "a call leaves that never entered");
        if before >= ONE_WAITS {
            self.hand_over();
        }
    }

    /// A call does not wait any more. Leave that it was given meanwhile is given back.
    #[cold]
    pub(crate) fn give_up(&self, key: Key, waits: &mut oneshot::Receiver<u32>) {
        let own = {
            let mut queue = self.lock();
            let own = queue.waiting.remove(&key);
            if own.is_some() {
                self.word.fetch_sub(ONE_WAITS, AcqRel);
            }
            own
        };
        if own.is_none() {
            waits.close();
            if waits.try_recv().is_ok() {
                self.leave();
            }
        }
    }

    /// Sets how many may be under way. [`hand_over`](Self::hand_over) is to follow, once no lock is held.
    #[cold]
    pub(crate) fn set_places(&self, places: [u32; 3]) {
        // Under the lock: who is about to wait sees the new numbers, or is seen by the hand-over.
        let _queue = self.lock();
        for (place, new) in self.places.iter().zip(places) {
            place.store(new, Release);
        }
    }

    /// Gives leave to those who wait, as far as there is room.
    #[cold]
    pub(crate) fn hand_over(&self) {
        let mut given = Vec::new();
        {
            let mut queue = self.lock();
            while let Some(first) = queue.waiting.first_entry() {
                let places = self.places(first.key().0.0);
                let step = |word: u64| (under_way(word) < places).then(|| word + 1 - ONE_WAITS);
                match self.word.fetch_update(AcqRel, Acquire, step) {
                    Ok(word) => given.push((first.remove(), under_way(word) + 1)),
                    Err(_) => break,
                }
            }
        }
        // Wakes them: after the lock.
        for (leave, number) in given {
            if leave.send(number).is_err() {
                self.leave();
            }
        }
    }

    #[inline]
    fn places(&self, priority: Priority) -> u32 {
        self.places[priority as usize].load(Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NORMAL: Priority = Priority::Normal;

    fn wait(gate: &Gate, priority: Priority) -> (Key, oneshot::Receiver<u32>) {
        match gate.enter(priority, 4) {
            Some(Entry::Wait(key, waits)) => (key, waits),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_most_important_goes_first_and_of_these_the_first_that_came() {
        let gate = Gate::new([1, 1, 1]);
        assert_eq!(gate.try_enter(NORMAL), Some(1));
        let (_, mut first) = wait(&gate, NORMAL);
        let (_, mut second) = wait(&gate, NORMAL);
        let (_, mut third) = wait(&gate, NORMAL);
        let (_, mut critical) = wait(&gate, Priority::Critical);
        assert!(gate.enter(NORMAL, 4).is_none());
        assert_eq!(gate.counts(), (1, 4));
        for waits in [&mut critical, &mut first, &mut second, &mut third] {
            assert!(waits.try_recv().is_err());
            gate.leave();
            assert_eq!(waits.try_recv(), Ok(1));
        }
        assert_eq!(gate.counts(), (1, 0));
    }

    #[test]
    fn nobody_overtakes_but_the_more_important() {
        let gate = Gate::new([1, 2, 3]);
        assert_eq!((gate.try_enter(NORMAL), gate.try_enter(NORMAL)), (Some(1), Some(2)));
        let (_, mut waits) = wait(&gate, NORMAL);
        assert_eq!(gate.try_enter(Priority::Critical), None, "somebody waits, that much is seen at once");
        assert!(matches!(gate.enter(Priority::Critical, 3), Some(Entry::Now(3))));
        gate.leave();
        assert!(waits.try_recv().is_err(), "two are under way still");
        gate.leave();
        assert_eq!(waits.try_recv(), Ok(2));
    }

    #[test]
    fn a_full_queue_makes_room_for_the_more_important() {
        let gate = Gate::new([1, 1, 1]);
        assert!(gate.try_enter(NORMAL).is_some());
        let (_, mut shed) = wait(&gate, Priority::Sheddable);
        let _normal = [wait(&gate, NORMAL), wait(&gate, NORMAL), wait(&gate, NORMAL)];
        assert!(gate.enter(Priority::Sheddable, 4).is_none());
        let (..) = wait(&gate, Priority::Critical);
        assert_eq!(shed.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(gate.counts(), (1, 4));
        assert!(gate.enter(Priority::Critical, 0).is_none(), "nobody may wait any more");
    }

    #[test]
    fn who_does_not_wait_any_more_leaves_no_place_taken() {
        let gate = Gate::new([1, 1, 1]);
        assert!(gate.try_enter(NORMAL).is_some());
        let (key, mut gone) = wait(&gate, NORMAL);
        let (late_key, mut late) = wait(&gate, NORMAL);
        gate.give_up(key, &mut gone);
        assert_eq!(gate.counts(), (1, 1));
        gate.leave();
        assert_eq!(gate.counts(), (1, 0), "it has leave, and does not know yet");
        gate.give_up(late_key, &mut late);
        assert_eq!(gate.counts(), (0, 0));
    }

    #[test]
    fn more_room_is_given_to_those_who_wait_at_once() {
        let gate = Gate::new([1, 1, 1]);
        assert!(gate.try_enter(NORMAL).is_some());
        let (_, mut waits) = wait(&gate, NORMAL);
        gate.set_places([2, 2, 2]);
        gate.hand_over();
        assert_eq!(waits.try_recv(), Ok(2));
        gate.set_places([1, 1, 1]);
        gate.leave();
        assert_eq!(
            (gate.try_enter(NORMAL), gate.counts()),
            (None, (1, 0)),
            "less room: none is taken away, none given"
        );
    }
}

#[cfg(all(loom, test))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// What a call does that waits if it must, and comes back later to see.
    enum Held {
        Entered,
        Waits(Key, oneshot::Receiver<u32>),
        Refused,
    }

    fn call(gate: &Gate, priority: Priority) -> Held {
        if gate.try_enter(priority).is_some() {
            return Held::Entered;
        }
        match gate.enter(priority, 1) {
            Some(Entry::Now(_)) => Held::Entered,
            Some(Entry::Wait(key, waits)) => Held::Waits(key, waits),
            None => Held::Refused,
        }
    }

    #[test]
    fn loom_nobody_waits_for_ever_and_no_more_than_the_limit_are_under_way() {
        loom::model(|| {
            let gate = Arc::new(Gate::new([1, 1, 1]));
            assert!(gate.try_enter(Priority::Normal).is_some());
            let other = {
                let gate = gate.clone();
                thread::spawn(move || call(&gate, Priority::Normal))
            };
            gate.leave();
            match other.join().unwrap() {
                Held::Entered => {}
                Held::Waits(_, mut waits) => assert_eq!(waits.try_recv(), Ok(1), "the end was missed"),
                Held::Refused => panic!("there was a place to wait"),
            }
            assert_eq!(gate.counts(), (1, 0));
        });
    }

    #[test]
    fn loom_leave_given_to_one_that_gives_up_is_not_lost() {
        loom::model(|| {
            let gate = Arc::new(Gate::new([1, 1, 1]));
            assert!(gate.try_enter(Priority::Normal).is_some());
            let Held::Waits(key, mut waits) = call(&gate, Priority::Normal) else { panic!("it waits") };
            let other = {
                let gate = gate.clone();
                thread::spawn(move || gate.leave())
            };
            gate.give_up(key, &mut waits);
            other.join().unwrap();
            assert_eq!(gate.counts(), (0, 0));
        });
    }

    #[test]
    fn loom_a_limit_that_grows_meets_one_that_begins_to_wait() {
        loom::model(|| {
            let gate = Arc::new(Gate::new([1, 1, 1]));
            assert!(gate.try_enter(Priority::Normal).is_some());
            let other = {
                let gate = gate.clone();
                thread::spawn(move || call(&gate, Priority::Normal))
            };
            gate.set_places([2, 2, 2]);
            gate.hand_over();
            match other.join().unwrap() {
                Held::Entered => {}
                Held::Waits(_, mut waits) => assert_eq!(waits.try_recv(), Ok(2), "the growth was missed"),
                Held::Refused => panic!("there was a place to wait"),
            }
            assert_eq!(gate.counts(), (2, 0));
        });
    }

    #[test]
    fn loom_two_at_one_place() {
        loom::model(|| {
            let gate = Arc::new(Gate::new([1, 1, 1]));
            let other = {
                let gate = gate.clone();
                thread::spawn(move || {
                    let entered = gate.try_enter(Priority::Normal).is_some();
                    if entered {
                        gate.leave();
                    }
                    entered
                })
            };
            let own = gate.try_enter(Priority::Normal).is_some();
            if own {
                gate.leave();
            }
            assert!(other.join().unwrap() || own, "a place, and nobody got it");
            assert_eq!(gate.counts(), (0, 0));
        });
    }
}
