//! A circuit for each key that is taken from requests.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use tower_layer::Layer;
use tower_mesh_core::{BoxError, CallContext, Classify, Tick};
use tower_service::Service;

use crate::circuit::{Circuit, CircuitEvent};
use crate::config::BreakerConfig;
use crate::future::BreakerFuture;
use crate::guard::CircuitGuard;
use crate::service::clock;

/// Puts a circuit for each key around a service; made by [`BreakerLayer::keyed`](crate::BreakerLayer::keyed).
///
/// Keys come with requests, so their number is bounded: [`max_keys`](Self::max_keys) have circuits of their own at a time. One that has not been used for
/// [`idle_after`](Self::idle_after) makes room when another comes. Where there is no room, further keys share one circuit, [`other`](Self::other): whoever
/// makes up keys cannot push out what was learned of those that are there.
///
/// A known key is looked up without a lock.
pub struct KeyedBreakerLayer<K, F, C> {
    keys: Arc<Keys<K>>,
    key_of: F,
    classifier: C,
}

impl<K: Hash + Eq + Clone, F, C> KeyedBreakerLayer<K, F, C> {
    pub(crate) fn new(config: Arc<BreakerConfig>, other: Circuit, key_of: F, classifier: C) -> Self {
        Self { keys: Arc::new(Keys::new(config, other)), key_of, classifier }
    }

    /// How many keys have circuits of their own. Default 1000. Those that are there stay.
    pub fn max_keys(self, max: NonZeroUsize) -> Self {
        self.keys.max.store(max.get(), Ordering::Relaxed);
        self
    }

    /// How long a key must not have been used to make room for another. Default 10 min.
    pub fn idle_after(self, time: Duration) -> Self {
        self.keys.idle_ns.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self
    }

    /// The circuit of all keys for which there was no room.
    pub fn other(&self) -> &Circuit {
        &self.keys.other
    }

    /// The circuit of `key`, if it has one of its own. That is no use of it.
    pub fn find(&self, key: &K) -> Option<Circuit> {
        self.keys.shard(key).map.load().get(key).map(|entry| entry.circuit.clone())
    }

    /// The keys that have circuits of their own, and those, in no order.
    pub fn circuits(&self) -> Vec<(K, Circuit)> {
        let maps = self.keys.shards.iter().map(|shard| shard.map.load_full());
        maps.flat_map(|map| {
            map.iter().map(|(key, entry)| (key.clone(), entry.circuit.clone())).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Tells `listener` of every transition of these circuits. See [`Circuit::on_transition`].
    pub fn on_transition(&self, listener: impl Fn(&CircuitEvent) + Send + Sync + 'static) {
        self.keys.other.family().listeners.add(listener);
    }

    /// Goes by `config` from now on: the circuits of all keys, there or to come, and [`other`](Self::other). See [`Circuit::reload`] for what stays.
    pub fn reload(&self, config: BreakerConfig) {
        let config = Arc::new(config);
        *self.keys.config() = config.clone();
        let now = clock();
        self.keys.other.reload_shared(&config, now);
        for shard in &self.keys.shards {
            // Once a writer that may have read the old configuration is through.
            drop(shard.writing());
            for entry in shard.map.load().values() {
                entry.circuit.reload_shared(&config, now);
            }
        }
    }
}

impl<K, F: Clone, C: Clone> Clone for KeyedBreakerLayer<K, F, C> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), key_of: self.key_of.clone(), classifier: self.classifier.clone() }
    }
}

impl<S, K, F: Clone, C: Clone> Layer<S> for KeyedBreakerLayer<K, F, C> {
    type Service = KeyedBreaker<S, K, F, C>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedBreaker { inner, layer: self.clone(), readied: false }
    }
}

impl<K, F, C> fmt::Debug for KeyedBreakerLayer<K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBreakerLayer")
            .field("keys", &self.keys.len.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Stops making the calls of a key while those keep failing. Made by a [`KeyedBreakerLayer`].
///
/// Which circuit it is shows with the request only, so it is ready when the inner service is, and refuses in `call`; the inner service is then not called and stays
/// ready. That the inner service breaks in `poll_ready` is nobody's failure.
pub struct KeyedBreaker<S, K, F, C> {
    inner: S,
    layer: KeyedBreakerLayer<K, F, C>,
    /// The inner service has said it is ready, and has not been called since.
    readied: bool,
}

impl<S, K, F, C> KeyedBreaker<S, K, F, C> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, without its circuits.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, K, F: Clone, C: Clone> Clone for KeyedBreaker<S, K, F, C> {
    /// The clone shares the circuits; its inner service was not asked whether it is ready.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone(), readied: false }
    }
}

impl<S, K, F, C, Req> Service<Req> for KeyedBreaker<S, K, F, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    F: Fn(&Req) -> K,
    K: Hash + Eq + Clone,
{
    type Response = C::Response<CircuitGuard>;
    type Error = BoxError;
    type Future = BreakerFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx).map_err(Into::into);
        self.readied = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    fn call(&mut self, request: Req) -> Self::Future {
        assert!(self.readied, "a service must be ready before it is called: tower's Service contract");
        let started = CallContext::attempt_started(clock);
        let circuit = self.layer.keys.circuit((self.layer.key_of)(&request), started);
        match circuit.admit(|| started) {
            Ok(admission) => {
                self.readied = false;
                let guard = CircuitGuard::new(circuit, admission, started);
                BreakerFuture::calling(self.inner.call(request), guard, self.layer.classifier.clone())
            }
            Err(refusal) => BreakerFuture::refused(refusal),
        }
    }
}

impl<S: fmt::Debug, K, F, C> fmt::Debug for KeyedBreaker<S, K, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBreaker").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

const SHARDS: usize = 16;

struct Keys<K> {
    shards: [Shard<K>; SHARDS],
    hasher: RandomState,
    config: Mutex<Arc<BreakerConfig>>,
    other: Circuit,
    len: AtomicUsize,
    max: AtomicUsize,
    idle_ns: AtomicU64,
    origin: Tick,
    /// When all shards were last searched for room, in nanoseconds since `origin`.
    searched: AtomicU64,
}

/// Replaced as a whole by a writer, of which there is one at a time; readers see the one or the other.
struct Shard<K> {
    map: ArcSwap<HashMap<K, Arc<Entry>>>,
    writer: Mutex<()>,
}

struct Entry {
    circuit: Circuit,
    /// In nanoseconds since the origin.
    used: AtomicU64,
}

impl<K> Shard<K> {
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Keys<K> {
    fn new(config: Arc<BreakerConfig>, other: Circuit) -> Self {
        let shard = |_| Shard { map: ArcSwap::from_pointee(HashMap::new()), writer: Mutex::default() };
        Self {
            shards: std::array::from_fn(shard),
            hasher: RandomState::new(),
            config: Mutex::new(config),
            other,
            len: AtomicUsize::new(0),
            max: AtomicUsize::new(1000),
            idle_ns: AtomicU64::new(600 * 1_000_000_000),
            origin: clock(),
            searched: AtomicU64::new(0),
        }
    }

    fn config(&self) -> MutexGuard<'_, Arc<BreakerConfig>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, key: &K) -> &Shard<K> {
        // The map within takes the low bits of a hash of its own.
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// The circuit for a call with `key` at `now`.
    fn circuit(&self, key: K, now: Tick) -> Circuit {
        let (shard, used) = (self.shard(&key), now.nanos_since(self.origin));
        if let Some(entry) = shard.map.load().get(&key) {
            entry.used.fetch_max(used, Ordering::Relaxed);
            return entry.circuit.clone();
        }
        self.admit_key(shard, key, now, used)
    }

    #[cold]
    fn admit_key(&self, shard: &Shard<K>, key: K, now: Tick, used: u64) -> Circuit {
        const SEARCH_EVERY_NS: u64 = 1_000_000_000;

        if self.is_full() {
            let last = self.searched.load(Ordering::Relaxed);
            let due = last == 0 || used.saturating_sub(last) >= SEARCH_EVERY_NS;
            let mine = due
                && self
                    .searched
                    .compare_exchange(last, used.max(1), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if mine {
                self.shards.iter().for_each(|shard| self.make_room(shard, used));
            }
        }
        // What is dropped here is dropped after the lock is: the keys are somebody else's.
        let (circuit, _old) = {
            let _writing = shard.writing();
            let old = shard.map.load_full();
            if let Some(entry) = old.get(&key) {
                return entry.circuit.clone();
            }
            let room = self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |len| {
                (len < self.max.load(Ordering::Relaxed)).then_some(len + 1)
            });
            if room.is_err() {
                return self.other.clone();
            }
            let config = self.config().clone();
            let circuit = Circuit::build(config, now, self.other.family().clone(), None, None);
            let mut map = HashMap::clone(&old);
            let entry = Entry { circuit: circuit.clone(), used: AtomicU64::new(used) };
            map.insert(key, Arc::new(entry));
            shard.map.store(Arc::new(map));
            (circuit, old)
        };
        circuit.announced()
    }

    fn is_full(&self) -> bool {
        self.len.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed)
    }

    /// Takes out what has not been used for long.
    fn make_room(&self, shard: &Shard<K>, now_ns: u64) {
        let idle_ns = self.idle_ns.load(Ordering::Relaxed);
        let is_used = |entry: &Entry| now_ns.saturating_sub(entry.used.load(Ordering::Relaxed)) < idle_ns;
        let _old = {
            let _writing = shard.writing();
            let old = shard.map.load_full();
            if old.values().all(|entry| is_used(entry)) {
                return;
            }
            let mut map = HashMap::clone(&old);
            map.retain(|_, entry| is_used(entry));
            self.len.fetch_sub(old.len() - map.len(), Ordering::Relaxed);
            shard.map.store(Arc::new(map));
            old
        };
    }
}
