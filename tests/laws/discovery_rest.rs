//! A service that nobody calls is put to rest, and woken by the next call, which waits for nothing.

use std::time::Duration;

use tokio::time::Instant;
use tower::ServiceExt;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::error::find;
use tower_mesh_core::{BoxError, Reason};
use tower_mesh_discovery::{
    Balance, DiscoveryConfig, DiscoveryLayer, DiscoveryState, NoEndpoints, NoEndpointsReason,
};
use tower_mesh_test::{Behaviour, Fleet, Inner, ScriptedResolver};
use tower_mesh_tests::{Query, ms, seconds, settle};

/// Discovery that rests, in front of a fleet.
struct Subject {
    source: ScriptedResolver,
    layer: DiscoveryLayer,
    fleet: Fleet<Query>,
    service: Balance<Inner<Query, String>, ByResult>,
}

impl Subject {
    async fn new(after: Option<Duration>, config: DiscoveryConfig) -> Self {
        let source = ScriptedResolver::new();
        Self::with(source.clone(), source, after, config).await
    }

    /// One whose source can say nothing any more when it is asked again.
    async fn of_a_source_that_breaks(after: Option<Duration>, config: DiscoveryConfig) -> Self {
        let broken = ScriptedResolver::new();
        broken.fail("the registry");
        Self::with(ScriptedResolver::new(), broken, after, config).await
    }

    async fn with(
        source: ScriptedResolver,
        again: ScriptedResolver,
        after: Option<Duration>,
        config: DiscoveryConfig,
    ) -> Self {
        let (layer, driver) = DiscoveryLayer::with_config(&source, "users".parse().unwrap(), config);
        let driver = driver.resting(again, after);
        #[expect(clippy::disallowed_methods, reason = "it ends with its test's runtime")]
        tokio::spawn(driver);
        let fleet = Fleet::new(["a:1", "b:1"]);
        let there = fleet.clone();
        let service = layer.clone().connect(move |endpoint: &_| there.connect(endpoint));
        let subject = Self { source, layer, fleet, service };
        subject.source.reset(["a:1"]);
        settle().await;
        subject
    }

    async fn after_ten_seconds() -> Self {
        Self::new(Some(seconds(10)), DiscoveryConfig::default()).await
    }

    async fn call(&self) -> Result<String, BoxError> {
        self.service.clone().oneshot(Query(1)).await
    }

    /// Its state, and how many listen to the source.
    fn is(&self) -> (DiscoveryState, usize) {
        (self.layer.status().state, self.source.streams())
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        settle().await;
    }
}

const LISTENING: (DiscoveryState, usize) = (DiscoveryState::Current, 1);
const RESTING: (DiscoveryState, usize) = (DiscoveryState::Resting, 0);

#[tokio::test(start_paused = true)]
async fn without_calls_it_rests_and_the_next_call_uses_what_is_kept_while_the_source_is_asked_again() {
    let subject = Subject::after_ten_seconds().await;
    assert_eq!(subject.call().await.unwrap(), "a:1");
    subject.pass(seconds(9)).await;
    assert_eq!(subject.is(), LISTENING);
    subject.pass(seconds(6)).await;
    assert_eq!(subject.is(), RESTING);
    assert_eq!(subject.layer.status().endpoints.len(), 1, "the last good set is kept");
    subject.source.reset(["b:1"]);
    subject.pass(seconds(3600)).await;
    assert_eq!(subject.is(), RESTING, "nobody listens");

    let (before, version) = (Instant::now(), subject.layer.status().version);
    assert_eq!(subject.call().await.unwrap(), "a:1", "what is kept");
    assert_eq!((before.elapsed(), subject.layer.status().version), (Duration::ZERO, version));
    subject.pass(ms(1001)).await;
    assert_eq!(subject.is(), LISTENING);
    assert_eq!(subject.call().await.unwrap(), "b:1");
    subject.pass(seconds(14)).await;
    assert_eq!(subject.is(), RESTING, "and again");
}

#[tokio::test(start_paused = true)]
async fn who_calls_now_and_then_or_waits_long_keeps_it_awake() {
    let subject = Subject::after_ten_seconds().await;
    for _ in 0..20 {
        subject.pass(seconds(7)).await;
        assert_eq!(subject.call().await.unwrap(), "a:1");
        assert_eq!(subject.is(), LISTENING);
    }
    subject.fleet.set("a:1", Behaviour::Slow(seconds(60)));
    let call = subject.service.clone().oneshot(Query(1));
    tokio::pin!(call);
    assert!(tokio::time::timeout(seconds(59), &mut call).await.is_err());
    assert_eq!(subject.is(), LISTENING, "a call is under way");
    call.await.unwrap();
    subject.pass(seconds(14)).await;
    assert_eq!(subject.is(), RESTING);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_nobody_wakes_it_at_once() {
    let subject = Subject::after_ten_seconds().await;
    subject.pass(seconds(15)).await;
    assert_eq!(subject.is(), RESTING);
    subject.source.reset(["a:1", "b:1"]);
    subject.layer.status().endpoints[0].set(Reason::CircuitOpen);
    subject.call().await.unwrap_err();
    settle().await;
    assert_eq!(subject.is(), LISTENING);
    assert_eq!(subject.call().await.unwrap(), "b:1");

    // Where there was nothing at all the call waits for the answer.
    let empty = Subject::after_ten_seconds().await;
    empty.source.reset([]);
    empty.pass(seconds(15)).await;
    assert_eq!(empty.is(), RESTING);
    empty.source.reset(["a:1"]);
    let before = Instant::now();
    assert_eq!(empty.call().await.unwrap(), "a:1");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn it_rests_and_wakes_when_it_is_told_to() {
    let subject = Subject::new(None, DiscoveryConfig::default()).await;
    subject.pass(seconds(3600)).await;
    assert_eq!(subject.is(), LISTENING, "by itself it does not");
    assert!(subject.layer.rest());
    settle().await;
    assert_eq!(subject.is(), RESTING);
    assert!(subject.layer.wake());
    settle().await;
    assert_eq!(subject.is(), LISTENING);
    subject.layer.rest();
    settle().await;
    assert_eq!(subject.call().await.unwrap(), "a:1");
    subject.pass(ms(1001)).await;
    assert_eq!(subject.is(), LISTENING, "a call wakes it too");

    let source = ScriptedResolver::new();
    let (layer, _driver) = DiscoveryLayer::new(&source, "users".parse().unwrap());
    assert!(!layer.rest() && !layer.wake(), "a driver that was not given the resolver cannot");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_while_it_rests_and_age_counts_again_when_the_source_fails() {
    let config =
        DiscoveryConfig::builder().max_stale(seconds(60)).removal_grace(seconds(20)).build().unwrap();
    let subject = Subject::new(Some(seconds(10)), config).await;
    subject.source.reset(["a:1", "b:1"]);
    subject.source.reset(["a:1"]);
    subject.pass(seconds(15)).await;
    assert_eq!((subject.is(), subject.layer.status().absent), (RESTING, 1));
    subject.pass(seconds(3600)).await;
    assert_eq!(subject.layer.status().endpoints.len(), 2, "neither for age nor for being named no longer");
    subject.call().await.unwrap();

    subject.source.fail("the registry");
    subject.pass(seconds(2)).await;
    assert_eq!(subject.is(), (DiscoveryState::Stale, 1));
    let none = loop {
        subject.pass(seconds(5)).await;
        match subject.call().await {
            Ok(_) => assert_eq!(subject.is().0, DiscoveryState::Stale),
            Err(none) => break none,
        }
    };
    assert_eq!(subject.is().0, DiscoveryState::Expired);
    assert_eq!(find::<NoEndpoints>(&*none).unwrap().reason(), NoEndpointsReason::ResolverFailed);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_as_new_when_it_is_woken_since_nobody_asked_while_it_rested() {
    let config = DiscoveryConfig::builder().max_stale(seconds(60)).build().unwrap();
    let subject = Subject::of_a_source_that_breaks(Some(seconds(10)), config).await;
    subject.pass(seconds(3600)).await;
    assert_eq!(subject.is(), RESTING);
    subject.call().await.unwrap();
    subject.pass(seconds(2)).await;
    // Woken within the first of these two seconds.
    for _ in 0..11 {
        assert_eq!(subject.is().0, DiscoveryState::Stale);
        assert_eq!(subject.call().await.unwrap(), "a:1");
        subject.pass(seconds(5)).await;
    }
    subject.pass(seconds(5)).await;
    assert_eq!(subject.is().0, DiscoveryState::Expired, "but not for ever");
}

#[tokio::test(start_paused = true)]
async fn rests_between_failures_keep_nothing_for_ever() {
    let config = DiscoveryConfig::builder().max_stale(seconds(60)).build().unwrap();
    let subject = Subject::of_a_source_that_breaks(None, config).await;
    subject.layer.rest();
    subject.pass(seconds(3600)).await;
    for _ in 0..5 {
        subject.layer.wake();
        subject.pass(seconds(11)).await;
        assert_eq!(subject.is().0, DiscoveryState::Stale);
        subject.layer.rest();
        subject.pass(seconds(3600)).await;
        assert_eq!(subject.is(), RESTING);
    }
    subject.layer.wake();
    settle().await;
    assert_eq!(subject.call().await.unwrap(), "a:1");
    subject.pass(seconds(6)).await;
    assert_eq!(subject.is().0, DiscoveryState::Expired, "the minute of failing is over, rests not counted");
}
