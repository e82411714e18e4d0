//! Who may call what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::authorize::{Asked, Decision};
use tower_mesh::core::{BoxError, CallContext, Caller, EndpointHandle};
use tower_mesh::{Config, ErrorKind, EventKind, Mesh};

use crate::inner::{Query, Rows, query};

const CONFIG: &str = r#"
    identity = "gateway"
    [services.database]
    endpoints = ["a:1"]
    [services.database.allow.gateway]
    operations = ["get", "list-*"]
    [services.database.allow."batch-*"]
    operations = ["*"]
    [services.open]
    endpoints = ["b:1"]
    allow."*".operations = ["*"]
    [services.closed]
    endpoints = ["c:1"]
    [defaults.allow]
"#;

type Sends = BoxCloneSyncService<Query, Rows, BoxError>;

/// How many requests were sent, and what sends them.
fn sender() -> (Arc<AtomicU64>, impl Fn(&EndpointHandle) -> Sends + Clone) {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let connect = move |_: &EndpointHandle| {
        let sent = counter.clone();
        BoxCloneSyncService::new(service_fn(move |query: Query| {
            sent.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, BoxError>(Rows(query.0)) }
        }))
    };
    (sent, connect)
}

fn kind<T>(answer: Result<T, tower_mesh::Error>) -> Option<ErrorKind> {
    answer.err().map(|error| error.kind())
}

const DENIED: Option<ErrorKind> = Some(ErrorKind::PermissionDenied);

/// Runs `future` as work of `caller`.
async fn work_of<F: Future>(caller: &str, future: F) -> F::Output {
    let mut work = CallContext::around_calls().with_caller(Caller::named(caller));
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| work.lend(|| future.as_mut().poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn the_list_decides_before_anything_is_sent_and_refusals_are_typed_and_counted() {
    let (sent, connect) = sender();
    let mesh = Mesh::builder().config_toml(CONFIG).build().unwrap();
    for name in ["database", "open", "closed"] {
        let service = mesh.service(name).unwrap().connect(connect.clone());
        mesh.register::<Query, _>(name, service).unwrap();
    }
    mesh.start().await.unwrap();
    let call = |service, operation| mesh.call(service, operation, query("x"));
    for (service, operation, expected) in [
        ("database", "get", None),
        ("database", "list-all", None),
        ("database", "delete", DENIED),
        ("database", "list", DENIED),
        ("open", "delete", None),
        ("closed", "get", DENIED),
    ] {
        assert_eq!(kind(call(service, operation).await), expected, "{service} {operation}");
    }
    assert_eq!(sent.load(Ordering::Relaxed), 3);
    let counts: Vec<_> = mesh.status().services.iter().map(|service| service.not_allowed).collect();
    assert_eq!(counts, [1, 2, 0], "closed, database, open");

    let mut events = mesh.events();
    let error = call("database", "delete").await.unwrap_err();
    let told = loop {
        let event = events.next().await.unwrap().unwrap();
        if let EventKind::CallNotAllowed { operation, caller, .. } = event.kind {
            break (event.service.clone(), operation, caller);
        }
    };
    assert_eq!(told, (Some("database".into()), Some("delete"), Some("gateway")));
    assert_eq!(error.to_string(), "service database, operation delete: not allowed");
    let sources = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let told: Vec<_> = sources.map(ToString::to_string).collect();
    assert!(told.iter().any(|told| told.contains("list")), "the operator's view says why: {told:?}");
    assert_eq!(error.attempts(), 0);

    // Who calls is said by the context: another identity, other rights.
    assert_eq!(kind(work_of("batch-7", call("database", "delete")).await), None);
    assert_eq!(kind(work_of("stranger", call("database", "get")).await), DENIED);
    let database = mesh.service("database").unwrap().connect(connect);
    let get = database.operation("get");
    let as_stranger = work_of("stranger", async { get.clone().oneshot(query("x")).await });
    assert_eq!(kind(as_stranger.await), DENIED);
    assert_eq!(kind(get.oneshot(query("x")).await), None);
    assert_eq!(kind(database.oneshot(query("x")).await), DENIED, "no operation is none that is listed");
}

#[tokio::test(start_paused = true)]
async fn ones_own_authorizer_is_asked_after_the_list_and_a_reload_changes_the_list() {
    let (_, connect) = sender();
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    let own = move |asked: &Asked<'_>| {
        counter.fetch_add(1, Ordering::Relaxed);
        assert_eq!(asked.caller.map(|caller| caller.as_str()), Some("gateway"));
        match asked.operation.map(|operation| operation.as_str()) {
            Some("get") if asked.service.as_str() == "database" => Decision::deny("not today"),
            _ => Decision::Allow,
        }
    };
    let mesh = Mesh::builder().config_toml(CONFIG).authorizer(own).build().unwrap();
    let database = mesh.service("database").unwrap().connect(connect.clone());
    let open = mesh.service("open").unwrap().connect(connect);
    mesh.start().await.unwrap();
    assert_eq!(kind(database.operation("delete").oneshot(query("x")).await), DENIED);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "what the list refuses it is not asked");
    assert_eq!(kind(database.operation("get").oneshot(query("x")).await), DENIED);
    assert_eq!(kind(open.operation("get").oneshot(query("x")).await), None);
    assert_eq!(asked.load(Ordering::Relaxed), 2);

    let next = CONFIG.replace("\"get\", \"list-*\"", "\"delete\"");
    let reloaded = mesh.reload(Config::from_toml(&next).unwrap()).unwrap();
    assert_eq!(reloaded.changed()["database"], ["allow"]);
    assert_eq!(kind(database.operation("delete").oneshot(query("x")).await), None);
    let other = next.replace("gateway\"", "other\"");
    let refused = mesh.reload(Config::from_toml(&other).unwrap()).unwrap_err();
    assert_eq!(refused.mistakes()[0].field(), "identity");
}

#[tokio::test(start_paused = true)]
async fn without_a_list_nobody_is_asked_and_a_reload_can_bring_one() {
    let (_, connect) = sender();
    let config = |allow: &str| {
        Config::from_toml(&format!("[services.database]\nendpoints = [\"a:1\"]\n{allow}")).unwrap()
    };
    let mesh = Mesh::builder().config(config("")).build().unwrap();
    let database = mesh.service("database").unwrap().connect(connect);
    mesh.start().await.unwrap();
    assert_eq!(kind(database.clone().oneshot(query("x")).await), None);
    mesh.reload(config("allow.\"*\".operations = [\"get\"]")).unwrap();
    assert_eq!(kind(database.clone().oneshot(query("x")).await), DENIED);
    assert_eq!(kind(database.operation("get").oneshot(query("x")).await), None);
    mesh.reload(config("")).unwrap();
    assert_eq!(kind(database.oneshot(query("x")).await), None);
}
