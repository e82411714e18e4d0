//! What the checks of endpoints do to the calls, through the whole stack, under a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use tower::{Service, ServiceExt as _, service_fn};
use tower_mesh::core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::FixedList;
use tower_mesh::{Error, Mesh};

use crate::inner::{Query, Rows, query};

/// Says of each endpoint what it is told, and counts how often it was asked.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    down: BTreeSet<String>,
    degraded: BTreeSet<String>,
    asked: BTreeMap<String, u32>,
}

impl Said {
    fn down(&self, endpoints: &[&str]) {
        self.0.lock().unwrap().down = endpoints.iter().map(|endpoint| endpoint.to_string()).collect();
    }

    fn degraded(&self, endpoints: &[&str]) {
        self.0.lock().unwrap().degraded = endpoints.iter().map(|endpoint| endpoint.to_string()).collect();
    }

    fn asked(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl Probe for Said {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let (mut told, id) = (self.0.lock().unwrap(), endpoint.id().to_string());
        *told.asked.entry(id.clone()).or_default() += 1;
        match (told.down.contains(&id), told.degraded.contains(&id)) {
            (true, _) => Err(ProbeFailure::unhealthy("status 503")),
            (_, true) => Ok(Probed::Degraded),
            _ => Ok(Probed::Healthy),
        }
    }
}

fn mesh(said: &Said, list: &FixedList, more: &str) -> Mesh {
    let config = format!(
        "[services.users]\nresolver = \"list\"\n{more}\n[services.users.health]\ninterval = \"1s\"\njitter = 0"
    );
    Mesh::builder()
        .config_toml(config)
        .resolver("list", list.clone())
        .probe("users", said.clone())
        .build()
        .unwrap()
}

fn connect(
    mesh: &Mesh,
) -> impl Service<Query, Response = Rows, Error = Error, Future: Send> + Clone + Send + 'static {
    mesh.service("users").unwrap().connect(|endpoint: &EndpointHandle| {
        let id = endpoint.id().to_string();
        service_fn(move |_: Query| std::future::ready(Ok::<_, BoxError>(Rows(id.clone()))))
    })
}

fn list(endpoints: &[&str]) -> FixedList {
    FixedList::new(endpoints.iter().map(|endpoint| endpoint.parse().unwrap())).unwrap()
}

/// Where a thousand calls go, in percent.
async fn shares(
    service: &(impl Service<Query, Response = Rows, Error = Error> + Clone),
) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for _ in 0..1000 {
        let Rows(endpoint) = service.clone().oneshot(query("any")).await.unwrap();
        *shares.entry(endpoint).or_default() += 0.1;
    }
    shares
}

fn to(shares: &BTreeMap<String, f64>) -> Vec<&str> {
    shares.keys().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_avoid_what_is_down_prefer_what_is_well_and_go_anywhere_in_panic() {
    let (said, list) = (Said::default(), list(&["a:1", "b:1", "c:1", "d:1"]));
    let mesh = mesh(&said, &list, "discovery.algorithm = \"round_robin\"");
    let service = connect(&mesh);
    mesh.start().await.unwrap();
    let later = || sleep(Duration::from_secs(5));
    later().await;
    assert_eq!(to(&shares(&service).await), ["a:1", "b:1", "c:1", "d:1"]);

    said.down(&["a:1"]);
    later().await;
    assert_eq!(to(&shares(&service).await), ["b:1", "c:1", "d:1"]);
    said.down(&[]);
    said.degraded(&["b:1"]);
    later().await;
    assert_eq!(to(&shares(&service).await), ["a:1", "c:1", "d:1"], "three of four carry all of it");
    assert_eq!(mesh.status().services[0].endpoints[1].state, "degraded");
    said.degraded(&["b:1", "c:1", "d:1"]);
    later().await;
    let found = shares(&service).await;
    assert!((found["a:1"] - 35.0).abs() < 5.0, "one of four carries 140 % of its part: {found:?}");

    said.degraded(&[]);
    said.down(&["a:1", "b:1", "c:1"]);
    later().await;
    assert_eq!(to(&shares(&service).await).len(), 4, "one of four is less than half: panic");
    assert_eq!(mesh.readiness().degraded.len(), 1);
    said.down(&["a:1", "b:1"]);
    later().await;
    assert_eq!(to(&shares(&service).await), ["c:1", "d:1"], "half is no panic");
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_comes_back_slowly() {
    let (said, list) = (Said::default(), list(&["a:1", "b:1"]));
    let discovery = "discovery.algorithm = \"round_robin\"\ndiscovery.slow_start_window = \"100s\"";
    let mesh = mesh(&said, &list, discovery);
    let service = connect(&mesh);
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(200)).await;
    shares(&service).await;
    said.down(&["b:1"]);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(to(&shares(&service).await), ["a:1"]);
    said.down(&[]);
    sleep(Duration::from_secs(5)).await;
    let begins = shares(&service).await["b:1"];
    assert!((1.0..20.0).contains(&begins), "{begins} %");
    assert!(mesh.status().services[0].endpoints[1].why.contains(&"warming".to_owned()));
    sleep(Duration::from_secs(50)).await;
    let half_way = shares(&service).await["b:1"];
    assert!(half_way > begins && (25.0..42.0).contains(&half_way), "{half_way} %");
    sleep(Duration::from_secs(60)).await;
    let whole = shares(&service).await["b:1"];
    assert!((45.0..55.0).contains(&whole), "{whole} %");
}

#[tokio::test(start_paused = true)]
async fn checks_follow_discovery_and_serve_every_service_made_of_a_handle() {
    let (said, list) = (Said::default(), list(&["a:1"]));
    let mesh = mesh(&said, &list, "");
    let (first, second) = (connect(&mesh), connect(&mesh));
    mesh.start().await.unwrap();
    sleep(Duration::from_millis(4500)).await;
    assert_eq!(said.asked(), BTreeMap::from([("a:1".into(), 5)]), "once a second, not twice");
    said.down(&["a:1"]);
    list.upsert("b:1".parse().unwrap());
    sleep(Duration::from_secs(2)).await;
    assert!(said.asked()["b:1"] >= 2, "who came is asked at once");
    assert_eq!((to(&shares(&first).await), to(&shares(&second).await)), (vec!["b:1"], vec!["b:1"]));
    list.remove(&"a:1".parse::<tower_mesh::core::Endpoint>().unwrap().id().clone());
    sleep(Duration::from_secs(2)).await;
    said.asked();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(said.asked().keys().collect::<Vec<_>>(), ["b:1"], "who went is not");
}
