//! The gate and what moves its limit.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_mesh_core::Priority;

use crate::config::{LimitAlgorithm, LimitConfig};
use crate::gate::{Entry, Gate};
use crate::policy::{Aimd, Gradient, LimitSample};

pub(crate) struct Limiter {
    gate: Gate,
    /// The limit moves: a fixed one takes no lock at the end of a call.
    adapts: AtomicBool,
    max_waiting: AtomicU32,
    policy: Mutex<Policy>,
    /// Calls refused, by priority.
    refused: [AtomicU64; 3],
}

struct Policy {
    config: LimitConfig,
    algorithm: Algorithm,
    limit: u32,
}

enum Algorithm {
    Fixed,
    Aimd(Aimd),
    Gradient(Gradient),
}

impl Algorithm {
    /// That of `config`, beginning with `limit`.
    fn of(config: &LimitConfig, limit: u32) -> (Self, u32) {
        let (min, max) = (config.min(), config.max());
        match config.algorithm() {
            LimitAlgorithm::Fixed => (Self::Fixed, config.initial()),
            LimitAlgorithm::Aimd => {
                let aimd = Aimd::new(limit, min, max, config.timeout());
                let limit = aimd.limit();
                (Self::Aimd(aimd), limit)
            }
            LimitAlgorithm::Gradient => {
                let gradient = Gradient::new(limit, min, max, config.tolerance(), config.window());
                let limit = gradient.limit();
                (Self::Gradient(gradient), limit)
            }
        }
    }
}

fn places(config: &LimitConfig, limit: u32) -> [u32; 3] {
    Priority::ALL.map(|(_, priority)| config.places(limit, priority))
}

impl Limiter {
    pub(crate) fn new(config: LimitConfig) -> Self {
        let (algorithm, limit) = Algorithm::of(&config, config.initial());
        Self {
            gate: Gate::new(places(&config, limit)),
            adapts: AtomicBool::new(!matches!(algorithm, Algorithm::Fixed)),
            max_waiting: AtomicU32::new(config.max_waiting()),
            policy: Mutex::new(Policy { config, algorithm, limit }),
            refused: Default::default(),
        }
    }

    #[inline]
    pub(crate) fn enter(&self, priority: Priority) -> Option<Entry> {
        match self.gate.try_enter(priority) {
            Some(number) => Some(Entry::Now(number)),
            None => self.wait(priority),
        }
    }

    #[cold]
    fn wait(&self, priority: Priority) -> Option<Entry> {
        let (max_waiting, waiting) = (self.max_waiting.load(Relaxed), self.gate.counts().1);
        // Some wait still that might when it was allowed: past them goes who is more important.
        if max_waiting == 0 && waiting == 0 { None } else { self.gate.enter(priority, max_waiting) }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn max_wait(&self) -> Duration {
        self.policy().config.max_wait()
    }

    pub(crate) fn count_refused(&self, priority: Priority) {
        self.refused[priority as usize].fetch_add(1, Relaxed);
    }

    /// Whether what a call says of the limit is of interest.
    #[inline]
    pub(crate) fn adapts(&self) -> bool {
        self.adapts.load(Relaxed)
    }

    /// Takes in a call that has ended.
    pub(crate) fn observe(&self, sample: LimitSample) {
        let mut policy = self.policy();
        let limit = match &mut policy.algorithm {
            Algorithm::Fixed => return,
            Algorithm::Aimd(aimd) => aimd.observe(sample),
            Algorithm::Gradient(gradient) => gradient.observe(sample),
        };
        if limit != policy.limit {
            policy.limit = limit;
            // Under the lock of the policy, so that of two changes the later one is in force; what wakes anybody comes after it.
            self.gate.set_places(places(&policy.config, limit));
            drop(policy);
            self.gate.hand_over();
        }
    }

    /// Goes by `config` from now on. An adaptive limit that `was_on` goes on from where it is, within its new bounds. [`Gate::hand_over`] is to follow, once no lock is held.
    pub(crate) fn reload(&self, config: LimitConfig, was_on: bool) {
        let mut policy = self.policy();
        let was_fixed = matches!(policy.algorithm, Algorithm::Fixed);
        let same = policy.config.algorithm() == config.algorithm();
        let from = if !was_on || was_fixed || !same { config.initial() } else { policy.limit };
        let (algorithm, limit) = Algorithm::of(&config, from);
        self.adapts.store(!matches!(algorithm, Algorithm::Fixed), Relaxed);
        self.max_waiting.store(config.max_waiting(), Relaxed);
        *policy = Policy { config, algorithm, limit };
        self.gate.set_places(places(&config, limit));
    }

    /// Has room for everybody until the next [`reload`](Self::reload). [`Gate::hand_over`] is to follow.
    pub(crate) fn open(&self) {
        let mut policy = self.policy();
        // Calls that end from now on move nothing.
        policy.algorithm = Algorithm::Fixed;
        self.adapts.store(false, Relaxed);
        self.gate.set_places([u32::MAX; 3]);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.policy().limit
    }

    pub(crate) fn refused(&self) -> [u64; 3] {
        [0, 1, 2].map(|priority| self.refused[priority].load(Relaxed))
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
