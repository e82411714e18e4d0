//! What belongs to one call, whatever its request type, lent for the length of each poll.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::operation::Operation;
use crate::tick::Tick;

/// What the layers of one call tell each other.
///
/// The outer layer owns it and [`lend`](CallContext::lend)s it, in a thread-local, while it polls its inner service; inner layers read and
/// write it through [`CallContext::with`]. So it passes through layers that know nothing of it, needs nothing of the request, and costs
/// no allocation. A layer that moves the call to another task (tower's `Buffer`) loses it: the call then goes on without
/// exclusion of endpoints already tried, and each layer reads its own clock.
///
/// ```
/// use tower_mesh_core::CallContext;
/// let mut call = CallContext::new().with_hash_key(7);
/// call.lend(|| {
///     assert_eq!(CallContext::with(|call| call.hash_key()), Some(Some(7)));
/// });
/// assert!(CallContext::with(|_| ()).is_none(), "nothing is lent outside");
/// ```
#[derive(Debug)]
pub struct CallContext(Facts);

/// Copied in and out when the context is lent; a context itself is not, or two of them would know different things of one call.
#[derive(Debug, Clone, Copy)]
struct Facts {
    started: Option<Tick>,
    ended: Option<Tick>,
    deadline: Option<Tick>,
    /// One more than the key would be, so that none costs no room.
    hash_key: Option<NonZeroU64>,
    tried: Tried,
    operation: Option<Operation>,
    drop_reason: Option<DropReason>,
    deadline_kept: bool,
    gave_up: bool,
    /// It is that of work which makes calls, not of a call.
    around_calls: bool,
    lent: Lending,
}

/// Whether a context stands in [`CURRENT`], and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lending {
    No,
    /// To the layers of its call.
    ToCall,
    /// To work that makes calls, each of which begins a context of its own.
    AroundCalls,
}

thread_local! {
    /// The context lent now, or one that is not lent.
    static CURRENT: RefCell<CallContext> = const { RefCell::new(CallContext::EMPTY) };
}

impl CallContext {
    const EMPTY: Self = Self(Facts {
        started: None,
        ended: None,
        deadline: None,
        deadline_kept: false,
        drop_reason: None,
        hash_key: None,
        operation: None,
        tried: Tried { keys: [0; Tried::MAX] },
        gave_up: false,
        around_calls: false,
        lent: Lending::No,
    });

    /// A context of which nothing is known yet.
    pub fn new() -> Self {
        Self::EMPTY
    }

    /// A context for work that makes calls, such as a server's handler. Lent while that work is polled, its deadline and hash key become those of every call
    /// made there; nothing else is shared, since the calls are different ones, and to [`with`](Self::with) it is as if nothing were lent.
    pub fn around_calls() -> Self {
        Self(Facts { around_calls: true, ..Self::EMPTY.0 })
    }

    /// A context for a part of the call whose context is lent now: its deadline, operation and hash key are taken over, and so is the
    /// clock reading. Without one, a new one, under the deadline of the work [around](Self::around_calls) it if there is any.
    pub fn inherit() -> Self {
        Self::with_any(|call| {
            let Facts { started, deadline, hash_key, operation, .. } = call.0;
            Self(Facts { started, deadline, hash_key, operation, ..Self::EMPTY.0 })
        })
        .unwrap_or(Self::EMPTY)
    }

    /// A context for an attempt of the same call that runs beside this one: its deadline, operation and hash key, and the endpoints tried so far, but
    /// clock readings of its own.
    pub fn beside(&self) -> Self {
        let Facts { deadline, hash_key, operation, tried, .. } = self.0;
        Self(Facts { deadline, hash_key, operation, tried, ..Self::EMPTY.0 })
    }

    /// Gives the operation its name, for policies and reports.
    pub fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Sets what consistent hashing goes by.
    pub fn with_hash_key(mut self, key: u64) -> Self {
        self.set_hash_key(key);
        self
    }

    /// As [`with_hash_key`](Self::with_hash_key), for a layer that is lent the context.
    #[inline]
    pub fn set_hash_key(&mut self, key: u64) {
        // The largest key shares its place with the one before it.
        self.0.hash_key = NonZeroU64::new(key.saturating_add(1));
    }

    /// Sets when the whole call must have ended; an earlier deadline stays.
    pub fn with_deadline(mut self, deadline: Tick) -> Self {
        self.0.deadline = Some(self.0.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Runs `f` while this context is lent to everything `f` calls on this thread.
    #[inline]
    pub fn lend<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Takes the context back even if `f` panics.
        struct Lent<'a> {
            owner: &'a mut CallContext,
            /// What was lent before; usually nothing, and then nothing is kept of it.
            outer: Option<Facts>,
        }
        impl Drop for Lent<'_> {
            #[inline]
            fn drop(&mut self) {
                let _ = CURRENT.try_with(|current| {
                    if let Ok(mut current) = current.try_borrow_mut() {
                        self.owner.0 = current.0;
                        match self.outer {
                            Some(outer) => current.0 = outer,
                            None => current.0.lent = Lending::No,
                        }
                    }
                });
                self.owner.0.lent = Lending::No;
                if self.owner.0.gave_up {
                    CallContext::tell_gave_up();
                }
            }
        }
        self.0.lent = if self.0.around_calls { Lending::AroundCalls } else { Lending::ToCall };
        // Fails only while the thread is being torn down: then nothing is lent, and nothing comes back.
        let outer = CURRENT.try_with(|current| {
            let mut current = current.try_borrow_mut().ok()?;
            let outer = (current.0.lent != Lending::No).then_some(current.0);
            current.0 = self.0;
            outer
        });
        let _lent = Lent { outer: outer.ok().flatten(), owner: self };
        f()
    }

    /// Drops `part` while telling its guards why.
    pub fn drop_for<T>(&mut self, reason: DropReason, part: T) {
        let before = self.0.drop_reason.replace(reason);
        self.lend(|| drop(part));
        self.0.drop_reason = before;
    }

    /// Reads or writes the context lent now; none if nothing is.
    ///
    /// `f` must not call anything that lends or reads a context; it is for a few field accesses.
    #[inline]
    pub fn with<R>(f: impl FnOnce(&mut CallContext) -> R) -> Option<R> {
        CURRENT
            .try_with(|current| match current.try_borrow_mut() {
                Ok(mut call) if call.0.lent == Lending::ToCall => Some(f(&mut call)),
                _ => None,
            })
            .ok()
            .flatten()
    }

    /// As [`with`](Self::with), for that of a call or of work that makes calls.
    fn with_any<R>(f: impl FnOnce(&mut CallContext) -> R) -> Option<R> {
        CURRENT
            .try_with(|current| match current.try_borrow_mut() {
                Ok(mut call) if call.0.lent != Lending::No => Some(f(&mut call)),
                _ => None,
            })
            .ok()
            .flatten()
    }

    /// Tells all contexts outside that a call was tried as often as it may be, in vain: to try what failed by that again multiplies the attempts.
    pub fn tell_gave_up() {
        Self::with_any(|call| call.0.gave_up = true);
    }

    /// Whether a call made inside was tried as often as it may be, in vain.
    pub fn gave_up(&self) -> bool {
        self.0.gave_up
    }

    /// Why the part of a call that started at `started` is being dropped right now: [`DropReason::CallerGone`] unless the context of that
    /// very attempt is lent with another reason.
    pub fn drop_reason_of(started: Tick) -> DropReason {
        Self::with(|call| if call.0.started == Some(started) { call.0.drop_reason } else { None })
            .flatten()
            .unwrap_or(DropReason::CallerGone)
    }

    /// When the attempt under way started: the reading in the context lent now, which `clock` supplies if it has none. One clock
    /// reading so serves every layer of an attempt.
    #[inline]
    pub fn attempt_started(clock: impl Fn() -> Tick) -> Tick {
        Self::with(|call| *call.0.started.get_or_insert_with(&clock)).unwrap_or_else(&clock)
    }

    /// As [`attempt_started`](Self::attempt_started), for the owner of a context that is not lent.
    pub fn start(&mut self, clock: impl Fn() -> Tick) -> Tick {
        *self.0.started.get_or_insert_with(clock)
    }

    /// When the attempt that started at `started` ended: as [`attempt_started`](Self::attempt_started), for the reading at its end. If the
    /// context lent now is that of another attempt (a body is read inside another call), `clock` is read.
    #[inline]
    pub fn attempt_ended(started: Tick, clock: impl Fn() -> Tick) -> Tick {
        Self::with(|call| (call.0.started == Some(started)).then(|| *call.0.ended.get_or_insert_with(&clock)))
            .flatten()
            .unwrap_or_else(&clock)
    }

    /// Starts the attempt's clock anew at `now`: it waited for something, and the wait says nothing of the endpoint it now goes to.
    pub fn restart_attempt(now: Tick) {
        Self::with(|call| call.0.started = Some(now));
    }

    /// Begins another attempt: the clock readings of the last one are void, the endpoints tried stay.
    pub fn next_attempt(&mut self) {
        self.0.started = None;
        self.0.ended = None;
    }

    /// Forgets when the attempt ended: it goes on, with another part of it.
    pub fn forget_end(&mut self) {
        self.0.ended = None;
    }

    /// The clock reading at the start of the attempt, if anybody took one.
    pub fn started(&self) -> Option<Tick> {
        self.0.started
    }

    /// The clock reading at the end of the attempt, if anybody took one.
    pub fn ended(&self) -> Option<Tick> {
        self.0.ended
    }

    /// When the whole call must have ended, if there is a bound.
    pub fn deadline(&self) -> Option<Tick> {
        self.0.deadline
    }

    /// The time left at `now`, if there is a bound; zero once it has passed.
    pub fn remaining(&self, now: Tick) -> Option<Duration> {
        self.0.deadline.map(|deadline| deadline.since(now))
    }

    /// Tells the owner of the deadline that an inner layer will end the call by then, so that one timer serves both.
    pub fn keep_deadline(&mut self) {
        self.0.deadline_kept = true;
    }

    /// Whether an inner layer said it will, since this was last asked: it says so at each poll that leaves it pending, and one that has
    /// ended while the call goes on keeps nothing any more.
    pub fn take_deadline_kept(&mut self) -> bool {
        std::mem::take(&mut self.0.deadline_kept)
    }

    /// Tells the owner of the context that is lent now, if its deadline is not earlier than this one's, that this layer ends the call by then.
    pub fn tell_deadline_kept(&self) {
        if let Some(deadline) = self.0.deadline {
            Self::with(|outer| {
                outer.0.deadline_kept |= outer.0.deadline.is_some_and(|outer| deadline <= outer);
            });
        }
    }

    /// Hands this context's reading at the end of the attempt on to the one that is lent now, if they share the reading at its start.
    pub fn tell_ended(&self) {
        if let (Some(started), Some(ended)) = (self.0.started, self.0.ended) {
            Self::with(|outer| {
                if outer.0.started == Some(started) {
                    outer.0.ended.get_or_insert(ended);
                }
            });
        }
    }

    /// The operation's name, if it was given.
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// What consistent hashing goes by, if it was given.
    pub fn hash_key(&self) -> Option<u64> {
        self.0.hash_key.map(|key| key.get() - 1)
    }

    /// Remembers that this call has been sent to the endpoint of this [key](crate::EndpointHandle::key), so that another attempt goes elsewhere.
    #[inline]
    pub fn add_tried(&mut self, key: u32) {
        self.0.tried.add(key);
    }

    /// The endpoints that this call has been sent to.
    #[inline]
    pub fn tried(&self) -> Tried {
        self.0.tried
    }
}

/// A layer's hold on the context of a call: the one that an outer layer lends, or one of its own if nobody does.
///
/// For a layer that has nothing to keep from the layers outside it. Made in `call`, kept in the response future.
///
/// ```
/// use tower_mesh_core::{CallContext, CallScope};
/// let mut scope = CallScope::join();           // nobody lends one
/// scope.run(|| assert!(CallContext::with(|_| ()).is_some()));
/// ```
#[derive(Debug)]
pub struct CallScope(Option<CallContext>);

impl CallScope {
    /// Joins the context lent now, or begins one.
    #[inline]
    pub fn join() -> Self {
        Self(if CallContext::with(|_| ()).is_some() { None } else { Some(CallContext::inherit()) })
    }

    /// Runs `f` with the context lent.
    #[inline]
    pub fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match &mut self.0 {
            Some(own) => own.lend(f),
            None => f(),
        }
    }

    /// Reads or writes the context, outside [`run`](Self::run). None if it was an outer layer's and is lost: the call has been moved to another task.
    #[inline]
    pub fn with<R>(&mut self, f: impl FnOnce(&mut CallContext) -> R) -> Option<R> {
        match &mut self.0 {
            Some(own) => Some(f(own)),
            None => CallContext::with(f),
        }
    }

    /// Drops `part` while telling its guards why.
    pub fn drop_for<T>(&mut self, reason: DropReason, part: T) {
        let before = self.with(|call| call.0.drop_reason.replace(reason)).flatten();
        self.run(|| drop(part));
        self.with(|call| call.0.drop_reason = before);
    }

    /// Whether the context is this layer's own: there is no layer outside that knows contexts.
    pub fn is_outermost(&self) -> bool {
        self.0.is_some()
    }
}

impl Default for CallContext {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Why a part of a call is dropped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Whoever asked is no longer waiting.
    CallerGone,
    /// It took longer than one attempt may.
    AttemptTimeout,
    /// The whole call ran out of time.
    DeadlineExceeded,
    /// Another attempt of the same call won.
    HedgeLost,
}

/// The endpoints that one call has been sent to, by [key](crate::EndpointHandle::key), oldest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Filled from the front; no key is 0.
    keys: [u32; Tried::MAX],
}

impl Tried {
    /// How many are remembered: the latest.
    pub const MAX: usize = 4;

    fn add(&mut self, key: u32) {
        match self.keys.iter_mut().find(|slot| **slot == 0) {
            Some(free) => *free = key,
            None => {
                self.keys.rotate_left(1);
                self.keys[Self::MAX - 1] = key;
            }
        }
    }

    /// The keys.
    pub fn keys(&self) -> &[u32] {
        let len = self.keys.iter().position(|&key| key == 0).unwrap_or(Self::MAX);
        &self.keys[..len]
    }

    /// Whether none was tried.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys[0] == 0
    }

    /// Whether `key` is among them.
    #[inline]
    pub fn contains(&self, key: u32) -> bool {
        self.keys.contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_what_inner_layers_write_flows_back() {
        let mut outer = CallContext::new().with_hash_key(1);
        let mut inner = CallContext::new().with_hash_key(2);
        outer.lend(|| {
            inner.lend(|| CallContext::with(CallContext::keep_deadline));
            assert_eq!(CallContext::with(|call| call.hash_key()), Some(Some(1)));
        });
        assert!(inner.take_deadline_kept() && !outer.take_deadline_kept());
        assert_eq!((outer.hash_key(), inner.hash_key()), (Some(1), Some(2)));
    }

    #[test]
    fn calls_made_by_one_piece_of_work_share_its_deadline_and_nothing_else() {
        let deadline = instant();
        let mut work = CallContext::around_calls().with_deadline(deadline);
        work.lend(|| {
            assert!(CallContext::with(|_| ()).is_none());
            let before = CallContext::attempt_started(instant);
            for _ in 0..2 {
                let mut call = CallScope::join();
                assert!(call.is_outermost());
                assert_eq!(
                    call.with(|call| (call.deadline(), call.tried().is_empty())),
                    Some((Some(deadline), true))
                );
                let started = call.run(|| CallContext::attempt_started(|| before + Duration::from_nanos(1)));
                assert!(started > before, "no reading is left from another call");
                call.with(|call| call.add_tried(1));
            }
        });
        assert_eq!((work.started(), work.gave_up()), (None, false));
        work.lend(|| CallContext::inherit().lend(|| CallContext::new().lend(CallContext::tell_gave_up)));
        assert!(work.gave_up(), "through every context between");
        CallContext::tell_gave_up();
        assert!(!CallContext::inherit().gave_up());
    }

    #[test]
    fn a_panic_inside_gives_the_context_back() {
        let mut call = CallContext::new().with_hash_key(1);
        let lent = std::panic::AssertUnwindSafe(|| call.lend(|| panic!("inner")));
        assert!(std::panic::catch_unwind(lent).is_err());
        assert_eq!(call.hash_key(), Some(1));
        assert!(CallContext::with(|_| ()).is_none());
    }

    #[test]
    fn guards_learn_why_they_are_dropped() {
        struct Tell<'a>(Tick, &'a mut Option<DropReason>);
        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                *self.1 = Some(CallContext::drop_reason_of(self.0));
            }
        }
        let mut seen = None;
        let mut call = CallContext::new();
        let now = call.lend(|| CallContext::attempt_started(instant));
        drop(Tell(now, &mut seen));
        assert_eq!(seen, Some(DropReason::CallerGone));
        call.drop_for(DropReason::AttemptTimeout, Tell(now, &mut seen));
        assert_eq!(seen, Some(DropReason::AttemptTimeout));
        call.drop_for(DropReason::AttemptTimeout, Tell(now + Duration::from_nanos(1), &mut seen));
        assert_eq!(seen, Some(DropReason::CallerGone), "the guard belongs to another attempt");
    }

    #[test]
    fn one_reading_serves_all_layers_of_one_attempt_and_no_other() {
        let mut call = CallContext::new();
        let started = call.lend(|| CallContext::attempt_started(instant));
        call.lend(|| {
            assert_eq!(CallContext::attempt_started(|| unreachable!("read already")), started);
            let ended = CallContext::attempt_ended(started, instant);
            assert_eq!(CallContext::attempt_ended(started, || unreachable!("read already")), ended);
            let other = started + Duration::from_secs(9);
            assert_eq!(CallContext::attempt_ended(other, || other), other);
        });
        call.next_attempt();
        assert_eq!((call.started(), call.ended()), (None, None));
    }

    #[expect(clippy::disallowed_methods, reason = "stands for the clock that a shell supplies")]
    fn instant() -> Tick {
        Tick::of(std::time::Instant::now())
    }

    #[test]
    fn the_oldest_pick_is_forgotten_first() {
        let mut tried = Tried::default();
        (1..=6).for_each(|key| tried.add(key));
        assert_eq!(tried.keys(), [3, 4, 5, 6]);
    }
}
