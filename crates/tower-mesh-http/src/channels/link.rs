//! What is known of the connection to one endpoint.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::uri::Authority;
use tokio::net::TcpStream;
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_mesh_core::{EndpointId, Tick};

use crate::clock::clock;

/// The connection to one endpoint: shared by the services that ask for it and by the channel that uses it.
pub(super) struct Link {
    endpoint: EndpointId,
    host: Box<str>,
    port: u16,
    connect_timeout: Duration,
    pause: Duration,
    /// Whether the state is `Open`: all that a call looks at while it is.
    open: AtomicBool,
    state: Mutex<State>,
}

/// Several may wait for one connection; it goes on as long as one of them does.
pub(super) type Connecting = Shared<BoxFuture<'static, Result<(), Arc<io::Error>>>>;

enum State {
    /// There is none.
    Idle,
    Connecting {
        connecting: Connecting,
        generation: u64,
    },
    /// There is one: waiting for the channel, or in use by it.
    Open {
        waiting: Option<TcpStream>,
        generation: u64,
    },
    Failed {
        until: Tick,
        error: Arc<io::Error>,
    },
}

/// What a service may do now.
pub(super) enum Access {
    Open,
    Wait(Connecting),
    Refused(NotConnected),
}

impl Link {
    pub(super) fn new(
        endpoint: EndpointId,
        authority: &Authority,
        default_port: u16,
        connect_timeout: Duration,
        pause: Duration,
    ) -> Arc<Self> {
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Arc::new(Self {
            endpoint,
            host: host.into(),
            port: authority.port_u16().unwrap_or(default_port),
            connect_timeout,
            pause,
            open: AtomicBool::new(false),
            state: Mutex::new(State::Idle),
        })
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to connect unless that is under way, done, or has failed a short while ago.
    #[cold]
    pub(super) fn access(self: &Arc<Self>) -> Access {
        let mut state = self.state();
        match &*state {
            State::Open { .. } => return Access::Open,
            State::Connecting { connecting, .. } => return Access::Wait(connecting.clone()),
            State::Failed { until, error } if clock() < *until => {
                return Access::Refused(self.failure(error.clone()));
            }
            State::Failed { .. } | State::Idle => {}
        }
        let generation = next_generation();
        let connecting = connect(Arc::downgrade(self), generation).boxed().shared();
        *state = State::Connecting { connecting: connecting.clone(), generation };
        Access::Wait(connecting)
    }

    pub(super) fn failure(&self, error: Arc<io::Error>) -> NotConnected {
        let judged = Judged::because(Verdict::failure(Origin::Local, Retry::NotProcessed), error);
        NotConnected { endpoint: self.endpoint.clone(), judged }
    }

    fn connected(&self, generation: u64, result: io::Result<TcpStream>) -> Result<(), Arc<io::Error>> {
        let mut state = self.state();
        debug_assert!(matches!(&*state, State::Connecting { generation: now, .. } if *now == generation));
        let (next, result) = match result {
            Ok(stream) => (State::Open { waiting: Some(stream), generation }, Ok(())),
            Err(error) => {
                let error = Arc::new(error);
                (State::Failed { until: clock() + self.pause, error: error.clone() }, Err(error))
            }
        };
        let old = std::mem::replace(&mut *state, next);
        self.open.store(result.is_ok(), Ordering::Release);
        drop(state);
        drop(old); // the future that runs this, which must not be dropped under the lock
        if let Err(error) = &result {
            tracing::debug!(endpoint = %self.endpoint, %error, "cannot connect");
        }
        result
    }

    /// The connection that waits for the channel. None if there is none, or it has been closed while it waited.
    pub(super) fn take(&self) -> Option<(TcpStream, u64)> {
        match &mut *self.state() {
            State::Open { waiting, generation } => {
                waiting.take().filter(is_alive).map(|stream| (stream, *generation))
            }
            _ => None,
        }
    }

    /// The channel wants a connection and none waits: the one it had is of no use any more, even if it is not closed yet.
    pub(super) fn lost(&self) {
        let mut state = self.state();
        if matches!(&*state, State::Open { waiting: None, .. }) {
            *state = State::Idle;
            self.open.store(false, Ordering::Release);
        }
    }

    /// The connection of this generation is closed.
    pub(super) fn closed(&self, generation: u64) {
        let mut state = self.state();
        if matches!(&*state, State::Open { generation: now, .. } if *now == generation) {
            *state = State::Idle;
            self.open.store(false, Ordering::Release);
            drop(state);
            tracing::debug!(endpoint = %self.endpoint, "connection closed");
        }
    }
}

fn next_generation() -> u64 {
    use std::sync::atomic::AtomicU64;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Connects, and tells the link; does not keep it alive.
async fn connect(link: Weak<Link>, generation: u64) -> Result<(), Arc<io::Error>> {
    let gone = || Arc::new(io::Error::other("the endpoint is gone"));
    let (host, port, bound) = {
        let link = link.upgrade().ok_or_else(gone)?;
        (link.host.clone(), link.port, link.connect_timeout)
    };
    let result = match tokio::time::timeout(bound, TcpStream::connect((&*host, port))).await {
        Ok(result) => result.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")),
    };
    link.upgrade().ok_or_else(gone)?.connected(generation, result)
}

/// Whether the other side has not hung up. An HTTP/2 server speaks first, so there may be something to read.
fn is_alive(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let mut byte = tokio::io::ReadBuf::new(&mut byte);
    match stream.poll_peek(&mut Context::from_waker(Waker::noop()), &mut byte) {
        Poll::Pending => true,
        Poll::Ready(result) => matches!(result, Ok(1..)),
    }
}

/// There is no connection to an endpoint, so nothing was sent: a failure of that endpoint, and another may be tried.
#[derive(Debug)]
pub struct NotConnected {
    endpoint: EndpointId,
    judged: Judged,
}

impl NotConnected {
    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection to endpoint {}", self.endpoint)?;
        match self.judged.cause() {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NotConnected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.judged)
    }
}
