//! A real etcd server, whose keys change, which is compacted, killed and started again while it is watched.
//!
//! Without `etcd` there is nothing to test with: that is said and passed over, but where `MESH_REQUIRE_SERVERS` is set it fails.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod gate;
mod server;

mod calls;
#[cfg(feature = "tls")]
mod encrypted;
mod fickle;
mod refused;
mod registering;
mod watching;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tower_mesh_core::error::find_in;
use tower_mesh_core::{Endpoint, Resolve, ResolveError, Update};
use tower_mesh_etcd::{EtcdError, EtcdErrorKind, EtcdResolver};

type Updates = BoxStream<'static, Result<Update, ResolveError>>;

fn users(resolver: &EtcdResolver) -> Updates {
    resolver.resolve(&"users".parse().unwrap())
}

async fn next(updates: &mut Updates) -> Result<Update, ResolveError> {
    let said = tokio::time::timeout(Duration::from_secs(20), updates.next()).await;
    said.expect("nothing was said").expect("it never ends")
}

/// What was said, in short.
async fn said(updates: &mut Updates) -> String {
    shown(&next(updates).await)
}

fn shown(said: &Result<Update, ResolveError>) -> String {
    let list = |all: &[Endpoint]| {
        let one = |e: &Endpoint| format!("{}@{}/{}/{}", e.id(), e.address(), e.weight(), e.priority());
        all.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    match said {
        Ok(Update::Reset(all)) => format!("= {}", list(all)),
        Ok(Update::Upsert(some)) => format!("+ {}", list(some)),
        Ok(Update::Remove(ids)) => {
            format!("- {}", ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" "))
        }
        Ok(Update::NotFound) => "not found".into(),
        Err(error) => format!("{:?}", kind(error)),
    }
}

fn kind(error: &ResolveError) -> EtcdErrorKind {
    find_in::<EtcdError>(error).expect("why").kind()
}

/// Passes over failures until something else is said.
async fn after_failures(updates: &mut Updates) -> String {
    for _ in 0..200 {
        let said = next(updates).await;
        if said.is_ok() {
            return shown(&said);
        }
    }
    panic!("it never came back");
}
