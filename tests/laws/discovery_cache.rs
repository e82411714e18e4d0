//! What is known of a service between two answers of its source, and when it may be forgotten.

use tower::{Layer, Service, ServiceExt};
use tower_mesh_core::error::find;
use tower_mesh_core::{Reason, Update};
use tower_mesh_discovery::{
    DiscoveryConfig, DiscoveryConfigBuilder, DiscoveryLayer, DiscoveryState, DiscoveryStatus, NoEndpoints,
    NoEndpointsReason,
};
use tower_mesh_test::{Fleet, Inner, ScriptedResolver};
use tower_mesh_tests::{Query, ms, seconds, settle};

/// Discovery with these knobs, and the driver of it.
struct Subject {
    source: ScriptedResolver,
    layer: DiscoveryLayer,
    driver: tokio::task::JoinHandle<()>,
}

impl Subject {
    fn new(change: impl FnOnce(DiscoveryConfigBuilder) -> DiscoveryConfigBuilder) -> Self {
        let source = ScriptedResolver::new();
        let config = change(DiscoveryConfig::builder()).build().unwrap();
        let (layer, driver) = DiscoveryLayer::with_config(&source, "users".parse().unwrap(), config);
        #[expect(clippy::disallowed_methods, reason = "it ends with its test's runtime")]
        let driver = tokio::spawn(driver);
        Self { source, layer, driver }
    }

    async fn says(&self, addresses: &[&str]) {
        self.source.reset(addresses.iter().copied());
        settle().await;
    }

    fn status(&self) -> DiscoveryStatus {
        self.layer.status()
    }

    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> =
            self.status().endpoints.iter().map(|endpoint| endpoint.id().to_string()).collect();
        ids.sort();
        ids
    }

    async fn after(&self, time: std::time::Duration) -> Vec<String> {
        tokio::time::sleep(time).await;
        settle().await;
        self.ids()
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_named_stays_for_its_grace_and_gets_calls() {
    let subject = Subject::new(|config| config.removal_grace(seconds(10)));
    let fleet = Fleet::<Query>::new(["a:1", "b:1"]);
    let there = fleet.clone();
    let service = subject.layer.clone().connect(move |endpoint| there.connect(endpoint));
    subject.says(&["a:1", "b:1"]).await;
    subject.says(&["a:1"]).await;
    assert_eq!((subject.ids().len(), subject.status().absent), (2, 1));
    for n in 0..50 {
        service.clone().oneshot(Query(n)).await.unwrap();
    }
    assert!(fleet.at("b:1").calls() > 0);
    let b = subject.status().endpoints[1].clone();
    assert_eq!(subject.after(ms(9_900)).await.len(), 2);
    assert!(!b.availability().contains(Reason::Draining));
    assert_eq!(subject.after(ms(200)).await, ["a:1"]);
    assert!(b.availability().contains(Reason::Draining));
    assert_eq!(subject.status().absent, 0);

    subject.says(&["a:1", "c:1"]).await;
    subject.says(&["a:1"]).await;
    tokio::time::sleep(seconds(6)).await;
    let c = subject.status().endpoints[1].key();
    subject.says(&["a:1", "c:1"]).await;
    assert_eq!(subject.after(seconds(60)).await.len(), 2, "named again, it stays");
    assert_eq!(subject.status().endpoints[1].key(), c, "as who it was");
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_while_the_source_fails() {
    let subject = Subject::new(|config| config.removal_grace(seconds(10)));
    subject.says(&["a:1", "b:1"]).await;
    subject.says(&["a:1"]).await;
    subject.source.fail("the registry");
    assert_eq!(subject.after(seconds(3600)).await.len(), 2);
    subject.says(&["a:1"]).await;
    assert_eq!(subject.after(ms(9_900)).await.len(), 2, "the grace begins anew");
    assert_eq!(subject.after(ms(200)).await, ["a:1"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_names_nobody_is_believed_later_than_one_that_names_some() {
    for nobody in [Update::Reset(vec![]), Update::NotFound] {
        let subject = Subject::new(|config| config.empty_grace(seconds(10)));
        subject.says(&["a:1", "b:1"]).await;
        subject.says(&["a:1"]).await;
        assert_eq!(subject.ids(), ["a:1"], "one goes at once");
        subject.source.send(nobody.clone());
        assert_eq!(subject.after(ms(9_900)).await, ["a:1"]);
        let state =
            if nobody == Update::NotFound { DiscoveryState::NotFound } else { DiscoveryState::Current };
        assert_eq!(subject.status().state, state, "and what the source says is no secret");
        assert!(subject.after(ms(200)).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_well_stays_until_it_is_not() {
    let subject = Subject::new(|config| config.keep_healthy(true));
    subject.says(&["a:1", "b:1", "c:1"]).await;
    let (b, c) = (subject.status().endpoints[1].clone(), subject.status().endpoints[2].clone());
    c.set(Reason::ProbeDown);
    subject.says(&["a:1"]).await;
    assert_eq!(
        subject.after(seconds(3600)).await,
        ["a:1", "b:1"],
        "absent and failing goes, absent and well stays"
    );
    b.set(Reason::ProbeDown);
    for _ in 0..5 {
        subject.says(&["a:1"]).await;
        subject.after(ms(500)).await;
    }
    assert_eq!(subject.ids(), ["a:1"], "also while the source has much to say");
    subject.status().endpoints[0].set(Reason::ProbeDown);
    assert_eq!(subject.after(seconds(60)).await, ["a:1"], "failing and named stays");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_given_up_and_comes_back_with_the_source() {
    let subject = Subject::new(|config| config.max_stale(seconds(60)).ready_timeout(seconds(1)));
    let service = subject.layer.layer(Inner::new(|_, _: Query| async { Ok(()) }));
    subject.says(&["a:1"]).await;
    assert_eq!(subject.after(seconds(3600)).await, ["a:1"], "a source that is well may be silent");
    subject.says(&["a:1"]).await;
    subject.source.fail("the registry");
    assert_eq!(subject.after(ms(59_900)).await, ["a:1"]);
    service.clone().oneshot(Query(1)).await.unwrap();
    assert!(subject.after(ms(200)).await.is_empty());
    subject.source.fail("the registry");
    settle().await;
    assert_eq!(subject.status().state, DiscoveryState::Expired);
    let error = service.clone().oneshot(Query(2)).await.unwrap_err();
    let none = find::<NoEndpoints>(&*error).unwrap();
    assert_eq!(none.reason(), NoEndpointsReason::ResolverFailed);
    assert!(find::<tower_mesh_test::Down>(&*error).is_some(), "with the source's own error");
    subject.says(&["a:1"]).await;
    service.clone().oneshot(Query(3)).await.unwrap();
    subject.source.end();
    assert!(subject.after(seconds(61)).await.is_empty(), "an end is no better");
}

#[tokio::test(start_paused = true)]
async fn a_burst_makes_one_new_set_and_the_first_answer_waits_for_nothing() {
    let subject = Subject::new(|config| config.merge_window(seconds(1)));
    let bound = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = bound.clone();
    let mut service = subject.layer.clone().connect(move |endpoint| {
        let id = endpoint.id().to_string();
        log.lock().unwrap().push(id.clone());
        Inner::new(move |_, _: Query| {
            let id = id.clone();
            async move { Ok(id) }
        })
    });
    subject.says(&["a:1"]).await;
    assert_eq!(*bound.lock().unwrap(), ["a:1"]);
    let began = tokio::time::Instant::now();
    subject.says(&["b:1"]).await;
    subject.says(&["c:1"]).await;
    subject.says(&["a:1", "d:1"]).await;
    assert_eq!(*bound.lock().unwrap(), ["a:1"], "nothing is made while more may follow");
    // Only an endpoint that is going is published: a call waits for the new ones rather than to fail.
    service.ready().await.unwrap().call(Query(1)).await.unwrap();
    assert_eq!(began.elapsed(), seconds(1), "from the first change of the burst on");
    // a went and came: it is another record, and b and c were never made.
    assert_eq!(*bound.lock().unwrap(), ["a:1", "a:1", "d:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_leaves_no_change_unpublished() {
    let subject = Subject::new(|config| config.merge_window(seconds(10)));
    let service = subject.layer.clone().connect(|endpoint| {
        let id = endpoint.id().to_string();
        Inner::new(move |_, _: Query| {
            let id = id.clone();
            async move { Ok(id) }
        })
    });
    subject.says(&["a:1"]).await;
    subject.says(&["b:1"]).await;
    subject.driver.abort();
    let began = tokio::time::Instant::now();
    assert_eq!(service.oneshot(Query(1)).await.unwrap(), "b:1");
    assert_eq!(began.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn of_many_that_disappear_at_once_only_a_share_goes_in_each_interval() {
    let subject = Subject::new(|config| config.max_removal_percent(15).removal_interval(seconds(60)));
    let all: Vec<_> = (0..20).map(|i| format!("h{i}:1")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    subject.says(&all).await;
    subject.says(&all[..2]).await;
    assert_eq!((subject.ids().len(), subject.status().absent), (17, 15), "20 - floor(17.0)");
    assert_eq!(subject.after(seconds(59)).await.len(), 17);
    assert_eq!(subject.after(seconds(2)).await.len(), 14, "17 - floor(14.45)");
    for named in &all[..2] {
        assert!(subject.ids().iter().any(|id| id == named), "who is named stays");
    }
    // The source was wrong: all are back, who went as new ones.
    subject.says(&all).await;
    assert_eq!((subject.ids().len(), subject.status().absent), (20, 0));
    assert_eq!(subject.after(seconds(600)).await.len(), 20);
    // If it was right, they all go in time, and one of few goes at once.
    subject.says(&all[..1]).await;
    assert_eq!(subject.after(seconds(3600)).await, ["h0:1"]);
    subject.says(&[]).await;
    assert_eq!(subject.ids().len(), 0);
}
