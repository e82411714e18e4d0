//! One circuit, shared by all threads: the state machine, a window, and a word that lets closed calls by without a lock.

mod calls;
mod moves;
mod permit;
mod seen;
mod word;

use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::window::{CountWindow, TimeWindow, Window};
use tower_mesh_core::{EndpointHandle, EndpointId, Listeners, Tick};

use crate::config::{BreakerConfig, WindowKind};
use crate::metering;
use crate::outlier::Member;
use crate::policy::machine::{Machine, State};
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

pub use self::permit::Permit;
pub use self::seen::{CircuitEvent, CircuitSnapshot};

/// A handle to one circuit; clones are the same circuit.
///
/// The layer uses it for every call, an operator to look at it and to give orders. It can also be used by itself, around anything:
///
/// ```
/// use std::time::{Duration, Instant};
/// use tower_mesh_breaker::{BreakerConfig, Circuit, State};
/// use tower_mesh_core::Tick;
/// use tower_mesh_core::classify::{Origin, Outcome};
/// let config = BreakerConfig::builder().consecutive_failures(2).build()?;
/// let now = Tick::of(Instant::now());
/// let circuit = Circuit::new(config, now);
/// for _ in 0..2 {
///     let permit = circuit.acquire(now)?;
///     permit.finish(Outcome::Failure(Origin::Remote), Duration::ZERO, now);
/// }
/// assert_eq!(circuit.state(), State::Open);
/// assert!(circuit.acquire(now).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Circuit(Arc<Inner>);

/// The first fields, in this order, are all that a call through a closed circuit touches: with thousands of endpoints each further line of memory
/// is a cache miss.
#[repr(C)]
pub(crate) struct Inner {
    /// Generation and phase of the machine, published whenever it moves: see [`word`].
    word: AtomicU64,
    consecutive: AtomicU32,
    /// What few circuits have, so that the others need not look: [`RESHAPED`], [`IN_A_SET`].
    flags: AtomicU8,
    /// From the configuration, [`u64::MAX`] if no call is slow.
    slow_after_ns: AtomicU64,
    window: Window,
    /// The endpoint's place in a set that ejects outliers, if it is in one.
    member: Option<Arc<Member>>,
    /// Read without a lock, and only where a call may trip it.
    config: ArcSwap<BreakerConfig>,
    machine: Mutex<Machine>,
    reshaped: ArcSwapOption<Window>,
    endpoint: Option<EndpointHandle>,
    refused: AtomicU64,
    late: AtomicU64,
    /// Made by the first who waits for a change.
    changed: OnceLock<Arc<Notify>>,
    /// Made for the first who listens to this very circuit.
    listeners: OnceLock<Box<Listeners<CircuitEvent>>>,
    family: Arc<Family>,
}

/// How many bytes at the beginning these are. With the counts of references before them they lie in two lines of memory, wherever they begin.
const HOT: usize = mem::offset_of!(Inner, window) + Window::HOT;
// They begin at a multiple of 16.
#[cfg(not(all(loom, test)))]
const _: () = assert!(2 * size_of::<usize>() + HOT <= 64 + 16);

/// Another window stands in for the first: the configuration has asked for another shape since.
const RESHAPED: u8 = 1;
/// There is a member.
const IN_A_SET: u8 = 2;

/// What the circuits of one layer, or of one registry, share.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// What reports call them.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) listeners: Arc<Listeners<CircuitEvent>>,
}

impl Circuit {
    /// A closed circuit.
    pub fn new(config: BreakerConfig, now: Tick) -> Self {
        Self::build(config.into(), now, Arc::default(), None, None).announced()
    }

    /// A closed circuit that shows in the availability of `endpoint`, so that a balancer routes around it.
    pub fn watching(config: BreakerConfig, now: Tick, endpoint: EndpointHandle) -> Self {
        Self::build(config.into(), now, Arc::default(), Some(endpoint), None).announced()
    }

    /// The same, of which metrics know from here on: not under a lock, for they are somebody else's code.
    pub(crate) fn announced(self) -> Self {
        metering::born(&self.0.family);
        self
    }

    pub(crate) fn build(
        config: Arc<BreakerConfig>,
        now: Tick,
        family: Arc<Family>,
        endpoint: Option<EndpointHandle>,
        member: Option<Arc<Member>>,
    ) -> Self {
        Self(Arc::new(Inner {
            word: AtomicU64::new(word::of(State::Closed, 0)),
            consecutive: AtomicU32::new(0),
            flags: AtomicU8::new(if member.is_some() { IN_A_SET } else { 0 }),
            slow_after_ns: AtomicU64::new(slow_after_ns(&config)),
            window: new_window(&config, now),
            member,
            machine: Mutex::new(Machine::new(config.clone(), now)),
            config: ArcSwap::new(config),
            reshaped: ArcSwapOption::empty(),
            endpoint,
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            changed: OnceLock::new(),
            listeners: OnceLock::new(),
            family,
        }))
    }

    /// Whether the end of a call says anything to anybody, whatever the state that admitted it.
    pub(crate) fn is_in_a_set(&self) -> bool {
        self.0.member.is_some()
    }

    /// The endpoint whose circuit this is, if it is one endpoint's.
    pub fn endpoint(&self) -> Option<&EndpointId> {
        self.0.endpoint.as_ref().map(EndpointHandle::id)
    }

    /// The record of that endpoint, which tells it from an earlier or later one of the same id.
    pub fn handle(&self) -> Option<&EndpointHandle> {
        self.0.endpoint.as_ref()
    }

    /// What reports call it, if its layer or registry has a name.
    pub fn name(&self) -> Option<&str> {
        self.0.family.name.as_deref()
    }

    /// The knobs.
    pub fn config(&self) -> BreakerConfig {
        **self.0.config.load()
    }

    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.0.family
    }

    pub(crate) fn downgrade(&self) -> std::sync::Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn upgrade(inner: &std::sync::Weak<Inner>) -> Option<Self> {
        inner.upgrade().map(Self)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The window in use.
    #[inline]
    fn with_window<R>(&self, f: impl FnOnce(&Window) -> R) -> R {
        let is_reshaped = self.flags.load(Ordering::Acquire) & RESHAPED != 0;
        if is_reshaped { self.with_reshaped(f) } else { f(&self.window) }
    }

    #[cold]
    fn with_reshaped<R>(&self, f: impl FnOnce(&Window) -> R) -> R {
        f(self.reshaped.load().as_deref().unwrap_or(&self.window))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        metering::gone(&self.family, self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).state());
    }
}

fn new_window(config: &BreakerConfig, now: Tick) -> Window {
    match config.window() {
        WindowKind::Calls(calls) => Window::Count(CountWindow::new(calls)),
        WindowKind::Time(window) => {
            let buckets = window.as_secs().clamp(10, 60) as u32;
            Window::Time(TimeWindow::new(window, buckets, now))
        }
    }
}

fn slow_after_ns(config: &BreakerConfig) -> u64 {
    config.slow_call_duration().map_or(u64::MAX, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
}

fn chance() -> Chance {
    Chance::Raw(fastrand::u64(..))
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("endpoint", &self.endpoint())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Every interleaving of two threads on the word, the row of failures and the leases. The window within has models of its own.
#[cfg(all(loom, test))]
mod loom_tests;
