//! The algorithms that come along, by name, and what each keeps.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tower_mesh_core::EndpointHandle;

use crate::candidates::{Candidates, Picker};
use crate::config::DiscoveryConfig;
use crate::policy::hash::{self, MAGLEV_SIZE, Ring};
use crate::policy::pick;
use crate::policy::weighted::{self, Alias};

/// How an endpoint is chosen for a call. All skip what is unavailable and what the call has tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// The less loaded of two drawn at random, by latency (peak EWMA), calls in flight and weight. The default, and the cheapest.
    #[default]
    P2cEwma,
    /// The one of two drawn at random that has fewer calls in flight for its weight: for calls whose latency says more of themselves than of the endpoint.
    P2cLeastRequest,
    /// In turn, each as often as its weight says, spread evenly (earliest deadline first, as in Envoy).
    RoundRobin,
    /// At random, in proportion of weights.
    Random,
    /// By the call's hash key, on a ring: an endpoint more or less moves about its own share of the keys. Without a key, at random.
    RingHash,
    /// By the call's hash key, in a table of 65 537 places: faster and more even than the ring, and moves a few more keys.
    Maglev,
}

impl Algorithm {
    /// All of them, with the name that each has in configuration files.
    pub const ALL: [(&'static str, Self); 6] = [
        ("p2c_ewma", Self::P2cEwma),
        ("p2c_least_request", Self::P2cLeastRequest),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("ring_hash", Self::RingHash),
        ("maglev", Self::Maglev),
    ];
}

/// Makes a picker for endpoints; of the user's own.
pub(crate) type Factory = Arc<dyn Fn(&[EndpointHandle]) -> Box<dyn Picker> + Send + Sync>;

/// How pickers are made.
#[derive(Clone)]
pub(crate) enum Choice {
    Algorithm(Algorithm),
    Own(Factory),
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm(algorithm) => algorithm.fmt(f),
            Self::Own(_) => f.write_str("Own"),
        }
    }
}

impl Choice {
    /// Whether a call's hash key says where it goes.
    pub(crate) fn is_by_key(&self) -> bool {
        matches!(self, Self::Algorithm(Algorithm::RingHash | Algorithm::Maglev))
    }

    /// The picker for `endpoints`; none for the default algorithm, which needs nothing kept.
    pub(crate) fn picker(
        &self,
        config: &DiscoveryConfig,
        endpoints: &[EndpointHandle],
    ) -> Option<Box<dyn Picker>> {
        let algorithm = match self {
            Self::Own(factory) => return Some(factory(endpoints)),
            Self::Algorithm(algorithm) => algorithm,
        };
        let weights = || endpoints.iter().map(EndpointHandle::weight).collect::<Vec<_>>();
        Some(match algorithm {
            Algorithm::P2cEwma => return None,
            Algorithm::P2cLeastRequest => Box::new(LeastRequest { bias: config.active_request_bias() }),
            Algorithm::RoundRobin => Box::new(RoundRobin::new(&weights())),
            Algorithm::Random => Box::new(WeightedRandom(Alias::new(&weights()))),
            Algorithm::RingHash | Algorithm::Maglev => {
                let hosts: Vec<_> =
                    endpoints.iter().map(|endpoint| (endpoint.id().as_str(), endpoint.weight())).collect();
                let bound = Bound::new(config.hash_balance_factor(), &weights());
                match algorithm {
                    Algorithm::Maglev => {
                        Box::new(Hashed { table: Table::Maglev(hash::maglev(&hosts, MAGLEV_SIZE)), bound })
                    }
                    _ => {
                        let least = config.ring_size().max(ENTRIES_EACH * hosts.len());
                        let ring = hash::ring(&hosts, hash::steady_size(&hosts, least), MAX_RING);
                        Box::new(Hashed { table: Table::Ring(Ring::new(ring)), bound })
                    }
                }
            }
        })
    }
}

/// The largest ring, as in Envoy.
const MAX_RING: usize = 8 << 20;

/// An endpoint of average weight has at least so many entries on a ring, however many endpoints there are.
const ENTRIES_EACH: usize = 16;

/// The default algorithm over candidates, where the short way of [`Plan`](crate::plan::Plan) does not do.
pub(crate) fn p2c_ewma(among: &Candidates<'_>) -> Option<usize> {
    two_choices(among, |i| if among.is_newcomer(i) { 0.0 } else { among.load(i) })
}

fn two_choices(among: &Candidates<'_>, load: impl Fn(usize) -> f64) -> Option<usize> {
    pick::p2c(among.len(), || among.draw(), |i| among.may_use(i), load).map(|pick| pick.first)
}

struct LeastRequest {
    bias: f64,
}

impl Picker for LeastRequest {
    fn pick(&self, among: &Candidates<'_>) -> Option<usize> {
        two_choices(among, |i| match among.is_newcomer(i) {
            true => 0.0,
            false => 1.0 / pick::request_weight(among.weight(i), among.in_flight(i), self.bias),
        })
    }
}

/// After so many turns that are of no use, all candidates are looked at.
const TURNS: usize = 32;

struct RoundRobin {
    turns: Box<[u32]>,
    next: AtomicUsize,
}

impl RoundRobin {
    fn new(weights: &[u32]) -> Self {
        let turns = weighted::schedule(weights).into_boxed_slice();
        // Clients that start together should not all begin with the same endpoint.
        let first = if turns.is_empty() { 0 } else { fastrand::usize(..turns.len()) };
        Self { turns, next: AtomicUsize::new(first) }
    }
}

impl Picker for RoundRobin {
    fn pick(&self, among: &Candidates<'_>) -> Option<usize> {
        if self.turns.is_empty() {
            return None;
        }
        for _ in 0..TURNS.max(2 * among.len().min(TURNS)) {
            let turn = self.turns[self.next.fetch_add(1, Relaxed) % self.turns.len()] as usize;
            if among.may_use(turn) && passes(among, turn) {
                return Some(turn);
            }
        }
        among.scan(self.next.load(Relaxed))
    }
}

/// Whether an endpoint whose turn it is takes it: one that is warming lets some pass.
fn passes(among: &Candidates<'_>, index: usize) -> bool {
    let factor = among.factor(index);
    factor >= 1.0 || among.is_newcomer(index) || (among.draw() >> 11) as f64 / ((1_u64 << 53) as f64) < factor
}

struct WeightedRandom(Alias);

impl Picker for WeightedRandom {
    fn pick(&self, among: &Candidates<'_>) -> Option<usize> {
        if among.is_empty() {
            return None;
        }
        for _ in 0..TURNS {
            let drawn = self.0.draw(among.draw());
            if among.may_use(drawn) && passes(among, drawn) {
                return Some(drawn);
            }
        }
        among.scan(among.draw() as usize >> 1)
    }
}

enum Table {
    Ring(Ring),
    Maglev(Vec<u32>),
}

impl Table {
    fn len(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.len(),
            Self::Maglev(table) => table.len(),
        }
    }

    fn place(&self, key: u64) -> usize {
        match self {
            Self::Ring(ring) => ring.place(key),
            Self::Maglev(table) => (key % table.len() as u64) as usize,
        }
    }

    fn host(&self, place: usize) -> usize {
        match self {
            Self::Ring(ring) => ring.host(place) as usize,
            Self::Maglev(table) => table[place] as usize,
        }
    }
}

/// By hash. An endpoint that is of no use, or full, is passed over for the one of the following place, so that its keys spread over all others and those of
/// the others stay.
struct Hashed {
    table: Table,
    bound: Option<Bound>,
}

/// So many places are looked at before all candidates are.
const PLACES: usize = 1024;

impl Picker for Hashed {
    fn pick(&self, among: &Candidates<'_>) -> Option<usize> {
        if self.table.len() == 0 {
            return None;
        }
        let key = among.hash_key().unwrap_or_else(|| among.draw());
        let total = self.bound.as_ref().map(|bound| bound.total(among));
        let mut place = self.table.place(key);
        let mut full = None;
        for _ in 0..self.table.len().min(PLACES) {
            let host = self.table.host(place);
            if among.may_use(host) {
                match (&self.bound, total) {
                    (Some(bound), Some(total)) if bound.is_full(among, host, total) => {
                        full.get_or_insert(host);
                    }
                    _ => return Some(host),
                }
            }
            place += 1;
            if place == self.table.len() {
                place = 0;
            }
        }
        full.or_else(|| among.scan(key as usize))
    }
}

/// Bounded load (V. Mirrokni et al., *Consistent Hashing with Bounded Loads*, 2016): no endpoint gets a call that would bring it over `factor` percent of the average in
/// flight, counting itself, by weight.
struct Bound {
    factor: f64,
    weights: f64,
    /// The sum of calls in flight, and how many more picks it serves. Adding up costs as much as there are endpoints, so it is done once for every so many picks.
    sum: AtomicU64,
    left: AtomicU64,
}

impl Bound {
    fn new(percent: u32, weights: &[u32]) -> Option<Self> {
        (percent > 0).then(|| Self {
            factor: f64::from(percent) / 100.0,
            weights: weights.iter().map(|&weight| f64::from(weight)).sum(),
            sum: AtomicU64::new(0),
            left: AtomicU64::new(0),
        })
    }

    /// The calls in flight on all candidates; off by what an eighth as many picks as there are candidates may have changed.
    fn total(&self, among: &Candidates<'_>) -> u64 {
        if self.left.load(Relaxed) > 0 {
            self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(1))).ok();
            return self.sum.fetch_add(1, Relaxed);
        }
        let sum = (0..among.len()).map(|i| among.in_flight(i)).sum();
        self.sum.store(sum + 1, Relaxed);
        self.left.store(among.len() as u64 / 8, Relaxed);
        sum
    }

    fn is_full(&self, among: &Candidates<'_>, index: usize, total: u64) -> bool {
        let share = f64::from(among.endpoint(index).weight()) / self.weights;
        let most = (self.factor * (total + 1) as f64 * share).ceil();
        among.in_flight(index) as f64 + 1.0 > most
    }
}
