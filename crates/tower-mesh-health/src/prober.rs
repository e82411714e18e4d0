use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Sleep;
use tower_mesh_core::probe::ProbeStream;
use tower_mesh_core::{CallCounts, EndpointHandle, LiveReader, Probe, Reason, Tick};

use crate::check::{self, AnyProbe, EndKind, Ended};
use crate::config::HealthConfig;
use crate::policy::{Calls, HealthState, Machine, Sample, lengthen};
use crate::registry::{Registration, Serial, Shared};
use crate::status::{Last, Transition, Words};

/// Does the checking: a future to spawn or to poll, made by [`HealthLayer::new`](crate::HealthLayer::new). It must run inside a tokio
/// runtime with time.
///
/// It checks each endpoint once, however many stacks watch it, and never twice at a time; each check is bounded by its timeout and delays no
/// other. What an endpoint tells by itself ([`Probe::watch`]) counts at once, without thresholds. An endpoint that is draining is left alone, and keeps its last verdict, until it is no longer. A check under way keeps the record
/// of its endpoint to its end. It spawns nothing.
///
/// It ends when the last [`HealthLayer`](crate::HealthLayer) is gone and nothing is watched any more but what is draining. Dropped before, it
/// ends the checks under way and forgets what it found: every endpoint is unknown again, because nobody is left who would bring one back.
pub struct Prober {
    shared: Arc<Shared>,
    reader: LiveReader<HealthConfig>,
    config: HealthConfig,
    probe: Arc<dyn AnyProbe>,
    listener: Option<Listener>,
    watched: BTreeMap<Serial, Watched>,
    agenda: Agenda,
    /// Checks under way of endpoints that hung when they were last checked.
    checking_hung: usize,
    checks: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Streams that have told something, waiting for more. They do not count against the bound on checks.
    streams: FuturesUnordered<BoxFuture<'static, Ended>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

type Listener = Box<dyn Fn(&Transition) + Send>;

/// When those are due that are not being checked, by whether they hung when they were last checked. Those that hung take at most half of the places, so that
/// they delay nobody but each other.
#[derive(Default)]
struct Agenda {
    prompt: BTreeSet<(Tick, Serial)>,
    hung: BTreeSet<(Tick, Serial)>,
}

impl Agenda {
    fn of(&mut self, hung: bool) -> &mut BTreeSet<(Tick, Serial)> {
        if hung { &mut self.hung } else { &mut self.prompt }
    }
}

/// One endpoint under observation.
struct Watched {
    registration: Weak<Registration>,
    machine: Machine,
    phase: Phase,
    /// Its latest check ended by the time limit. Changes only while it is in no agenda.
    hung: bool,
    /// Streams in a row that ended without telling anything.
    in_vain: u32,
    /// The calls counted when they were last looked at.
    counts: CallCounts,
    /// Whether they spoke against it.
    failing: bool,
    published: Published,
}

/// What the prober has put into an endpoint's availability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    down: bool,
    degraded: bool,
}

impl Watched {
    /// The registration and the endpoint, if they are still there.
    fn live(&self) -> Option<(Arc<Registration>, EndpointHandle)> {
        let registration = self.registration.upgrade()?;
        let endpoint = registration.endpoint()?;
        Some((registration, endpoint))
    }
}

impl Watched {
    /// Takes in how the calls ended since the last look.
    fn look_at_calls(
        &mut self,
        registration: &Registration,
        endpoint: &EndpointHandle,
        config: &HealthConfig,
        now: Tick,
    ) {
        let Some(threshold) = config.traffic_threshold() else {
            self.failing = false;
            return;
        };
        let counts = endpoint.counts();
        let calls = Calls::between(std::mem::replace(&mut self.counts, counts), counts);
        self.failing = calls.are_failing(threshold, config.traffic_min_calls());
        let mut report = registration.report();
        (report.calls, report.failing) = (Some((calls, now)), self.failing);
    }

    /// Puts what is known by now where the balancer reads it, if that is not there yet.
    fn publish(&mut self, endpoint: &EndpointHandle) {
        let down = self.machine.state() == HealthState::Unhealthy;
        let degraded = !down && (self.failing || self.machine.state() == HealthState::Degraded);
        let said = Published { down, degraded };
        if std::mem::replace(&mut self.published, said) == said {
            return;
        }
        // What is worse first, so that it never looks well in between.
        for (holds, reason) in [(down, Reason::ProbeDown), (degraded, Reason::Degraded)] {
            if holds {
                endpoint.set(reason);
            }
        }
        for (holds, reason) in [(down, Reason::ProbeDown), (degraded, Reason::Degraded)] {
            if !holds {
                endpoint.clear(reason);
            }
        }
    }
}

enum Phase {
    /// It is in the agenda for this time.
    Due(Tick),
    /// As `Due`; it was draining when last looked at.
    Paused(Tick),
    /// A check is under way, or a stream that has told nothing yet.
    Checking(AbortHandle),
    /// A stream has told something and goes on; whether the endpoint is draining is looked at when it comes up in the agenda.
    Streaming(AbortHandle, Tick),
}

impl Prober {
    pub(crate) fn new(shared: Arc<Shared>, probe: impl Probe) -> Self {
        let mut reader = shared.config.reader();
        let config = **reader.get();
        Self {
            shared,
            reader,
            config,
            probe: Arc::new(probe),
            listener: None,
            watched: BTreeMap::new(),
            agenda: Agenda::default(),
            checking_hung: 0,
            checks: FuturesUnordered::new(),
            streams: FuturesUnordered::new(),
            sleep: None,
        }
    }

    /// Tells `listener` of every change of state, in order, after it is in force. It runs on the prober's task and should be quick; if it
    /// panics, the prober goes on.
    pub fn on_transition(mut self, listener: impl Fn(&Transition) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    fn follow_config(&mut self, now: Tick) {
        let config = **self.reader.get();
        if config == self.config {
            return;
        }
        self.config = config;
        // Nobody waits longer than the new configuration would have it.
        for (&serial, watched) in &mut self.watched {
            let latest = now + config.cadence().after(watched.machine.standing(), true);
            if let Phase::Due(at) | Phase::Paused(at) | Phase::Streaming(_, at) = &mut watched.phase
                && *at > latest
            {
                let agenda = self.agenda.of(watched.hung);
                agenda.remove(&(*at, serial));
                *at = latest;
                agenda.insert((latest, serial));
            }
        }
    }

    fn follow_registry(&mut self, now: Tick) {
        let changes = self.shared.take_changes();
        for serial in changes.removed {
            self.forget(serial);
        }
        for (serial, registration) in changes.added {
            let spread = self.config.initial_spread();
            let due = now + lengthen(Duration::ZERO, spread, fastrand::u64(..));
            let Some(there) = registration.upgrade() else { continue };
            // As it was registered, whatever the configuration is by now: that is what its availability says.
            let machine = there.report().machine;
            let watched = Watched {
                registration,
                machine,
                phase: Phase::Due(due),
                hung: false,
                in_vain: 0,
                counts: there.endpoint().map(|endpoint| endpoint.counts()).unwrap_or_default(),
                failing: false,
                published: Published { down: machine.state() == HealthState::Unhealthy, degraded: false },
            };
            self.agenda.prompt.insert((due, serial));
            self.watched.insert(serial, watched);
        }
    }

    fn forget(&mut self, serial: Serial) {
        let Some(watched) = self.watched.remove(&serial) else { return };
        let agenda = self.agenda.of(watched.hung);
        match watched.phase {
            Phase::Due(at) | Phase::Paused(at) => {
                agenda.remove(&(at, serial));
            }
            Phase::Checking(check) => check.abort(),
            Phase::Streaming(stream, at) => {
                stream.abort();
                agenda.remove(&(at, serial));
            }
        }
    }

    /// Begins what is due, as far as the bound allows; whether it began anything.
    fn begin_due(&mut self, now: Tick) -> bool {
        let mut began = false;
        for hung in [false, true] {
            while self.has_room(hung)
                && let Some(&(at, serial)) = self.agenda.of(hung).first()
                && at <= now
            {
                self.agenda.of(hung).pop_first();
                began |= self.begin(serial, now);
            }
        }
        began
    }

    fn begin(&mut self, serial: Serial, now: Tick) -> bool {
        let Some(watched) = self.watched.get_mut(&serial) else {
            return false;
        };
        let Some((registration, endpoint)) = watched.live() else {
            self.watched.remove(&serial);
            return false;
        };
        let again = now + self.config.interval();
        if endpoint.availability().contains(Reason::Draining) {
            if let Phase::Streaming(stream, _) = &watched.phase {
                stream.abort();
            }
            watched.phase = Phase::Paused(again);
            self.agenda.of(watched.hung).insert((again, serial));
            return false;
        }
        if let Phase::Streaming(_, look_at) = &mut watched.phase {
            *look_at = again;
            self.agenda.of(watched.hung).insert((again, serial));
            watched.look_at_calls(&registration, &endpoint, &self.config, now);
            watched.publish(&endpoint);
            return false;
        }
        let (timeout, hung) = (self.config.timeout(), watched.hung);
        let (check, handle) = match self.probe.stream(&endpoint) {
            Some(stream) => check::listen(serial, now, hung, stream, timeout),
            None => check::ask(serial, now, hung, self.probe.clone().check(endpoint), timeout),
        };
        watched.phase = Phase::Checking(handle);
        self.checking_hung += usize::from(watched.hung);
        self.checks.push(check);
        true
    }

    /// Waits for more of a stream that has told something.
    fn follow(&mut self, serial: Serial, stream: ProbeStream, now: Tick) {
        let Some(watched) = self.watched.get_mut(&serial) else { return };
        let (news, handle) = check::listen_on(serial, now, stream);
        let look_at = now + self.config.interval();
        watched.phase = Phase::Streaming(handle, look_at);
        self.agenda.of(watched.hung).insert((look_at, serial));
        self.streams.push(news);
    }

    /// Takes in a check that is over: judges it, publishes, plans the next, and then tells.
    fn conclude(&mut self, check: Ended) {
        let Ended { serial, began, ended, result, kind, hung: _ } = check;
        if matches!(kind, EndKind::Aborted) {
            return;
        }
        let Some(watched) = self.watched.get_mut(&serial) else {
            return; // Forgotten while it was under way.
        };
        if let Phase::Streaming(_, look_at) = watched.phase {
            self.agenda.of(watched.hung).remove(&(look_at, serial));
        }
        let Some((registration, endpoint)) = watched.live() else {
            self.watched.remove(&serial);
            return;
        };
        // What an endpoint tells by itself it tells once, so it counts at once.
        let one = NonZeroU32::MIN;
        let (rise, fall) = match kind {
            EndKind::Asked => self.config.thresholds(),
            _ => (one, one),
        };
        let thresholds = (rise.get(), fall.get());
        let began = if let Phase::Streaming(..) = watched.phase { ended } else { began };
        watched.hung = result.is_err() && ended.since(began) >= self.config.timeout();
        self.shared.probes.count(&result);
        let step = watched.machine.record(Sample::of(&result), rise, fall);
        if result.is_ok() {
            endpoint.hint_recovery(began);
        }
        if step.is_recovery() {
            // What was measured while it was bad would keep traffic away from it now that it is good.
            endpoint.forget_latency();
        }
        watched.look_at_calls(&registration, &endpoint, &self.config, ended);
        watched.publish(&endpoint);
        let last = Last { ended, rtt: ended.since(began), result };
        let transition = step.is_change().then(|| Transition {
            endpoint: endpoint.clone(),
            from: step.from,
            to: step.to,
            at: ended,
            reason: Words { machine: watched.machine, thresholds, last: &last }.to_string(),
        });
        registration.report().update(watched.machine, last, thresholds);

        let cadence = self.config.cadence();
        let interval = match kind {
            EndKind::Told(stream) => {
                watched.in_vain = 0;
                self.follow(serial, stream, ended);
                None
            }
            EndKind::StreamOver(told) => {
                let interval = cadence.reopen(if told { 0 } else { watched.in_vain });
                watched.in_vain = if told { 0 } else { watched.in_vain.saturating_add(1) };
                Some(interval)
            }
            EndKind::Asked | EndKind::Aborted => Some(cadence.after(step, endpoint.counts().started > 0)),
        };
        if let Some(interval) = interval
            && let Some(watched) = self.watched.get_mut(&serial)
        {
            let jitter = interval.mul_f64(self.config.jitter().as_f64());
            let due = ended + lengthen(interval, jitter, fastrand::u64(..));
            watched.phase = Phase::Due(due);
            self.agenda.of(watched.hung).insert((due, serial));
        }

        if let Some(transition) = transition {
            self.tell(&transition);
        }
    }

    fn tell(&self, transition: &Transition) {
        if transition.to() == HealthState::Unhealthy
            && catch_unwind(AssertUnwindSafe(|| transition.endpoint().tell_down())).is_err()
        {
            tracing::error!("a listener for endpoints that are down panicked");
        }
        tracing::info!(
            endpoint = %transition.endpoint().id(),
            from = transition.from().as_str(),
            to = transition.to().as_str(),
            reason = transition.reason(),
            "endpoint health changed"
        );
        if let Some(listener) = &self.listener
            && catch_unwind(AssertUnwindSafe(|| listener(transition))).is_err()
        {
            tracing::error!("the listener for health transitions panicked");
        }
    }

    /// Whether one more may be checked of those that hung before, or of the others.
    fn has_room(&self, hung: bool) -> bool {
        let places = self.config.max_concurrent();
        self.checks.len() < places && (!hung || self.checking_hung < (places / 2).max(1))
    }

    /// When there is something to do, if not before.
    fn next_due(&self) -> Option<Tick> {
        let first = |agenda: &BTreeSet<(Tick, Serial)>, hung| {
            agenda.first().filter(|_| self.has_room(hung)).map(|&(at, _)| at)
        };
        let (prompt, hung) = (first(&self.agenda.prompt, false), first(&self.agenda.hung, true));
        prompt.into_iter().chain(hung).min()
    }

    fn is_done(&self) -> bool {
        let idle = |watched: &Watched| matches!(watched.phase, Phase::Paused(_));
        self.shared.is_closed() && self.watched.values().all(idle)
    }

    /// Waits until `at`; ready when it has come.
    fn poll_until(&mut self, at: Tick, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at.instant());
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Future for Prober {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // First of all: what changes from here on wakes us.
        this.shared.prober.register(cx.waker());
        loop {
            let now = clock();
            this.follow_config(now);
            this.follow_registry(now);
            while let Poll::Ready(Some(check)) = this.checks.poll_next_unpin(cx) {
                this.checking_hung -= usize::from(check.hung);
                this.conclude(check);
            }
            // After the checks, of which some become streams that have to be polled.
            while let Poll::Ready(Some(news)) = this.streams.poll_next_unpin(cx) {
                this.conclude(news);
            }
            if this.is_done() {
                return Poll::Ready(());
            }
            if this.begin_due(now) {
                continue; // They have not been polled yet.
            }
            match this.next_due() {
                // Without room, the next check that ends wakes us.
                Some(at) => ready!(this.poll_until(at, cx)),
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.prober_gone(clock());
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("config", &self.config)
            .field("watched", &self.watched.len())
            .field("checking", &self.checks.len())
            .finish_non_exhaustive()
    }
}

/// The layer's clock: tokio's, so that a paused one reaches it.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}
