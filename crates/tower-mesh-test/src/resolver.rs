//! A source of endpoints that says what the test says.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;
use tower_mesh_core::{Endpoint, Resolve, ResolveError, ServiceName, Update};

use crate::record::Down;

/// A [`Resolve`] fed by the test. Clones feed the same streams, which end with the last of them.
///
/// Every stream gets everything said from the beginning, whenever it begins; what is said before anybody listens is not lost.
///
/// ```
/// use tower_mesh_core::Update;
/// use tower_mesh_test::ScriptedResolver;
/// let resolver = ScriptedResolver::new();
/// resolver.reset(["a:1", "b:1"]);
/// resolver.fail("the registry");
/// resolver.send(Update::NotFound);
/// resolver.end();
/// assert_eq!(resolver.streams(), 0, "nobody has asked yet");
/// ```
#[derive(Debug, Clone, Default)]
pub struct ScriptedResolver(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    all: Vec<Item>,
    streams: Vec<mpsc::UnboundedSender<Item>>,
    ended: bool,
}

#[derive(Debug, Clone)]
enum Item {
    Update(Update),
    Failure(Down),
}

impl ScriptedResolver {
    /// A source that has said nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says `update`.
    pub fn send(&self, update: Update) {
        self.say(&Item::Update(update));
    }

    /// Says that the endpoints are those at `addresses`, and no other.
    ///
    /// # Panics
    /// When one of them is no address.
    pub fn reset<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let endpoint = |address: &str| Endpoint::new(address).expect("a test gives addresses that are right");
        self.send(Update::Reset(addresses.into_iter().map(endpoint).collect()));
    }

    /// Says that it cannot say: an error whose source is [`Down`] of `what`.
    pub fn fail(&self, what: &str) {
        self.say(&Item::Failure(Down(what.into())));
    }

    /// Ends all streams; nothing can be said after that.
    pub fn end(&self) {
        let mut said = self.said();
        said.ended = true;
        said.streams.clear();
    }

    /// How many streams are listened to: one that is dropped is cancelled.
    pub fn streams(&self) -> usize {
        self.said().streams.iter().filter(|stream| !stream.is_closed()).count()
    }

    fn say(&self, item: &Item) {
        let mut said = self.said();
        if !said.ended {
            said.all.push(item.clone());
            said.streams.retain(|stream| stream.send(item.clone()).is_ok());
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for ScriptedResolver {
    type Updates = Updates;

    fn resolve(&self, _service: &ServiceName) -> Updates {
        let mut said = self.said();
        let (sender, receiver) = mpsc::unbounded_channel();
        for item in &said.all {
            // Cannot fail: the receiver is at hand.
            let _ = sender.send(item.clone());
        }
        if !said.ended {
            said.streams.push(sender);
        }
        Updates(receiver)
    }
}

/// The stream of a [`ScriptedResolver`].
pub struct Updates(mpsc::UnboundedReceiver<Item>);

impl Stream for Updates {
    type Item = Result<Update, ResolveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|item| {
            item.map(|item| match item {
                Item::Update(update) => Ok(update),
                Item::Failure(down) => Err(ResolveError::new(down)),
            })
        })
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Updates")
    }
}
