//! Which requests can be sent twice, and how.

/// Knows how to send a request of type `Req` a second time.
///
/// ```
/// use tower_mesh_core::Replay;
/// #[derive(Clone)]
/// struct Query { text: String }
///
/// /// Reads may be sent twice; everything else only if it certainly was not processed.
/// #[derive(Clone)]
/// struct Reads;
///
/// impl Replay<Query> for Reads {
///     type Sent = Query;
///     fn prepare(&self, query: Query) -> Query { query }
///     fn copy(&self, sent: &Query) -> Option<Query> { Some(sent.clone()) }
///     fn is_idempotent(&self, sent: &Query) -> bool { sent.text.starts_with("SELECT") }
/// }
/// ```
pub trait Replay<Req>: Clone + Send + Sync + 'static {
    /// What is sent: `Req` itself where it can be cloned, or a form of it that records what it gives away.
    type Sent;

    /// The form to send.
    fn prepare(&self, request: Req) -> Self::Sent;

    /// Another copy to keep while `sent` is on its way; none if it cannot be sent twice. It is asked for only while another attempt is allowed.
    fn copy(&self, sent: &Self::Sent) -> Option<Self::Sent>;

    /// Whether all of the request is there, so that copies can be on their way side by side; asked of a copy that is kept. Only complete ones are hedged.
    /// A stream that is still being read is not. Default true.
    fn is_complete(&self, _sent: &Self::Sent) -> bool {
        true
    }

    /// Whether doing it twice does no more than doing it once.
    fn is_idempotent(&self, sent: &Self::Sent) -> bool;
}

/// Requests that can be cloned and may be sent twice: the user's word that each of them is idempotent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Idempotent;

impl<Req: Clone> Replay<Req> for Idempotent {
    type Sent = Req;

    fn prepare(&self, request: Req) -> Req {
        request
    }

    fn copy(&self, sent: &Req) -> Option<Req> {
        Some(sent.clone())
    }

    fn is_idempotent(&self, _sent: &Req) -> bool {
        true
    }
}

/// Requests that can be cloned, but are sent again only if they certainly were not processed.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotIdempotent;

impl<Req: Clone> Replay<Req> for NotIdempotent {
    type Sent = Req;

    fn prepare(&self, request: Req) -> Req {
        request
    }

    fn copy(&self, sent: &Req) -> Option<Req> {
        Some(sent.clone())
    }

    fn is_idempotent(&self, _sent: &Req) -> bool {
        false
    }
}

/// Requests of any type, each sent once: nothing is cloned, nothing is sent again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Once;

impl<Req> Replay<Req> for Once {
    type Sent = Req;

    fn prepare(&self, request: Req) -> Req {
        request
    }

    fn copy(&self, _sent: &Req) -> Option<Req> {
        None
    }

    fn is_idempotent(&self, _sent: &Req) -> bool {
        false
    }
}
