//! What calls and other layers say of an endpoint, beside its checks, under a paused clock.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower::{Service, ServiceExt, service_fn};
use tower_layer::Layer;
use tower_mesh_core::classify::{self, Origin, Outcome, Retry, Verdict};
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{CallEnd, EndpointHandle, Reason, Tick};
use tower_mesh_health::policy::HealthState;
use tower_mesh_health::{CountLayer, HealthConfig, HealthConfigBuilder, HealthLayer, Initial, Prober};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Probe for Switch {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(Probed::Healthy),
            true => Err(ProbeFailure::unreachable("connection refused")),
        }
    }
}

fn watched(config: HealthConfigBuilder) -> (HealthLayer, Prober, Switch, EndpointHandle) {
    let switch = Switch::default();
    let (health, prober) = HealthLayer::new(config.jitter(0.0).build().unwrap(), switch.clone());
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    health.watching(&endpoint);
    (health, prober, switch, endpoint)
}

async fn run(prober: &mut Prober, time: Duration) {
    assert!(timeout(time, prober).await.is_err(), "the prober has ended");
}

fn now() -> Tick {
    Tick::of(Instant::now().into_std())
}

fn calls(endpoint: &EndpointHandle, succeeded: usize, failed: usize) {
    for i in 0..succeeded + failed {
        endpoint.started();
        let outcome = if i < failed { Outcome::Failure(Origin::Remote) } else { Outcome::Success };
        endpoint.finished(CallEnd::Answered(outcome));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_degrade_what_passes_its_checks_until_the_next_one() {
    let (health, mut prober, _, endpoint) = watched(HealthConfig::builder().traffic_threshold(0.5));
    calls(&endpoint, 0, 100);
    run(&mut prober, MS).await;
    assert!(
        !endpoint.availability().contains(Reason::Degraded),
        "what was before it was watched is not looked at"
    );
    calls(&endpoint, 6, 14);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), [Reason::Degraded].into_iter().collect());
    let status = &health.status()[0];
    assert_eq!((status.state(), status.verdict()), (HealthState::Healthy, HealthState::Degraded));
    assert_eq!(status.reasons(now()), ["probe: passed, 0 s ago", "calls: 14 of 20 failed, 0 s ago"]);
    calls(&endpoint, 0, 9);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), Default::default(), "too few to tell: another chance");
    assert_eq!(health.status()[0].reasons(now()), ["probe: passed, 0 s ago"]);
    calls(&endpoint, 11, 9);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), Default::default(), "less than half");
}

#[tokio::test(start_paused = true)]
async fn unless_it_is_asked_for_calls_are_not_looked_at_and_down_is_down_whatever_they_say() {
    let (_health, mut prober, _, endpoint) = watched(HealthConfig::builder());
    run(&mut prober, MS).await;
    calls(&endpoint, 0, 100);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), Default::default());

    let (_health, mut prober, switch, endpoint) =
        watched(HealthConfig::builder().traffic_threshold(0.1).fall(1));
    run(&mut prober, MS).await;
    switch.0.store(true, Ordering::Relaxed);
    calls(&endpoint, 0, 100);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(endpoint.availability(), [Reason::ProbeDown].into_iter().collect());
    switch.0.store(false, Ordering::Relaxed);
    calls(&endpoint, 0, 100);
    run(&mut prober, SECOND).await;
    calls(&endpoint, 0, 100);
    run(&mut prober, SECOND).await;
    assert_eq!(endpoint.availability(), [Reason::Degraded].into_iter().collect(), "up, and not well");
}

#[tokio::test(start_paused = true)]
async fn the_verdict_is_of_all_that_is_known_and_says_why() {
    let (health, mut prober, switch, endpoint) = watched(HealthConfig::builder());
    let told = || {
        let status = &health.status()[0];
        (status.verdict(), status.reasons(now()).join(" · "))
    };
    assert_eq!(told(), (HealthState::Unknown, "probe: none has ended yet".to_owned()));
    calls(&endpoint, 1, 0);
    assert_eq!(told().0, HealthState::Healthy, "a call has told");
    run(&mut prober, MS).await;
    switch.0.store(true, Ordering::Relaxed);
    run(&mut prober, 7 * SECOND).await;
    tokio::time::advance(300 * MS).await;
    let refused = "probe: 3 of 3 failed: connection refused, 0 s ago".to_owned();
    assert_eq!(told(), (HealthState::Unhealthy, refused.clone()));
    endpoint.open_circuit(now(), None, true);
    endpoint.set(Reason::Ejected);
    assert_eq!(told(), (HealthState::Unhealthy, format!("{refused} · circuit: open · peers: ejected")));
    endpoint.half_open_circuit();
    endpoint.clear(Reason::Ejected);
    switch.0.store(false, Ordering::Relaxed);
    run(&mut prober, 2 * SECOND).await;
    assert_eq!(told(), (HealthState::Degraded, "probe: passed, 0 s ago · circuit: half-open".to_owned()));
    endpoint.set(Reason::Draining);
    run(&mut prober, 12 * SECOND).await;
    assert_eq!(
        told(),
        (HealthState::Draining, "probe: passed, 12 s ago · draining · circuit: half-open".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_changes_before_the_first_look_leaves_nothing_behind() {
    let (health, mut prober, _, endpoint) = watched(HealthConfig::builder().initial(Initial::Unhealthy));
    assert!(endpoint.availability().contains(Reason::ProbeDown));
    health.reload(HealthConfig::default());
    run(&mut prober, MS).await;
    assert_eq!(endpoint.availability(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stands_alone_counts_its_own_calls_to_their_end() {
    let config = HealthConfig::builder().traffic_threshold(0.5).no_traffic_interval(60 * SECOND);
    let (health, mut prober, _, endpoint) = watched(config);
    let classifier = classify::by(|result: Result<&u32, _>| match result {
        Ok(500) => Verdict::failure(Origin::Remote, Retry::Never),
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::failure(Origin::Local, Retry::Never),
    });
    let inner = service_fn(|status: u32| async move {
        match status {
            0 => std::future::pending().await,
            1 => Err(std::io::Error::other("reset")),
            status => Ok(status),
        }
    });
    let service = (health.guarding(&endpoint), CountLayer::new(&endpoint, classifier)).layer(inner);
    run(&mut prober, 30 * SECOND).await;
    let checked = health.status()[0].last_checked();
    for status in [200, 200, 200, 200, 500, 500, 500, 1, 1, 1] {
        let _ = service.clone().oneshot(status).await;
    }
    {
        let mut service = service.clone();
        let hangs = service.ready().await.unwrap().call(0);
        assert_eq!(endpoint.counts().in_flight(), 1);
        drop(hangs);
    }
    let counts = endpoint.counts();
    assert_eq!((counts.succeeded, counts.failed, counts.abandoned, counts.in_flight()), (4, 6, 1, 0));
    assert_eq!(checked, health.status()[0].last_checked(), "nobody had called it, so it is seldom checked");
    run(&mut prober, 31 * SECOND).await;
    let status = &health.status()[0];
    assert_eq!(status.verdict(), HealthState::Degraded);
    assert_eq!(status.reasons(now()), ["probe: passed, 1 s ago", "calls: 6 of 10 failed, 1 s ago"]);
    run(&mut prober, 5 * SECOND).await;
    assert_eq!(health.status()[0].verdict(), HealthState::Healthy, "called, it is checked at the usual pace");
}
