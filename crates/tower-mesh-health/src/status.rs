use std::fmt;
use std::time::Duration;

use tower_mesh_core::probe::{ProbeFailure, Probed};
use tower_mesh_core::{Availability, EndpointHandle, EndpointId, Reason, Tick};

use crate::policy::{Calls, HealthState, Machine, merge, reasons};

/// What the checks say of one endpoint, and why.
#[derive(Debug, Clone)]
pub struct EndpointHealth {
    key: u32,
    id: EndpointId,
    report: Report,
    availability: Availability,
    /// Whether any call to it has ended well.
    answered: bool,
}

impl EndpointHealth {
    /// `endpoint`: none if its record is gone.
    pub(crate) fn new(key: u32, id: EndpointId, report: Report, endpoint: Option<&EndpointHandle>) -> Self {
        let availability = endpoint.map(EndpointHandle::availability).unwrap_or_default();
        let answered = endpoint.is_some_and(|endpoint| endpoint.counts().succeeded > 0);
        Self { key, id, report, availability, answered }
    }

    /// The [key](EndpointHandle::key) of its record, which tells it from an earlier or later one of the same id.
    pub fn key(&self) -> u32 {
        self.key
    }

    /// The endpoint.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// What its checks say; draining, while it is.
    pub fn state(&self) -> HealthState {
        match self.availability.contains(Reason::Draining) {
            true => HealthState::Draining,
            false => self.report.machine.state(),
        }
    }

    /// The one verdict of all that is known: its checks, its calls, and what other layers have said of it. See [`merge`].
    pub fn verdict(&self) -> HealthState {
        merge(self.report.machine.state(), self.availability, self.answered)
    }

    /// All that is known at `now`, in words: "probe: 3 of 3 failed: connection refused, 12 s ago", "calls: 14 of 20 failed, 3 s ago", "circuit: open".
    pub fn reasons(&self, now: Tick) -> Vec<String> {
        let ago = |at: Tick| format!("{} s ago", now.since(at).as_secs());
        let probe = match (&self.report.last, self.last()) {
            (Some(last), Some(words)) => format!("probe: {words}, {}", ago(last.ended)),
            _ => "probe: none has ended yet".to_owned(),
        };
        let calls = self.report.calls.filter(|_| self.report.failing).map(|(calls, at)| {
            format!("calls: {} of {} failed, {}", calls.failed, calls.failed + calls.succeeded, ago(at))
        });
        let layers = reasons(self.availability).map(str::to_owned);
        [probe].into_iter().chain(calls).chain(layers).collect()
    }

    /// Since when it is in that state: the end of the check that decided it; while unknown, since it was registered.
    pub fn since(&self) -> Tick {
        self.report.since
    }

    /// The latest check in words: "3 of 3 failed: connection refused". None before the first.
    pub fn last(&self) -> Option<String> {
        self.report.last.as_ref().map(|last| {
            Words { machine: self.report.machine, thresholds: self.report.thresholds, last }.to_string()
        })
    }

    /// When the latest check ended. None before the first.
    pub fn last_checked(&self) -> Option<Tick> {
        self.report.last.as_ref().map(|last| last.ended)
    }

    /// How long the latest check took. None before the first.
    pub fn last_rtt(&self) -> Option<Duration> {
        self.report.last.as_ref().map(|last| last.rtt)
    }

    /// Checks that passed since the last that failed.
    pub fn consecutive_passes(&self) -> u32 {
        self.report.machine.passes()
    }

    /// Checks that failed since the last that passed.
    pub fn consecutive_failures(&self) -> u32 {
        self.report.machine.failures()
    }
}

/// A change of state.
#[derive(Debug, Clone)]
pub struct Transition {
    pub(crate) endpoint: EndpointHandle,
    pub(crate) from: HealthState,
    pub(crate) to: HealthState,
    pub(crate) at: Tick,
    pub(crate) reason: String,
}

impl Transition {
    /// The endpoint. Its record already says what this tells.
    pub fn endpoint(&self) -> &EndpointHandle {
        &self.endpoint
    }

    /// The state before.
    pub fn from(&self) -> HealthState {
        self.from
    }

    /// The state now.
    pub fn to(&self) -> HealthState {
        self.to
    }

    /// When the check that decided it ended.
    pub fn at(&self) -> Tick {
        self.at
    }

    /// That check in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {}: {} → {} ({})", self.endpoint.id(), self.from, self.to, self.reason)
    }
}

/// What is kept for the status of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) since: Tick,
    pub(crate) last: Option<Last>,
    /// The calls between the latest two checks, and when they were looked at.
    pub(crate) calls: Option<(Calls, Tick)>,
    /// Whether they speak against it.
    pub(crate) failing: bool,
    /// Rise and fall when the last check was judged.
    thresholds: (u32, u32),
}

impl Report {
    pub(crate) fn new(initial: HealthState, now: Tick) -> Self {
        Self {
            machine: Machine::assuming(initial),
            since: now,
            last: None,
            calls: None,
            failing: false,
            thresholds: (0, 0),
        }
    }

    /// Takes in a check and what `machine` made of it.
    pub(crate) fn update(&mut self, machine: Machine, last: Last, thresholds: (u32, u32)) {
        if machine.state() != self.machine.state() {
            self.since = last.ended;
        }
        self.machine = machine;
        self.thresholds = thresholds;
        self.last = Some(last);
    }
}

/// One check that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Last {
    pub(crate) ended: Tick,
    pub(crate) rtt: Duration,
    pub(crate) result: Result<Probed, ProbeFailure>,
}

/// A check in words, seen from what it led to.
pub(crate) struct Words<'a> {
    pub(crate) machine: Machine,
    pub(crate) thresholds: (u32, u32),
    pub(crate) last: &'a Last,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rise, fall) = self.thresholds;
        let (passes, failures) = (self.machine.passes(), self.machine.failures());
        let down = self.machine.state() == HealthState::Unhealthy;
        match &self.last.result {
            Ok(_) if down => write!(f, "{passes} of {rise} passed"),
            Ok(Probed::Healthy) => f.write_str("passed"),
            Ok(Probed::Degraded) => f.write_str("passed, but asks to be avoided"),
            Err(failure) if !failure.is_conclusive() => write!(f, "could not be checked: {failure}"),
            Err(failure) if failure.is_answer() => write!(f, "answered no: {failure}"),
            // Down before `fall` was reached, and it did not answer: the first check decided.
            Err(failure) if down && failures < fall => write!(f, "failed from the start: {failure}"),
            Err(failure) if failures > fall => write!(f, "{failures} failed in a row: {failure}"),
            Err(failure) => write!(f, "{failures} of {fall} failed: {failure}"),
        }
    }
}
