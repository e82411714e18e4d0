//! Spans of calls and attempts: their names, fields and values, which are told in the crate's README.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::error::find;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::retry::error::RetriesExhausted;
use tower_mesh::{ErrorKind, Mesh};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::inner::{Query, Rows, listen, query, tasks};

/// A span as it was when it closed.
#[derive(Debug, Clone, Default)]
struct Closed {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Closed {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Closed {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// Collects the spans of the mesh, and the levels of everything that calls tell.
#[derive(Clone, Default)]
struct Collect {
    closed: Arc<Mutex<Vec<Closed>>>,
    levels: Arc<Mutex<Vec<Level>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let span = cx.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name());
        let mut closed = Closed { name: span.name(), parent, ..Closed::default() };
        attributes.record(&mut closed);
        span.extensions_mut().insert(closed);
        self.levels.lock().unwrap().push(*span.metadata().level());
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        values.record(cx.span(id).unwrap().extensions_mut().get_mut::<Closed>().unwrap());
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        self.levels.lock().unwrap().push(*event.metadata().level());
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        let closed = cx.span(&id).unwrap().extensions_mut().remove::<Closed>().unwrap();
        self.closed.lock().unwrap().push(closed);
    }
}

impl Collect {
    fn take(&self, name: &str) -> Vec<Closed> {
        let mut all = self.closed.lock().unwrap();
        let (taken, left) = all.drain(..).partition(|closed| closed.name == name);
        *all = left;
        taken
    }
}

const CONFIG: &str = "[services.database]\nendpoints = [\"a:1\", \"b:1\"]\nretry.base_delay = \"10ms\"\nretry.jitter = \"none\"\nbreaker.consecutive_failures = 0";

/// Fails at the first endpoint that is asked with "once", everywhere with "fail", and never ends with "hang".
fn answer(
    first: &Arc<Mutex<Option<String>>>,
    endpoint: &EndpointHandle,
    Query(text): Query,
) -> Result<Rows, BoxError> {
    let mut first = first.lock().unwrap();
    let fails = first.get_or_insert_with(|| endpoint.id().to_string()) == endpoint.id().as_str();
    if text == "fail" || text == "once" && fails { Err("failed".into()) } else { Ok(Rows(text)) }
}

#[tokio::test(start_paused = true)]
async fn a_call_and_its_attempts_are_spans_with_stable_fields() {
    let collect = Collect::default();
    let _collecting = listen(tracing_subscriber::registry().with(collect.clone()));
    let mesh = Mesh::builder().config_toml(CONFIG).build().unwrap();
    let first = Arc::new(Mutex::new(None));
    let service =
        mesh.service("database").unwrap().replay(Idempotent).connect(move |endpoint: &EndpointHandle| {
            let (first, endpoint) = (first.clone(), endpoint.clone());
            service_fn(move |query: Query| {
                let answer = answer(&first, &endpoint, query.clone());
                async move { if query.0 == "hang" { std::future::pending().await } else { answer } }
            })
        });
    let service = service.operation("select");
    mesh.start().await.unwrap();
    tasks().await;
    collect.levels.lock().unwrap().clear();

    service.clone().oneshot(query("a")).await.unwrap();
    let (call, attempts) = (collect.take("mesh.call").remove(0), collect.take("mesh.attempt"));
    let fields = [
        "mesh.service",
        "mesh.operation",
        "mesh.attempts",
        "mesh.retry.reason",
        "mesh.retry.stopped",
        "mesh.outcome",
    ];
    assert_eq!(fields.map(|field| call.get(field)), ["database", "select", "1", "", "", "ok"]);
    assert_eq!(attempts.len(), 1);
    let failing = attempts[0].get("mesh.endpoint").to_owned();
    assert!(["a:1", "b:1"].contains(&&*failing));
    assert_eq!(["mesh.attempt", "mesh.outcome"].map(|field| attempts[0].get(field)), ["1", "ok"]);
    assert_eq!(attempts[0].parent, Some("mesh.call"));

    // Until the endpoint that fails is asked first.
    let (call, attempts) = loop {
        service.clone().oneshot(query("once")).await.unwrap();
        let (call, attempts) = (collect.take("mesh.call").remove(0), collect.take("mesh.attempt"));
        if attempts.len() > 1 {
            break (call, attempts);
        }
    };
    assert_eq!(fields.map(|field| call.get(field)), ["database", "select", "2", "local", "", "ok"]);
    assert_eq!(call.get("mesh.retry.delay_ms"), "10");
    let told =
        attempts.iter().map(|attempt| ["mesh.attempt", "mesh.outcome"].map(|field| attempt.get(field)));
    assert_eq!(told.collect::<Vec<_>>(), [["1", "local"], ["2", "ok"]]);
    assert_eq!(attempts[0].get("mesh.endpoint"), failing);
    assert_ne!(attempts[1].get("mesh.endpoint"), failing);

    let error = service.clone().oneshot(query("fail")).await.unwrap_err();
    let call = collect.take("mesh.call").remove(0);
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert_eq!(
        fields.map(|field| call.get(field)),
        ["database", "select", "3", "local", "attempts", "upstream"]
    );
    let gave_up = find::<RetriesExhausted>(&error).unwrap();
    assert_eq!(call.get("mesh.retry.balance"), gave_up.budget().balance.to_string());
    assert_eq!(collect.take("mesh.attempt").len(), 3);

    timeout(Duration::from_secs(1), service.clone().oneshot(query("hang"))).await.unwrap_err();
    assert_eq!(collect.take("mesh.call")[0].get("mesh.outcome"), "caller-gone");
    assert_eq!(collect.take("mesh.attempt")[0].get("mesh.outcome"), "caller-gone");
    service.oneshot(query("hang")).await.unwrap_err();
    assert_eq!(collect.take("mesh.call")[0].get("mesh.outcome"), "deadline-exceeded");
    assert_eq!(collect.take("mesh.attempt")[0].get("mesh.outcome"), "deadline");

    // Nothing that a call tells is above debug. (No circuit moved: that is no call's doing.)
    let levels = collect.levels.lock().unwrap();
    assert!(levels.len() > 15 && levels.iter().all(|level| *level >= Level::DEBUG), "{levels:?}");
}
