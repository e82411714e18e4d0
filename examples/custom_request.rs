//! Requests that are no HTTP: a small database, called by name with a type of its own.
//!
//! `cargo run --example custom_request`

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tower::{BoxError, service_fn};
use tower_mesh::core::classify::{self, Origin, Retry, Verdict};
use tower_mesh::core::error::find_in;
use tower_mesh::core::{EndpointHandle, Replay};
use tower_mesh::{Mesh, MeshRequest};

#[derive(Debug, Clone)]
struct Query {
    sql: &'static str,
}

#[derive(Debug)]
struct Rows(Vec<String>);

/// So that a call needs no annotation for its answer.
impl MeshRequest for Query {
    type Response = Rows;
}

/// Something that a database does not take.
struct Document;

impl MeshRequest for Document {
    type Response = ();
}

/// A mistake in the query is the caller's: neither sent again nor held against the database.
#[derive(Debug)]
struct SyntaxError;

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("syntax error")
    }
}

impl std::error::Error for SyntaxError {}

fn judge(result: Result<&Rows, &(dyn std::error::Error + 'static)>) -> Verdict {
    match result {
        Ok(_) => Verdict::SUCCESS,
        Err(error) if find_in::<SyntaxError>(error).is_some() => Verdict::IGNORED,
        Err(_) => Verdict::failure(Origin::Local, Retry::IfIdempotent),
    }
}

/// Reading twice is the same as reading once; writing is not.
#[derive(Clone)]
struct Reads;

impl Replay<Query> for Reads {
    type Sent = Query;
    fn prepare(&self, query: Query) -> Query {
        query
    }
    fn copy(&self, sent: &Query) -> Option<Query> {
        Some(sent.clone())
    }
    fn is_idempotent(&self, sent: &Query) -> bool {
        sent.sql.starts_with("SELECT")
    }
}

/// A replica: every third query to it breaks off.
async fn execute(address: String, count: u32, query: Query) -> Result<Rows, BoxError> {
    match query.sql {
        sql if !sql.contains(' ') => Err(SyntaxError.into()),
        _ if count.is_multiple_of(3) => Err("connection lost".into()),
        _ => Ok(Rows(vec![address])),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let config =
        "[services.database]\nendpoints = [\"db-1:5432\", \"db-2:5432\"]\nretry.base_delay = \"1ms\"";
    let mesh = Mesh::builder().config_toml(config).build()?;
    let executed = Arc::new(AtomicU32::new(0));
    let counter = executed.clone();
    let database = mesh.service("database")?.classify(classify::by(judge)).replay(Reads).connect(
        move |endpoint: &EndpointHandle| {
            let (address, count) = (endpoint.endpoint().address().to_owned(), counter.clone());
            service_fn(move |query: Query| {
                execute(address.clone(), count.fetch_add(1, Ordering::Relaxed) + 1, query)
            })
        },
    );
    mesh.register("database", database)?;
    mesh.start().await?;

    let mut answered = [0, 0];
    for _ in 0..30 {
        let Rows(rows) = mesh.call("database", "query", Query { sql: "SELECT 1" }).await?;
        answered[usize::from(rows == ["db-2:5432"])] += 1;
    }
    println!(
        "30 reads answered by {answered:?} though every third breaks off: {} executed",
        executed.load(Ordering::Relaxed)
    );

    let mut lost = 0;
    for _ in 0..30 {
        lost += u32::from(mesh.call("database", "write", Query { sql: "INSERT 1" }).await.is_err());
    }
    println!("30 writes, none sent twice: {lost} broke off and are the caller's to decide");

    let error =
        mesh.call("database", "query", Query { sql: "SELEKT" }).await.err().ok_or("that is no SQL")?;
    println!("a mistake: {error}");
    let error =
        mesh.call("database", "put", Document).await.err().ok_or("the database takes no documents")?;
    println!("another type: {error}");
    mesh.shutdown(Duration::from_secs(1)).await;
    if lost == 0 || answered.contains(&0) { Err("not as described".into()) } else { Ok(()) }
}
