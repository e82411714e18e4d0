//! Endpoints that tell by themselves, under a paused clock.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};
use tower_mesh_core::probe::{Probe, ProbeFailure, ProbeStream, Probed};
use tower_mesh_core::{EndpointHandle, Reason};
use tower_mesh_health::policy::HealthState;
use tower_mesh_health::{HealthConfig, HealthLayer, Initial, Prober};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type News = Result<Probed, ProbeFailure>;

/// A stream that was opened: when, and its other end.
type Opened = (Instant, UnboundedSender<News>);

/// Opens streams and keeps their other ends.
#[derive(Clone, Default)]
struct Teller(Arc<Mutex<Vec<Opened>>>);

impl Teller {
    fn opened(&self) -> Vec<Instant> {
        self.0.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// Tells over the latest stream; whether anybody still listens.
    fn tell(&self, news: News) -> bool {
        self.0.lock().unwrap().last().unwrap().1.send(news).is_ok()
    }

    /// Ends the latest stream.
    fn end(&self) {
        let (dead, _) = unbounded_channel();
        self.0.lock().unwrap().last_mut().unwrap().1 = dead;
    }
}

impl Probe for Teller {
    async fn probe(&self, _: &EndpointHandle) -> News {
        panic!("it is not asked");
    }

    fn watch(&self, _: &EndpointHandle) -> Option<ProbeStream> {
        let (sender, receiver) = unbounded_channel();
        self.0.lock().unwrap().push((Instant::now(), sender));
        let next = async |mut receiver: UnboundedReceiver<News>| Some((receiver.recv().await?, receiver));
        Some(futures_util::stream::unfold(receiver, next).boxed())
    }
}

fn layer(config: HealthConfig) -> (HealthLayer, Prober, Teller) {
    let probe = Teller::default();
    let (health, prober) = HealthLayer::new(config, probe.clone());
    (health, prober, probe)
}

fn steady() -> HealthConfig {
    HealthConfig::builder().jitter(0.0).build().unwrap()
}

fn endpoint(id: &str) -> EndpointHandle {
    EndpointHandle::new(id.parse().unwrap())
}

async fn run(prober: &mut Prober, time: Duration) {
    assert!(timeout(time, prober).await.is_err(), "the prober has ended");
}

fn is_down(endpoint: &EndpointHandle) -> bool {
    endpoint.availability().contains(Reason::ProbeDown)
}

fn no() -> News {
    Err(ProbeFailure::unhealthy("NOT_SERVING"))
}

fn broken() -> News {
    Err(ProbeFailure::unreachable("connection reset"))
}

#[tokio::test(start_paused = true)]
async fn what_it_tells_counts_at_once_and_one_stream_stays_open() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    assert_eq!(health.status()[0].state(), HealthState::Healthy);
    probe.tell(no());
    run(&mut prober, MS).await;
    assert!(is_down(&endpoint));
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    assert!(!is_down(&endpoint), "one word is enough: it will not be said twice");
    probe.tell(Ok(Probed::Degraded));
    run(&mut prober, 3600 * SECOND).await;
    assert_eq!(endpoint.availability(), [Reason::Degraded].into_iter().collect());
    assert_eq!(probe.opened().len(), 1, "nothing is asked meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_takes_it_out_and_is_opened_again_ever_later_until_there_is_news() {
    let (health, mut prober, probe) = layer(steady());
    let endpoint = endpoint("a:1");
    health.watching(&endpoint);
    run(&mut prober, MS).await;
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    let mut began = Instant::now();
    probe.tell(broken());
    for wait in [1, 1, 2, 4, 8_u32] {
        run(&mut prober, wait * SECOND + MS).await;
        assert!(is_down(&endpoint));
        let opened = *probe.opened().last().unwrap();
        // The news and the opening are each looked at a millisecond late.
        assert!((opened - began).abs_diff(wait * SECOND) <= 2 * MS, "{wait} s");
        began = Instant::now();
        probe.tell(broken());
    }
    run(&mut prober, 16 * SECOND + MS).await;
    // Any news starts the waits anew, bad news too; the end of a stream is told like its breaking.
    probe.tell(no());
    run(&mut prober, MS).await;
    let before = probe.opened().len();
    probe.end();
    run(&mut prober, MS).await;
    assert_eq!(health.status()[0].last().unwrap(), "8 failed in a row: the stream ended");
    run(&mut prober, SECOND + MS).await;
    assert_eq!(probe.opened().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_first_word_is_bounded_in_time_and_in_number() {
    let config = HealthConfig::builder().jitter(0.0).max_concurrent(1).build().unwrap();
    let (health, mut prober, probe) = layer(config);
    let (first, second) = (endpoint("a:1"), endpoint("b:1"));
    health.watching(&first);
    health.watching(&second);
    run(&mut prober, 500 * MS).await;
    assert_eq!(probe.opened().len(), 1);
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    assert_eq!(probe.opened().len(), 2, "what has spoken takes nobody's place");
    run(&mut prober, SECOND).await;
    assert!(!is_down(&first) && is_down(&second));
    assert!(health.status()[1].last().unwrap().contains("no answer within 1s"));
    assert!(!probe.tell(Ok(Probed::Healthy)), "the stream is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_with_its_endpoint_with_draining_and_with_the_prober() {
    let (health, mut prober, probe) = layer(steady());
    let (kept, gone) = (endpoint("a:1"), endpoint("b:1"));
    health.watching(&kept);
    run(&mut prober, MS).await;
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    kept.set(Reason::Draining);
    run(&mut prober, 5 * SECOND + MS).await;
    assert!(!probe.tell(Ok(Probed::Healthy)), "draining: left alone");
    assert_eq!(health.status()[0].state(), HealthState::Draining);
    kept.clear(Reason::Draining);
    run(&mut prober, 5 * SECOND + MS).await;
    assert!(probe.tell(Ok(Probed::Healthy)), "and then no longer");

    health.watching(&gone);
    run(&mut prober, MS).await;
    probe.tell(Ok(Probed::Healthy));
    run(&mut prober, MS).await;
    let record = gone.downgrade();
    drop(gone);
    assert!(record.upgrade().is_none(), "the stream does not keep it");
    run(&mut prober, MS).await;
    assert!(!probe.tell(Ok(Probed::Healthy)));
    kept.set(Reason::Draining);
    drop(health);
    assert!(timeout(60 * SECOND, &mut prober).await.is_ok(), "only what drains is left");
}

/// A check that could not be made.
struct Unable;

impl Probe for Unable {
    async fn probe(&self, _: &EndpointHandle) -> News {
        Err(ProbeFailure::inconclusive("too many open files"))
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_checked_stays_as_it_was_assumed() {
    for (initial, state, down) in [
        (Initial::Unknown, HealthState::Unknown, false),
        (Initial::Healthy, HealthState::Healthy, false),
        (Initial::Unhealthy, HealthState::Unhealthy, true),
    ] {
        let config = HealthConfig::builder().initial(initial).build().unwrap();
        let (health, mut prober) = HealthLayer::new(config, Unable);
        let endpoint = endpoint("a:1");
        health.watching(&endpoint);
        assert_eq!(is_down(&endpoint), down, "{initial:?}: from the first moment");
        run(&mut prober, 10 * SECOND).await;
        assert_eq!((health.status()[0].state(), is_down(&endpoint)), (state, down));
        assert_eq!(health.status()[0].last().unwrap(), "could not be checked: too many open files");
        drop(prober);
        assert!(!is_down(&endpoint), "nobody is left who would bring it back");
    }
}
