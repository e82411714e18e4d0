//! What belongs to one call, whatever its request type, lent for the length of each poll.

mod pool;
mod scope;
#[cfg(test)]
mod tests;
mod tried;

use std::cell::Cell;
use std::num::NonZeroU64;
use std::time::Duration;

use scoped_tls::scoped_thread_local;

use crate::caller::Caller;
use crate::operation::Operation;
use crate::options::CallOptions;
use crate::priority::Priority;
use crate::tick::Tick;

pub use self::scope::CallScope;
pub use self::tried::Tried;

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
#[derive(Debug, Default)]
pub struct CallContext {
    started: Cell<Option<Tick>>,
    ended: Cell<Option<Tick>>,
    deadline: Cell<Option<Tick>>,
    /// One more than the key would be, so that none costs no room.
    hash_key: Cell<Option<NonZeroU64>>,
    tried: Cell<Tried>,
    sends: Cell<u32>,
    operation: Cell<Option<Operation>>,
    caller: Cell<Option<Caller>>,
    priority: Cell<Option<Priority>>,
    options: Cell<CallOptions>,
    drop_reason: Cell<Option<DropReason>>,
    deadline_kept: Cell<bool>,
    gave_up: Cell<bool>,
    /// How many attempts went before the one under way.
    earlier_attempts: Cell<u16>,
    /// It is that of work which makes calls, not of a call.
    around_calls: bool,
}

scoped_thread_local! {
    /// The context lent now: where it is, so that lending copies nothing.
    static CURRENT: CallContext
}

impl CallContext {
    /// A context of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A context for work that makes calls, such as a server's handler. Lent while that work is polled, its deadline, caller, priority and hash key become those of every call
    /// made there; nothing else is shared, since the calls are different ones, and to [`with`](Self::with) it is as if nothing were lent.
    pub fn around_calls() -> Self {
        Self { around_calls: true, ..Self::default() }
    }

    /// A context for a part of the call whose context is lent now: its deadline, operation, caller, priority and hash key are taken over, and so is the
    /// clock reading. Without one, a new one, under the deadline of the work [around](Self::around_calls) it if there is any.
    #[inline]
    pub fn inherit() -> Self {
        let context = Self::default();
        context.take_over();
        context
    }

    /// What a part of a call takes over from the context lent now, if one is.
    #[inline]
    fn take_over(&self) {
        Self::with_any(|call| {
            self.started.set(call.started());
            self.deadline.set(call.deadline());
            self.hash_key.set(call.hash_key.get());
            self.operation.set(call.operation());
            self.caller.set(call.caller());
            self.priority.set(call.priority.get());
            if !call.around_calls {
                self.options.set(call.options());
            }
        });
    }

    /// A context for an attempt of the same call that runs beside this one: its deadline, operation, caller, priority and hash key, and the endpoints tried so far, but
    /// clock readings of its own.
    pub fn beside(&self) -> Self {
        Self {
            deadline: self.deadline.clone(),
            hash_key: self.hash_key.clone(),
            operation: self.operation.clone(),
            caller: self.caller.clone(),
            priority: self.priority.clone(),
            options: self.options.clone(),
            tried: self.tried.clone(),
            earlier_attempts: self.earlier_attempts.clone(),
            sends: self.sends.clone(),
            ..Self::default()
        }
    }

    /// Gives the operation its name, for policies and reports.
    pub fn with_operation(self, operation: Operation) -> Self {
        self.operation.set(Some(operation));
        self
    }

    /// Says who makes the call, for authorization.
    pub fn with_caller(self, caller: Caller) -> Self {
        self.caller.set(Some(caller));
        self
    }

    /// Says how much the call matters, for when not all can be served. Default [`Priority::Normal`].
    pub fn with_priority(self, priority: Priority) -> Self {
        self.priority.set(Some(priority));
        self
    }

    /// Asks of the layers what is to be otherwise for this call.
    pub fn with_options(self, options: CallOptions) -> Self {
        self.options.set(options);
        self
    }

    /// Sets what consistent hashing goes by.
    pub fn with_hash_key(self, key: u64) -> Self {
        self.set_hash_key(key);
        self
    }

    /// As [`with_hash_key`](Self::with_hash_key), for a layer that is lent the context.
    #[inline]
    pub fn set_hash_key(&self, key: u64) {
        // The largest key shares its place with the one before it.
        self.hash_key.set(NonZeroU64::new(key.saturating_add(1)));
    }

    /// Sets when the whole call must have ended; an earlier deadline stays.
    pub fn with_deadline(self, deadline: Tick) -> Self {
        self.set_deadline(deadline);
        self
    }

    /// As [`with_deadline`](Self::with_deadline), for the owner of a context that is made already.
    #[inline]
    pub fn set_deadline(&self, deadline: Tick) {
        self.deadline.set(Some(self.deadline().map_or(deadline, |earlier| earlier.min(deadline))));
    }

    /// Runs `f` while this context is lent to everything `f` calls on this thread; even if `f` panics, no longer.
    #[inline]
    pub fn lend<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let result = CURRENT.set(self, f);
        if self.gave_up() {
            Self::tell_gave_up();
        }
        result
    }

    /// Drops `part` while telling its guards why.
    pub fn drop_for<T>(&mut self, reason: DropReason, part: T) {
        let before = self.drop_reason.replace(Some(reason));
        self.lend(|| drop(part));
        self.drop_reason.set(before);
    }

    /// Reads or writes the context lent now; none if nothing is.
    #[inline]
    pub fn with<R>(f: impl FnOnce(&CallContext) -> R) -> Option<R> {
        if CURRENT.is_set() { CURRENT.with(|call| (!call.around_calls).then(|| f(call))) } else { None }
    }

    /// As [`with`](Self::with), for that of a call or of work that makes calls.
    #[inline]
    fn with_any<R>(f: impl FnOnce(&CallContext) -> R) -> Option<R> {
        CURRENT.is_set().then(|| CURRENT.with(f))
    }

    /// Tells all contexts outside that a call was tried as often as it may be, in vain: to try what failed by that again multiplies the attempts.
    pub fn tell_gave_up() {
        Self::with_any(|call| call.gave_up.set(true));
    }

    /// Whether a call made inside was tried as often as it may be, in vain.
    pub fn gave_up(&self) -> bool {
        self.gave_up.get()
    }

    /// Why the part of a call that started at `started` is being dropped right now: [`DropReason::CallerGone`] unless the context of that
    /// very attempt is lent with another reason.
    pub fn drop_reason_of(started: Tick) -> DropReason {
        Self::with(|call| if call.started() == Some(started) { call.drop_reason.get() } else { None })
            .flatten()
            .unwrap_or(DropReason::CallerGone)
    }

    /// When the attempt under way started: the reading in the context lent now, which `clock` supplies if it has none. One clock
    /// reading so serves every layer of an attempt.
    #[inline]
    pub fn attempt_started(clock: impl Fn() -> Tick) -> Tick {
        Self::with(|call| call.start(&clock)).unwrap_or_else(&clock)
    }

    /// As [`attempt_started`](Self::attempt_started), for the owner of a context that is not lent.
    #[inline]
    pub fn start(&self, clock: impl Fn() -> Tick) -> Tick {
        get_or_set(&self.started, clock)
    }

    /// When the attempt that started at `started` ended: as [`attempt_started`](Self::attempt_started), for the reading at its end. If the
    /// context lent now is that of another attempt (a body is read inside another call), `clock` is read.
    #[inline]
    pub fn attempt_ended(started: Tick, clock: impl Fn() -> Tick) -> Tick {
        Self::with(|call| (call.started() == Some(started)).then(|| get_or_set(&call.ended, &clock)))
            .flatten()
            .unwrap_or_else(&clock)
    }

    /// Starts the attempt's clock anew at `now`: it waited for something, and the wait says nothing of the endpoint it now goes to.
    pub fn restart_attempt(now: Tick) {
        Self::with(|call| call.started.set(Some(now)));
    }

    /// Begins another attempt: the clock readings of the last one are void, the endpoints tried stay.
    pub fn next_attempt(&self) {
        self.started.set(None);
        self.ended.set(None);
    }

    /// Says which attempt of the call is under way, from 1; for whoever makes another.
    pub fn set_attempt(&self, number: u32) {
        self.earlier_attempts.set(u16::try_from(number.saturating_sub(1)).unwrap_or(u16::MAX));
    }

    /// Which attempt of the call is under way, from 1; a hedge has the number of the attempt that it runs beside. For reports.
    pub fn attempt(&self) -> u32 {
        u32::from(self.earlier_attempts.get()) + 1
    }

    /// Forgets when the attempt ended: it goes on, with another part of it.
    pub fn forget_end(&self) {
        self.ended.set(None);
    }

    /// The clock reading at the start of the attempt, if anybody took one.
    pub fn started(&self) -> Option<Tick> {
        self.started.get()
    }

    /// The clock reading at the end of the attempt, if anybody took one.
    pub fn ended(&self) -> Option<Tick> {
        self.ended.get()
    }

    /// When the whole call must have ended, if there is a bound.
    pub fn deadline(&self) -> Option<Tick> {
        self.deadline.get()
    }

    /// The time left at `now`, if there is a bound; zero once it has passed.
    pub fn remaining(&self, now: Tick) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.since(now))
    }

    /// Tells the owner of the deadline that an inner layer will end the call by then, so that one timer serves both.
    pub fn keep_deadline(&self) {
        self.deadline_kept.set(true);
    }

    /// Whether an inner layer said it will, since this was last asked: it says so at each poll that leaves it pending, and one that has
    /// ended while the call goes on keeps nothing any more.
    pub fn take_deadline_kept(&self) -> bool {
        self.deadline_kept.take()
    }

    /// Tells the owner of the context that is lent now, if its deadline is not earlier than this one's, that this layer ends the call by then.
    pub fn tell_deadline_kept(&self) {
        if let Some(deadline) = self.deadline() {
            Self::with(|outer| {
                if outer.deadline().is_some_and(|outer| deadline <= outer) {
                    outer.keep_deadline();
                }
            });
        }
    }

    /// Hands this context's reading at the end of the attempt on to the one that is lent now, if they share the reading at its start.
    pub fn tell_ended(&self) {
        if let (Some(started), Some(ended)) = (self.started(), self.ended()) {
            Self::with(|outer| {
                if outer.started() == Some(started) {
                    get_or_set(&outer.ended, || ended);
                }
            });
        }
    }

    /// The operation's name, if it was given.
    pub fn operation(&self) -> Option<Operation> {
        self.operation.get()
    }

    /// Who makes a call now, as far as the context says that is lent: that of a call, or of the work [around](Self::around_calls) it.
    pub fn caller_now() -> Option<Caller> {
        Self::with_any(|call| call.caller()).flatten()
    }

    /// What is to be otherwise for this call.
    #[inline]
    pub fn options(&self) -> CallOptions {
        self.options.get()
    }

    /// Who makes the call, if that was said.
    pub fn caller(&self) -> Option<Caller> {
        self.caller.get()
    }

    /// How much the call matters: as was said of it, or else as its [options](Self::options) say.
    #[inline]
    pub fn priority(&self) -> Priority {
        self.priority.get().or_else(|| self.options().get_priority()).unwrap_or_default()
    }

    /// How much a call matters that is made now, as far as the context says that is lent: that of a call, or of the work [around](Self::around_calls) it.
    #[inline]
    pub fn priority_now() -> Priority {
        Self::with_any(Self::priority).unwrap_or_default()
    }

    /// What consistent hashing goes by, if it was given.
    pub fn hash_key(&self) -> Option<u64> {
        self.hash_key.get().map(|key| key.get() - 1)
    }

    /// Remembers that this call has been sent to the endpoint of this [key](crate::EndpointHandle::key), so that another attempt goes elsewhere.
    #[inline]
    pub fn add_tried(&self, key: u32) {
        let mut tried = self.tried();
        tried.add(key);
        self.tried.set(tried);
        self.sends.set(self.sends.get().saturating_add(1));
    }

    /// How often this call has been sent to an endpoint, the one it is being sent to now included.
    #[inline]
    pub fn sends(&self) -> u32 {
        self.sends.get()
    }

    /// The endpoints that this call has been sent to.
    #[inline]
    pub fn tried(&self) -> Tried {
        self.tried.get()
    }
}

/// The reading that is there, or else the one that `clock` gives.
#[inline]
fn get_or_set(reading: &Cell<Option<Tick>>, clock: impl FnOnce() -> Tick) -> Tick {
    reading.get().unwrap_or_else(|| {
        let now = clock();
        reading.set(Some(now));
        now
    })
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
