//! The shared budget that bounds how much retries add to the traffic.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Outcome, Retry, Verdict};
use tower_mesh_core::error::InvalidConfig;
use tower_mesh_core::sharded::{own_shard, shard_count};

use crate::config::BudgetConfig;
use crate::policy::budget::{LeakyBucket, Stripe, Units, concurrency_limit, slice_length};
use crate::policy::throttle::Throttle;

/// A budget for retries that grows with the traffic: Finagle's token bucket, with Envoy's floor of concurrent retries.
///
/// Every call [`deposit`](Self::deposit)s; a retry is allowed if it can [`withdraw`](Self::withdraw) `1 / ratio` deposits that are not older than the ttl, from a
/// reserve if need be, or if fewer than [`min_concurrency`](BudgetConfig::min_concurrency) retries are under way. So when everything fails, retries add
/// `ratio` to the traffic and do not multiply it.
///
/// Clones share one budget. A deposit is one atomic operation on a cache line that threads do not share; a withdrawal, which is rare, takes a short lock,
/// and never more is withdrawn than there is.
///
/// ```
/// use tower_mesh_retry::{BudgetConfig, RetryBudget};
/// let config = BudgetConfig::builder().ratio(0.5).min_per_second(0).min_concurrency(0).build()?;
/// let budget = RetryBudget::new(config);
/// let now = tower_mesh_core::Tick::of(tokio::time::Instant::now().into_std());
/// budget.deposit(now);
/// assert!(budget.withdraw(now).is_none(), "one retry costs two calls");
/// budget.deposit(now);
/// assert!(budget.withdraw(now).is_some());
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct RetryBudget(Arc<Shared>);

struct Shared {
    deposits: Box<[Stripe]>,
    ledger: Mutex<Ledger>,
    by_active_calls: bool,
    slices: Slices,
    /// Grows only under the lock.
    in_flight: AtomicU32,
    /// Calls under way; counted only if their number matters.
    active: AtomicU32,
    granted: AtomicU64,
    denied: AtomicU64,
    throttled: AtomicU64,
    throttle: Option<Throttle>,
}

struct Ledger {
    /// Also counts the slices, for both.
    withdrawals: LeakyBucket,
    units: Units,
    config: BudgetConfig,
}

/// The slice under way as those see it who take no lock; written under it.
struct Slices {
    /// The first use: a constructor reads no clock.
    origin: OnceLock<Tick>,
    length: u64,
    /// In nanoseconds since the origin. Written after `number`, so that whoever sees that a slice began sees its number too.
    began: AtomicU64,
    number: AtomicU64,
}

impl RetryBudget {
    /// A budget with its whole reserve.
    pub fn new(config: BudgetConfig) -> Self {
        /// Enough for as many threads; more of them share.
        const MAX_STRIPES: usize = 64;

        let units = Units::new(&config);
        Self(Arc::new(Shared {
            by_active_calls: config.active_ratio().is_some(),
            deposits: (0..shard_count(MAX_STRIPES)).map(|_| Stripe::default()).collect(),
            ledger: Mutex::new(Ledger {
                withdrawals: LeakyBucket::new(config.ttl(), units.reserve),
                units,
                config,
            }),
            slices: Slices {
                origin: OnceLock::new(),
                length: nanos(slice_length(config.ttl())),
                began: AtomicU64::new(0),
                number: AtomicU64::new(0),
            },
            in_flight: AtomicU32::new(0),
            active: AtomicU32::new(0),
            granted: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            throttle: config.max_tokens().map(|max| Throttle::new(max, config.token_ratio())),
        }))
    }

    /// How it is configured.
    pub fn config(&self) -> BudgetConfig {
        self.0.ledger().config
    }

    /// Goes by `config` from now on. What was deposited and spent stays; what was spent counts at its old price until it is a ttl old.
    ///
    /// # Errors
    /// When it wants another ttl, another throttle, or counts by active calls where it did not, or the other way round: these are what the counters are made
    /// for, and take a new budget. The old configuration stays.
    pub fn reload(&self, config: BudgetConfig) -> Result<(), InvalidConfig> {
        let mut ledger = self.0.ledger();
        ledger.config.check_change(&config)?;
        ledger.units = Units::new(&config);
        let reserve = ledger.units.reserve;
        ledger.withdrawals.set_reserve(reserve);
        ledger.config = config;
        Ok(())
    }

    /// Counts a call.
    #[inline]
    pub fn deposit(&self, now: Tick) {
        let stripes = &self.0.deposits;
        stripes[own_shard(stripes.len())].add(self.0.slice(now));
    }

    /// Takes what one retry costs, if it is there. The retry is under way until the permit is dropped; what it cost stays taken.
    pub fn withdraw(&self, now: Tick) -> Option<RetryPermit> {
        self.try_withdraw(now).ok()
    }

    /// As [`withdraw`](Self::withdraw), but says why not.
    ///
    /// # Errors
    /// When the failure throttle stands in the way, which is asked first, or when there is not enough.
    pub fn try_withdraw(&self, now: Tick) -> Result<RetryPermit, Denied> {
        let shared = &*self.0;
        if shared.throttle.as_ref().is_some_and(|throttle| !throttle.allows()) {
            shared.throttled.fetch_add(1, Ordering::Relaxed);
            return Err(Denied::Throttled);
        }
        let mut ledger = shared.ledger();
        let in_flight = shared.in_flight.load(Ordering::Relaxed);
        let allowed = match shared.concurrency_limit(&ledger.config) {
            Some(limit) => in_flight < limit,
            None => {
                let slice = shared.slices.roll(&mut ledger.withdrawals, now);
                let deposited = shared.deposited(slice, ledger.units);
                let price = ledger.units.withdrawal;
                ledger.withdrawals.try_get(now, price, deposited)
                    || in_flight < ledger.config.min_concurrency()
            }
        };
        if allowed {
            shared.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        drop(ledger);
        let counter = if allowed { &shared.granted } else { &shared.denied };
        counter.fetch_add(1, Ordering::Relaxed);
        if allowed { Ok(RetryPermit(self.clone())) } else { Err(Denied::Spent) }
    }

    /// Counts a call as under way until the guard is dropped, if [`active_ratio`](BudgetConfig::active_ratio) makes it matter; none otherwise.
    #[inline]
    pub fn enter(&self) -> Option<ActiveCall> {
        self.0.by_active_calls.then(|| {
            self.0.active.fetch_add(1, Ordering::Relaxed);
            ActiveCall(self.clone())
        })
    }

    /// Tells the failure throttle what an attempt came to; nothing if there is none.
    ///
    /// A success brings back [`token_ratio`](BudgetConfig::token_ratio), and so does an answer whose head gives no judgement. A failure that may be sent again if
    /// that does no harm, or that the server forbids to send again, takes a token. What was certainly not processed takes none, and neither does a
    /// failure that no other attempt cures.
    #[inline]
    pub fn judged(&self, verdict: Verdict) {
        if let Some(throttle) = &self.0.throttle {
            match (verdict.outcome, verdict.retry) {
                (Outcome::Success | Outcome::Undecided, _) => throttle.succeeded(),
                (Outcome::Failure(_), Retry::IfIdempotent | Retry::Forbidden) => throttle.failed(),
                _ => {}
            }
        }
    }

    /// Whether there is a failure throttle, which wants to be told of every attempt.
    #[inline]
    pub(crate) fn is_throttled(&self) -> bool {
        self.0.throttle.is_some()
    }

    /// What there is now.
    pub fn snapshot(&self, now: Tick) -> BudgetSnapshot {
        let shared = &*self.0;
        let (slice, withdrawn, units, config) = {
            let ledger = shared.ledger();
            (ledger.withdrawals.slice_at(now), ledger.withdrawals.balance(now), ledger.units, ledger.config)
        };
        let in_flight = shared.in_flight.load(Ordering::Relaxed);
        let balance = match shared.concurrency_limit(&config) {
            Some(limit) => u64::from(limit.saturating_sub(in_flight)),
            None => units.retries(withdrawn.saturating_add(shared.deposited(slice, units))),
        };
        BudgetSnapshot {
            balance,
            in_flight,
            granted: shared.granted.load(Ordering::Relaxed),
            denied: shared.denied.load(Ordering::Relaxed),
            throttled: shared.throttled.load(Ordering::Relaxed),
            milli_tokens: shared.throttle.as_ref().map(Throttle::milli_tokens),
        }
    }
}

impl Shared {
    /// The slice that a deposit at `now` belongs to.
    #[inline]
    fn slice(&self, now: Tick) -> u64 {
        if self.slices.are_over(now) {
            self.next_slice(now)
        } else {
            self.slices.number.load(Ordering::Relaxed)
        }
    }

    /// The slice after the one that is over. If somebody is just changing it, this deposit counts in the old one: nobody waits for that.
    #[cold]
    fn next_slice(&self, now: Tick) -> u64 {
        let mut ledger = match self.ledger.try_lock() {
            Ok(ledger) => ledger,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.slices.number.load(Ordering::Relaxed),
        };
        self.slices.roll(&mut ledger.withdrawals, now)
    }

    /// How many retries may be under way, if that is what counts.
    fn concurrency_limit(&self, config: &BudgetConfig) -> Option<u32> {
        let active = self.active.load(Ordering::Relaxed);
        let least = config.min_concurrency();
        config.active_ratio().map(|ratio| concurrency_limit(ratio, active, least))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deposited(&self, slice: u64, units: Units) -> i64 {
        let calls: u64 = self.deposits.iter().map(|stripe| stripe.count(slice)).sum();
        i64::try_from(calls).unwrap_or(i64::MAX).saturating_mul(units.deposit)
    }
}

impl Slices {
    #[inline]
    fn are_over(&self, now: Tick) -> bool {
        let Some(&origin) = self.origin.get() else {
            return true;
        };
        let began = self.began.load(Ordering::Acquire);
        now.nanos_since(origin).saturating_sub(began) >= self.length
    }

    #[cold]
    fn roll(&self, withdrawals: &mut LeakyBucket, now: Tick) -> u64 {
        let origin = *self.origin.get_or_init(|| now);
        let number = withdrawals.roll(now);
        if number != self.number.load(Ordering::Relaxed) {
            self.number.store(number, Ordering::Relaxed);
            let began = now.nanos_since(origin);
            self.began.store(began, Ordering::Release);
        }
        number
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBudget")
            .field("config", &self.config())
            .field("in_flight", &self.0.in_flight)
            .finish_non_exhaustive()
    }
}

/// What a [`RetryBudget`] holds at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetSnapshot {
    /// Retries that can be paid for.
    pub balance: u64,
    /// Retries under way, waits before them included.
    pub in_flight: u32,
    /// Retries allowed since the start.
    pub granted: u64,
    /// Retries refused since the start because the budget was spent.
    pub denied: u64,
    /// Retries refused since the start by the failure throttle.
    pub throttled: u64,
    /// What the failure throttle has left, in thousandths of a token; none if there is none.
    pub milli_tokens: Option<u32>,
}

/// Why a [`RetryBudget`] gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Denied {
    /// It is spent.
    Spent,
    /// Too much has failed lately: see [`BudgetConfig::max_tokens`].
    Throttled,
}

/// A call that is under way. Given by [`RetryBudget::enter`].
#[derive(Debug)]
#[must_use = "dropped at once it does not count as under way"]
pub struct ActiveCall(RetryBudget);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A retry that is under way. Given by [`RetryBudget::withdraw`].
#[derive(Debug)]
#[must_use = "dropped at once it does not count as under way"]
pub struct RetryPermit(RetryBudget);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(ratio: f64, min_per_second: u32, min_concurrency: u32) -> RetryBudget {
        let config = BudgetConfig::builder().ratio(ratio).min_per_second(min_per_second);
        RetryBudget::new(config.min_concurrency(min_concurrency).build().unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn start() -> Tick {
        Tick::of(std::time::Instant::now())
    }

    fn withdrawn(budget: &RetryBudget, now: Tick, tries: u32) -> u32 {
        (0..tries).filter(|_| budget.withdraw(now).is_some()).count() as u32
    }

    #[test]
    fn sixty_percent_of_ten_is_six() {
        let (budget, now) = (budget(0.6, 0, 0), start());
        (0..10).for_each(|_| budget.deposit(now));
        assert_eq!(budget.snapshot(now).balance, 6);
        assert_eq!(withdrawn(&budget, now, 10), 6);
        let after = budget.snapshot(now);
        assert_eq!((after.balance, after.granted, after.denied), (0, 6, 4));
    }

    #[test]
    fn a_reload_keeps_what_was_deposited_and_spent() {
        let (budget, now) = (budget(0.5, 0, 0), start());
        (0..10).for_each(|_| budget.deposit(now));
        assert_eq!(withdrawn(&budget, now, 2), 2);
        let config = BudgetConfig::builder().ratio(0.5).min_per_second(1).min_concurrency(0).build().unwrap();
        budget.reload(config).unwrap();
        assert_eq!(budget.snapshot(now).balance, 5 - 2 + 10, "a reserve of one a second for ten seconds");
        let other = BudgetConfig::builder().ttl(Duration::from_secs(5)).max_tokens(9).build().unwrap();
        let refused = budget.reload(other).unwrap_err();
        let fields: Vec<_> = refused.mistakes().iter().map(|mistake| mistake.field()).collect();
        assert_eq!(fields, ["ttl", "max_tokens"]);
        assert_eq!(budget.config(), config);
    }

    #[test]
    fn a_cold_budget_allows_its_reserve_and_gets_it_back_after_the_ttl() {
        let (budget, now) = (RetryBudget::new(BudgetConfig::default()), start());
        assert_eq!(budget.snapshot(now).balance, 100);
        let permits: Vec<_> = std::iter::from_fn(|| budget.withdraw(now)).collect();
        assert_eq!(permits.len(), 100);
        assert!(budget.withdraw(now + Duration::from_secs(9)).is_none());
        assert_eq!(budget.snapshot(now + Duration::from_secs(10)).balance, 100);
    }

    #[test]
    fn deposits_expire_and_a_look_changes_nothing() {
        let (budget, start) = (budget(1.0, 0, 0), start());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            (0..second).for_each(|_| budget.deposit(now));
            let alive = second.saturating_sub(9)..=second;
            assert_eq!(budget.snapshot(now).balance, alive.sum::<u64>());
        }
        let last = start + Duration::from_secs(99);
        assert_eq!(budget.snapshot(last + Duration::from_secs(10)).balance, 0);
        assert_eq!(budget.snapshot(last).balance, (90..=99).sum::<u64>());
        assert_eq!(withdrawn(&budget, last + Duration::from_secs(9), 1000), 99);
    }

    #[test]
    fn the_floor_counts_retries_under_way() {
        let (budget, now) = (budget(0.0, 0, 3), start());
        let mut permits: Vec<_> = std::iter::from_fn(|| budget.withdraw(now)).collect();
        assert_eq!(permits.len(), 3);
        permits.pop();
        assert_eq!(budget.snapshot(now).in_flight, 2);
        assert!(budget.withdraw(now).is_some());
        drop(permits);
        assert_eq!(budget.snapshot(now).in_flight, 0);
    }

    #[test]
    fn threads_together_never_overdraw_it_and_lose_no_deposit() {
        const THREADS: u32 = 8;
        const CALLS: u32 = 5_000;
        for round in 0..5 {
            let (budget, now) = (budget(0.2, 0, 0), start());
            let taken: u32 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            (0..CALLS)
                                .map(|_| {
                                    budget.deposit(now);
                                    withdrawn(&budget, now, 1)
                                })
                                .sum::<u32>()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            let left = withdrawn(&budget, now, THREADS * CALLS);
            assert_eq!(taken + left, THREADS * CALLS / 5, "round {round}");
        }
    }

    #[test]
    fn threads_whose_clocks_differ_do_not_spend_a_deposit_twice() {
        const CALLS: u32 = 20_000;
        let (budget, start) = (budget(1.0, 0, 0), start());
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let budget = &budget;
                    scope.spawn(move || {
                        // Thirty ttl in all, each thread up to three slices behind the first.
                        let behind = thread * Duration::from_secs(1);
                        let now =
                            |n| start + (Duration::from_secs(3) - behind) + n * Duration::from_millis(15);
                        (0..CALLS)
                            .map(|n| {
                                if thread == 0 {
                                    budget.deposit(now(n));
                                }
                                withdrawn(budget, now(n), 1)
                            })
                            .sum::<u32>()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken <= CALLS, "{taken}");
    }

    #[test]
    fn concurrent_retries_never_exceed_the_floor() {
        let (budget, now) = (budget(0.0, 0, 3), start());
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = budget.withdraw(now);
                        most.fetch_max(budget.snapshot(now).in_flight, Ordering::Relaxed);
                        drop(permit);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert_eq!(budget.snapshot(now).in_flight, 0);
    }
}
