//! A request type of the user's own: not HTTP, not `Clone`, and with a judgement of its own on what failed.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tower::service_fn;
use tower_mesh::config::ServiceConfig;
use tower_mesh::{Config, Mesh, MeshRequest};
use tower_mesh_core::classify::{self, Origin, Retry, Verdict};
use tower_mesh_core::{EndpointHandle, Replay};

struct Query {
    text: String,
}

#[derive(Debug, PartialEq)]
struct Rows {
    from: String,
    truncated: bool,
}

impl MeshRequest for Query {
    type Response = Rows;
}

/// Reads can be written down again, though a query cannot be cloned.
#[derive(Clone)]
struct Reads;

impl Replay<Query> for Reads {
    type Sent = Query;

    fn prepare(&self, query: Query) -> Query {
        query
    }

    fn copy(&self, sent: &Query) -> Option<Query> {
        self.is_idempotent(sent).then(|| Query { text: sent.text.clone() })
    }

    fn is_idempotent(&self, sent: &Query) -> bool {
        sent.text.starts_with("SELECT")
    }
}

fn verdict(result: Result<&Rows, &(dyn Error + 'static)>) -> Verdict {
    match result {
        Ok(rows) if rows.truncated => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::failure(Origin::Local, Retry::IfIdempotent),
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cloned_is_sent_again_where_its_replay_can_and_once_where_it_cannot() {
    let list = ["bad:1".parse().unwrap(), "good:1".parse().unwrap()];
    let config = Config::new().service("database".parse().unwrap(), ServiceConfig::with_endpoints(list));
    let mesh = Mesh::builder().config(config).build().unwrap();
    let sent = Arc::new(AtomicU32::new(0));
    let counting = sent.clone();
    let service = mesh.service("database").unwrap().classify(classify::by(verdict)).replay(Reads).connect(
        move |endpoint: &EndpointHandle| {
            let (from, sent) = (endpoint.endpoint().address().to_owned(), counting.clone());
            service_fn(move |_: Query| {
                sent.fetch_add(1, Ordering::Relaxed);
                let rows = Rows { truncated: from.starts_with("bad"), from: from.clone() };
                async move { Ok::<_, std::io::Error>(rows) }
            })
        },
    );
    mesh.register::<Query, _>("database", service).unwrap();
    mesh.start().await.unwrap();

    let read = || Query { text: "SELECT 1".into() };
    for _ in 0..20 {
        let rows = mesh.call("database", "query", read()).await.unwrap();
        assert_eq!(rows, Rows { from: "good:1".into(), truncated: false });
    }
    let before = sent.load(Ordering::Relaxed);
    let write = Query { text: "INSERT".into() };
    mesh.call("database", "write", write).await.unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), before + 1, "a write is sent once");
}
