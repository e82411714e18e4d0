//! The prober under a paused clock.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower_layer::Layer;
use tower_mesh_core::ewma::Decay;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{EndpointHandle, Reason, Tick};
use tower_mesh_health::policy::HealthState;
use tower_mesh_health::{HealthConfig, HealthLayer, Prober};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum Answer {
    Well,
    Degraded,
    Refused,
    SaysNo,
    Hangs,
    Takes(Duration),
    Panics,
}

/// Answers for each endpoint as it is told, and remembers when it was asked.
#[derive(Clone, Default)]
struct Scripted(Arc<Inner>);

#[derive(Default)]
struct Inner {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<(String, Instant)>>,
    outstanding: Mutex<HashMap<String, usize>>,
    most_at_once: AtomicUsize,
    twice_at_once: AtomicBool,
}

impl Scripted {
    fn set(&self, endpoint: &EndpointHandle, answer: Answer) {
        let mut answers = self.0.answers.lock().unwrap();
        answers.insert(endpoint.id().to_string(), answer);
    }

    fn asked(&self, endpoint: &EndpointHandle) -> Vec<Instant> {
        let asked = self.0.asked.lock().unwrap();
        let of_endpoint = asked.iter().filter(|(id, _)| id == endpoint.id().as_str());
        of_endpoint.map(|(_, at)| *at).collect()
    }

    fn outstanding(&self) -> usize {
        self.0.outstanding.lock().unwrap().values().sum()
    }
}

/// Counts a check as outstanding until it is dropped.
struct Outstanding<'a>(&'a Inner, String);

impl<'a> Outstanding<'a> {
    fn new(inner: &'a Inner, id: String) -> Self {
        let mut outstanding = inner.outstanding.lock().unwrap();
        let count = outstanding.entry(id.clone()).or_default();
        *count += 1;
        inner.twice_at_once.fetch_or(*count > 1, Ordering::Relaxed);
        let all = outstanding.values().sum();
        inner.most_at_once.fetch_max(all, Ordering::Relaxed);
        Self(inner, id)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        *self.0.outstanding.lock().unwrap().get_mut(&self.1).unwrap() -= 1;
    }
}

impl Probe for Scripted {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let id = endpoint.id().to_string();
        self.0.asked.lock().unwrap().push((id.clone(), Instant::now()));
        let answer = self.0.answers.lock().unwrap().get(&id).cloned();
        let _outstanding = Outstanding::new(&self.0, id);
        match answer.unwrap_or(Answer::Well) {
            Answer::Well => Ok(Probed::Healthy),
            Answer::Degraded => Ok(Probed::Degraded),
            Answer::Refused => Err(ProbeFailure::unreachable("connection refused")),
            Answer::SaysNo => Err(ProbeFailure::unhealthy("status 503")),
            Answer::Hangs => std::future::pending().await,
            Answer::Takes(time) => {
                tokio::time::sleep(time).await;
                Ok(Probed::Healthy)
            }
            Answer::Panics => panic!("a bug in the probe"),
        }
    }
}

fn endpoint(id: &str) -> EndpointHandle {
    EndpointHandle::new(id.parse().unwrap())
}

fn steady() -> HealthConfig {
    HealthConfig::builder().jitter(0.0).build().unwrap()
}

fn layer(config: HealthConfig) -> (HealthLayer, Prober, Scripted) {
    let probe = Scripted::default();
    let (health, prober) = HealthLayer::new(config, probe.clone());
    (health, prober, probe)
}

/// Runs the prober for `time`; it must not end.
async fn run(prober: &mut Prober, time: Duration) {
    assert!(timeout(time, prober).await.is_err(), "the prober has ended");
}

/// Runs the prober until it ends; whether it did within a minute.
async fn ends(prober: &mut Prober) -> bool {
    timeout(60 * SECOND, prober).await.is_ok()
}

fn is_down(endpoint: &EndpointHandle) -> bool {
    endpoint.availability().contains(Reason::ProbeDown)
}

#[tokio::test(start_paused = true)]
async fn unknown_is_pickable_and_the_first_check_decides() {
    let (health, mut prober, probe) = layer(steady());
    let (well, ill) = (endpoint("well:1"), endpoint("ill:1"));
    probe.set(&ill, Answer::Refused);
    health.watching(&well);
    health.watching(&ill);
    assert!(!is_down(&ill));
    assert_eq!(health.status()[0].state(), HealthState::Unknown);
    assert_eq!(health.status()[0].last(), None);
    run(&mut prober, MS).await;
    assert!(is_down(&ill) && !is_down(&well));
    let status = health.status();
    assert_eq!(status[0].id().as_str(), "ill:1");
    assert_eq!(status[0].state(), HealthState::Unhealthy);
    assert_eq!(status[0].last().unwrap(), "failed from the start: connection refused");
    assert_eq!(status[1].state(), HealthState::Healthy);
    assert_eq!(status[1].last_rtt(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn it_falls_after_three_and_rises_after_two_looking_often_meanwhile() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    probe.set(&endpoint, Answer::Refused);
    let began = Instant::now();
    // 5 s to the next check, then 1 s each while the fall is pending.
    run(&mut prober, 6 * SECOND).await;
    assert!(!is_down(&endpoint));
    assert_eq!(health.status()[0].last().unwrap(), "2 of 3 failed: connection refused");
    run(&mut prober, SECOND).await;
    assert!(is_down(&endpoint));
    let status = &health.status()[0];
    assert_eq!(status.last().unwrap(), "3 of 3 failed: connection refused");
    assert_eq!(status.consecutive_failures(), 3);
    assert_eq!(status.since(), status.last_checked().unwrap());
    assert!(Instant::now() - began <= 7 * SECOND + MS);

    let decay = Decay::new(10 * SECOND);
    let tick = || Tick::of(Instant::now().into_std());
    let now = tick();
    endpoint.observe_latency(endpoint.latency_epoch(), now, 1_000_000_000, decay);
    endpoint.open_circuit(now, Some(now + 600 * SECOND), true);
    probe.set(&endpoint, Answer::Well);
    run(&mut prober, SECOND).await;
    assert!(is_down(&endpoint), "one of two");
    assert_eq!(health.status()[0].last().unwrap(), "1 of 2 passed");
    assert!(endpoint.recheck_due(tick()), "every pass brings the trial of an open circuit forward");
    run(&mut prober, SECOND).await;
    assert!(!is_down(&endpoint));
    assert_eq!(endpoint.latency(tick(), decay), None, "recovery forgets the bad latency");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_no_takes_it_out_at_once_and_degraded_is_advice() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    probe.set(&endpoint, Answer::Degraded);
    run(&mut prober, MS).await;
    assert_eq!(endpoint.availability(), [Reason::Degraded].into_iter().collect());
    probe.set(&endpoint, Answer::SaysNo);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), [Reason::ProbeDown].into_iter().collect());
    assert_eq!(health.status()[0].last().unwrap(), "answered no: status 503");
    probe.set(&endpoint, Answer::Well);
    run(&mut prober, 2 * SECOND).await;
    assert_eq!(endpoint.availability(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_check_is_bounded_delays_no_other_and_is_never_doubled() {
    let (health, mut prober, probe) = layer(steady());
    let (hangs, fine) = (endpoint("hangs:1"), endpoint("fine:1"));
    probe.set(&hangs, Answer::Hangs);
    health.watching(&hangs);
    health.watching(&fine);
    run(&mut prober, 21 * SECOND).await;
    // 1 s timeout, 1 s interval while down.
    assert_eq!(probe.asked(&hangs).len(), 11);
    assert_eq!(probe.asked(&fine).len(), 5);
    assert!(!probe.0.twice_at_once.load(Ordering::Relaxed));
    let status = &health.status()[1];
    assert!(status.last().unwrap().ends_with("no answer within 1s"));
    assert_eq!(status.last_rtt(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_allowed_and_everyone_gets_a_turn() {
    let config = HealthConfig::builder().max_concurrent(4).jitter(0.0).build().unwrap();
    let (health, mut prober, probe) = layer(config);
    let endpoints: Vec<_> = (0..20).map(|i| endpoint(&format!("e:{i}"))).collect();
    for endpoint in &endpoints {
        probe.set(endpoint, Answer::Takes(100 * MS));
    }
    for endpoint in &endpoints {
        health.watching(endpoint);
    }
    run(&mut prober, 550 * MS).await;
    assert_eq!(probe.0.most_at_once.load(Ordering::Relaxed), 4);
    assert!(health.status().iter().all(|status| status.state() == HealthState::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_watched_endpoint_is_checked_once_however_often_it_is_asked_for_until_its_record_goes() {
    let (health, mut prober, probe) = layer(steady());
    let kept = endpoint("a:1");
    probe.set(&kept, Answer::SaysNo);
    // Nothing is added to the service, and neither it nor the layer is what keeps the endpoint watched.
    let client: &str = health.watching(&kept).layer("client");
    assert_eq!(client, "client");
    health.clone().watching(&kept);
    run(&mut prober, 2 * SECOND + MS).await;
    assert_eq!(probe.asked(&kept).len(), 3);
    assert!(is_down(&kept));
    let (in_flight, known) = (kept.clone(), endpoint("a:1"));
    drop(kept);
    run(&mut prober, SECOND).await;
    assert_eq!(probe.asked(&known).len(), 4, "a call still holds it");
    assert_eq!(health.status().len(), 1);
    drop(in_flight);
    assert!(health.status().is_empty());
    run(&mut prober, 10 * SECOND).await;
    assert_eq!(probe.asked(&known).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_guarded_endpoint_is_checked_until_the_last_guard_lets_go() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::SaysNo);
    let layer = health.guarding(&endpoint);
    let (first, second) = (layer.layer(()), health.guarding(&endpoint).layer(()));
    drop(layer);
    let clone = second.clone();
    run(&mut prober, 2 * SECOND + MS).await;
    assert_eq!(probe.asked(&endpoint).len(), 3);
    drop((first, second));
    run(&mut prober, SECOND).await;
    assert_eq!(probe.asked(&endpoint).len(), 4, "a clone still guards");
    assert!(is_down(&endpoint));
    drop(clone);
    assert!(!is_down(&endpoint), "what it set is cleared with the last");
    assert!(health.status().is_empty());
    run(&mut prober, 10 * SECOND).await;
    assert_eq!(probe.asked(&endpoint).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_guard_may_keep_what_is_watched_too_and_the_other_way_round() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::SaysNo);
    let guard = health.guarding(&endpoint);
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    drop(guard);
    assert!(is_down(&endpoint), "still watched");
    let guard = health.guarding(&endpoint);
    drop(endpoint);
    run(&mut prober, SECOND).await;
    assert_eq!(health.status()[0].consecutive_failures(), 2, "the guard keeps the record");
    drop(guard);
    assert!(health.status().is_empty());
    drop(health);
    assert!(ends(&mut prober).await);
}

#[tokio::test(start_paused = true)]
async fn each_health_layer_checks_what_it_watches() {
    let ((first, mut one, probe), (second, mut other, probe_too)) = (layer(steady()), layer(steady()));
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::SaysNo);
    first.watching(&endpoint);
    second.watching(&endpoint);
    run(&mut other, MS).await;
    run(&mut one, MS).await;
    assert_eq!((probe.asked(&endpoint).len(), probe_too.asked(&endpoint).len()), (1, 1));
    assert!(is_down(&endpoint));
    drop((first, second, endpoint));
    assert!(ends(&mut one).await && ends(&mut other).await);
}

#[tokio::test(start_paused = true)]
async fn a_check_under_way_keeps_its_endpoint_no_longer_than_its_timeout() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::Hangs);
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    let record = endpoint.downgrade();
    drop((health, endpoint));
    assert!(record.upgrade().is_some());
    let began = Instant::now();
    assert!(ends(&mut prober).await);
    assert_eq!(Instant::now() - began, SECOND - MS);
    assert!(record.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_when_its_endpoint_is_no_longer_guarded_and_says_nothing_of_the_next() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::Hangs);
    let guard = health.guarding(&endpoint);
    run(&mut prober, 900 * MS).await;
    assert_eq!(probe.outstanding(), 1);
    drop(guard);
    probe.set(&endpoint, Answer::Takes(500 * MS));
    let _again = health.guarding(&endpoint);
    run(&mut prober, 10 * MS).await;
    assert_eq!(probe.outstanding(), 1, "the old one is gone, the new one runs");
    run(&mut prober, 200 * MS).await;
    assert_eq!(
        health.status()[0].state(),
        HealthState::Unknown,
        "the timeout of the old check would have passed"
    );
    run(&mut prober, 300 * MS).await;
    assert_eq!(health.status()[0].state(), HealthState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn the_prober_ends_with_the_last_layer_and_the_last_endpoint() {
    let (health, mut prober, _probe) = layer(steady());
    let endpoint = endpoint("a:1");
    run(&mut prober, SECOND).await;
    health.clone().watching(&endpoint);
    drop(health);
    run(&mut prober, 60 * SECOND).await;
    let drop_later = async {
        tokio::time::sleep(SECOND / 2).await;
        drop(endpoint);
    };
    let began = Instant::now();
    let (ended, ()) = tokio::join!(ends(&mut prober), drop_later);
    assert!(ended);
    assert_eq!(Instant::now() - began, SECOND / 2, "at once, not at the next check");
}

#[tokio::test(start_paused = true)]
async fn a_draining_endpoint_is_left_alone_until_it_is_back_and_keeps_nobody_running() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    probe.set(&endpoint, Answer::SaysNo);
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    endpoint.set(Reason::Draining);
    run(&mut prober, 30 * SECOND).await;
    assert_eq!(probe.asked(&endpoint).len(), 1);
    endpoint.clear(Reason::Draining);
    probe.set(&endpoint, Answer::Well);
    run(&mut prober, 7 * SECOND).await;
    assert!(!is_down(&endpoint));
    endpoint.set(Reason::Draining);
    drop(health);
    assert!(ends(&mut prober).await);
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_is_dropped_leaves_no_check_and_no_verdict() {
    let (health, mut prober, probe) = layer(steady());
    let (ill, hangs) = (endpoint("ill:1"), endpoint("hangs:1"));
    probe.set(&ill, Answer::SaysNo);
    probe.set(&hangs, Answer::Hangs);
    health.watching(&ill);
    health.watching(&hangs);
    run(&mut prober, MS).await;
    assert!(is_down(&ill) && probe.outstanding() == 1);
    drop(prober);
    assert!(!is_down(&ill), "nobody is left who would bring it back");
    assert_eq!(probe.outstanding(), 0);
    assert!(health.status().iter().all(|status| status.state() == HealthState::Unknown));
}

#[tokio::test(start_paused = true)]
async fn transitions_are_told_in_order_when_in_force_and_a_panicking_listener_hurts_nobody() {
    let (health, prober, probe) = layer(steady());
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut prober = prober.on_transition({
        let told = told.clone();
        move |transition| {
            let in_force = is_down(transition.endpoint()) == (transition.to() == HealthState::Unhealthy);
            told.lock().unwrap().push((transition.from(), transition.to(), in_force));
            panic!("a bug in the listener");
        }
    });
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    probe.set(&endpoint, Answer::SaysNo);
    run(&mut prober, 5 * SECOND).await;
    probe.set(&endpoint, Answer::Well);
    run(&mut prober, 30 * SECOND).await;
    assert_eq!(
        *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        [
            (HealthState::Unknown, HealthState::Healthy, true),
            (HealthState::Healthy, HealthState::Unhealthy, true),
            (HealthState::Unhealthy, HealthState::Healthy, true)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_panicking_probe_is_a_failed_check_of_that_endpoint_only() {
    let (health, mut prober, probe) = layer(steady());
    let (panics, fine) = (endpoint("panics:1"), endpoint("fine:1"));
    probe.set(&panics, Answer::Panics);
    health.watching(&panics);
    health.watching(&fine);
    run(&mut prober, 10 * SECOND + MS).await;
    assert!(is_down(&panics));
    assert_eq!(probe.asked(&fine).len(), 3);
    assert!(health.status()[1].last().unwrap().contains("panicked"));
}

#[tokio::test(start_paused = true)]
async fn it_is_polled_when_something_happens_and_not_otherwise() {
    let (health, mut prober, _probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    let mut polls = 0;
    let counted = poll_fn(|cx| {
        polls += 1;
        std::pin::Pin::new(&mut prober).poll(cx)
    });
    assert!(timeout(100 * SECOND, counted).await.is_err());
    // 20 checks: one poll for the timer of each, the first, and a few of the test's own timer.
    assert!(polls <= 30, "{polls}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_prober_wakes_for_what_is_registered() {
    let (health, prober, probe) = layer(steady());
    let mut prober = tokio_test::task::spawn(prober);
    assert!(prober.poll().is_pending());
    assert!(!prober.is_woken());
    let (a, b) = (endpoint("a:1"), endpoint("b:1"));
    health.watching(&a);
    health.watching(&b);
    assert!(prober.is_woken());
    assert!(prober.poll().is_pending());
    assert_eq!((probe.asked(&a).len(), probe.asked(&b).len()), (1, 1));
    assert!(matches!(prober.poll(), Poll::Pending));
}

#[tokio::test(start_paused = true)]
async fn everything_that_concerns_it_wakes_the_prober() {
    let (health, prober, _probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    let mut prober = tokio_test::task::spawn(prober);
    assert!(prober.poll().is_pending());
    assert!(prober.poll().is_pending());
    assert!(!prober.is_woken(), "nothing left to do");
    health.reload(HealthConfig::default());
    assert!(prober.is_woken(), "a new configuration");
    assert!(prober.poll().is_pending());
    drop(endpoint);
    assert!(prober.is_woken(), "an endpoint fewer");
    assert!(prober.poll().is_pending());
    drop(health);
    assert!(prober.is_woken(), "the last layer gone");
    assert!(prober.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_is_followed_at_once() {
    let slow = HealthConfig::builder().interval(3600 * SECOND).jitter(0.0).build().unwrap();
    let (health, mut prober, probe) = layer(slow);
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    run(&mut prober, SECOND).await;
    health.reload(steady());
    run(&mut prober, 10 * SECOND + MS).await;
    assert_eq!(probe.asked(&endpoint).len(), 3);
    assert_eq!(health.config(), steady());
}

#[tokio::test(start_paused = true)]
async fn jitter_only_lengthens_and_first_checks_are_spread() {
    let config = HealthConfig::builder().jitter(0.2).initial_spread(10 * SECOND).build().unwrap();
    let (health, mut prober, probe) = layer(config);
    let endpoints: Vec<_> = (0..50).map(|i| endpoint(&format!("e:{i}"))).collect();
    for endpoint in &endpoints {
        health.watching(endpoint);
    }
    let began = Instant::now();
    run(&mut prober, 60 * SECOND).await;
    let mut firsts = Vec::new();
    for endpoint in &endpoints {
        let asked = probe.asked(endpoint);
        firsts.push(asked[0] - began);
        for pair in asked.windows(2) {
            let interval = pair[1] - pair[0];
            // The timer rounds up to a millisecond.
            assert!((5 * SECOND..=6 * SECOND + MS).contains(&interval), "{interval:?}");
        }
    }
    firsts.sort();
    assert!(firsts[0] < 2 * SECOND && firsts[49] > 8 * SECOND && firsts[49] <= 10 * SECOND + MS);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_calls_may_be_looked_at_less_often() {
    let config = HealthConfig::builder().jitter(0.0).no_traffic_interval(60 * SECOND).build().unwrap();
    let (health, mut prober, probe) = layer(config);
    let (idle, used) = (endpoint("idle:1"), endpoint("used:1"));
    used.started();
    health.watching(&idle);
    health.watching(&used);
    run(&mut prober, 30 * SECOND + MS).await;
    assert_eq!((probe.asked(&idle).len(), probe.asked(&used).len()), (1, 7));
}
