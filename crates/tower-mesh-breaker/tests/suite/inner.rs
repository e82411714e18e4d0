//! The inner service of the tests: it loses readiness when cloned, complains when called without it, and does what the request says.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tower_mesh_core::{BoxError, Tick};
use tower_service::Service;

/// What the inner service is to do with a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Succeed,
    Fail,
    /// Succeeds after so long.
    Take(Duration),
    Hang,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Readiness {
    Ready,
    /// And wakes nobody.
    Pending,
    Broken,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    readied: bool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    readiness: Mutex<Option<Readiness>>,
    asked: AtomicU32,
    called: AtomicU64,
}

impl Inner {
    pub(crate) fn set(&self, readiness: Readiness) {
        *self.shared.readiness.lock().unwrap() = Some(readiness);
    }

    /// How often it was asked whether it is ready.
    pub(crate) fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn called(&self) -> u64 {
        self.shared.called.load(Ordering::Relaxed)
    }
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self { readied: false, shared: self.shared.clone() }
    }
}

impl Service<Ask> for Inner {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        match self.shared.readiness.lock().unwrap().unwrap_or(Readiness::Ready) {
            Readiness::Ready => {
                self.readied = true;
                Poll::Ready(Ok(()))
            }
            Readiness::Pending => Poll::Pending,
            Readiness::Broken => Poll::Ready(Err("broken for good".into())),
        }
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        assert!(std::mem::take(&mut self.readied), "called without being readied");
        self.shared.called.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match ask {
                Ask::Succeed => Ok(()),
                Ask::Fail => Err("failed".into()),
                Ask::Take(time) => {
                    tokio::time::sleep(time).await;
                    Ok(())
                }
                Ask::Hang => std::future::pending().await,
            }
        })
    }
}

pub(crate) fn now() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}
