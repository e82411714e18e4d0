use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tower_mesh_core::BoxError;
use tower_mesh_core::classify::Verdict;
use tower_mesh_core::error::Judged;

/// A streaming request body that can be sent again as long as what has gone through it fits in a buffer.
///
/// Wrap the body where the request enters the mesh: `request.map(ReplayBody::new)`. While a retry keeps a copy, what is read from the stream is also
/// kept, shared by all copies; a later attempt begins with that and reads on where the stream stands, trailers included. The stream is read only when the
/// attempt under way asks for more.
///
/// | the body | what happens |
/// |---|---|
/// | is empty from the start | it can always be sent again, and costs nothing |
/// | nobody keeps a copy of it (retry is off, no attempt is left, the answer is final) | it streams through; what was kept is freed at once |
/// | has grown beyond the limit | it streams through, what was kept is freed, and there are no more copies: the answer under way is the last |
/// | has failed | the attempt that read it hears of it, and there are no more copies |
/// | is read by a later attempt | an earlier one that still reads gets an error ([`Superseded`]), unless all of it is in the buffer |
/// | has ended, all of it in the buffer | each copy reads on its own, so it can be hedged |
///
/// A piece counts as its length, and as no less than 64 bytes.
///
/// ```
/// use http::Request;
/// use http_body_util::BodyExt;
/// use tower_mesh_core::Replay;
/// use tower_mesh_http::{Classifier, ReplayBody};
/// # use http_body::Frame; use bytes::Bytes;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_mesh_core::BoxError> {
/// let pieces = ["SELECT ", "1"].map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece))));
/// let stream = http_body_util::StreamBody::new(futures_util::stream::iter(pieces)); // no Clone
/// let request = Request::put("/").body(ReplayBody::new(stream))?;
///
/// let kept = Classifier::default().copy(&request).ok_or("no copy")?;
/// assert_eq!(request.into_body().collect().await?.to_bytes(), "SELECT 1");
/// assert_eq!(kept.into_body().collect().await?.to_bytes(), "SELECT 1");
/// # Ok(()) }
/// ```
pub struct ReplayBody<B> {
    /// None for a body that is empty from the start.
    shared: Option<Arc<Shared<B>>>,
    /// Rises with each copy.
    id: u32,
    /// Which reading it is for: copies made before any of them is read are for the same one.
    epoch: u32,
    /// How many pieces of the whole stream this copy has given.
    position: usize,
    /// What this copy has still to give, as the stream said in the beginning.
    hint: SizeHint,
}

/// What all copies have in common.
struct Shared<B> {
    inner: Mutex<Inner<B>>,
    /// What the stream said in the beginning.
    hint: SizeHint,
}

struct Inner<B> {
    /// None while a copy polls it, with the lock released, and after its end.
    source: Option<Pin<Box<B>>>,
    end: End,
    kept: VecDeque<Piece>,
    /// What `kept` counts.
    size: usize,
    limit: usize,
    /// How many pieces were forgotten before those that are kept.
    forgotten: usize,
    /// Id and epoch of each copy.
    copies: Vec<(u32, u32)>,
    next_id: u32,
    /// The last reading that has begun.
    begun: Option<u32>,
    /// The copy that has read from the stream itself last, and its epoch; it may be gone.
    reader: Option<(u32, u32)>,
    /// The last reader, waiting for the stream.
    waiting: Option<Waker>,
    /// Later readers, waiting for the stream to be given back by an earlier one.
    in_line: Vec<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
    Failed,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    /// None of a frame of a kind that is not known yet.
    fn of<D: Buf>(frame: Frame<D>) -> Option<Self> {
        match frame.into_data() {
            Ok(mut data) => Some(Self::Data(data.copy_to_bytes(data.remaining()))),
            Err(frame) => frame.into_trailers().ok().map(Self::Trailers),
        }
    }

    fn size(&self) -> usize {
        let size = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => {
                trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
            }
        };
        size.max(MIN_SIZE)
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

/// What the smallest piece counts, so that many tiny ones are bounded too.
const MIN_SIZE: usize = 64;

impl<B: Body> ReplayBody<B> {
    /// How much is kept at most, unless it is said otherwise: 64 KiB.
    pub const DEFAULT_LIMIT: usize = 64 * 1024;

    /// `body`, kept up to [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    pub fn new(body: B) -> Self {
        Self::with_limit(body, Self::DEFAULT_LIMIT)
    }

    /// `body`, kept up to `limit` bytes; with 0 a body that is not empty is sent again only if nothing has been read from it.
    pub fn with_limit(body: B, limit: usize) -> Self {
        let hint = body.size_hint();
        let shared = (!body.is_end_stream()).then(|| {
            let inner = Inner {
                source: Some(Box::pin(body)),
                end: End::Open,
                kept: VecDeque::new(),
                size: 0,
                limit,
                forgotten: 0,
                copies: vec![(0, 0)],
                next_id: 1,
                begun: None,
                reader: None,
                waiting: None,
                in_line: Vec::new(),
            };
            Arc::new(Shared { inner: Mutex::new(inner), hint })
        });
        Self { shared, id: 0, epoch: 0, position: 0, hint }
    }
}

impl<B> ReplayBody<B> {
    /// Another copy, from the first byte; none if what has been read is not all there any more, or the stream has failed.
    ///
    /// If the stream is being read by an earlier copy, that copy gets no more from it once there is this one.
    pub fn try_clone(&self) -> Option<Self> {
        let Some(shared) = &self.shared else {
            return Some(Self { shared: None, id: 0, epoch: 0, position: 0, hint: self.hint });
        };
        let mut inner = shared.lock();
        if inner.forgotten > 0 || inner.end == End::Failed {
            return None;
        }
        // For another reading than the one that has begun; or beside this one, before it begins.
        let epoch = match inner.begun {
            Some(begun) if begun >= self.epoch => begun + 1,
            _ => self.epoch,
        };
        let id = inner.next_id;
        inner.next_id += 1;
        inner.copies.push((id, epoch));
        Some(Self { shared: Some(shared.clone()), id, epoch, position: 0, hint: shared.hint })
    }

    /// Whether the stream has ended and all of it is kept.
    pub fn is_complete(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let inner = shared.lock();
            inner.end == End::Reached && inner.forgotten == 0
        })
    }

    /// How much is kept at the moment, as it counts toward the limit.
    pub fn kept(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.lock().size)
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Inner<B> {
    /// Keeps `piece` for the other copies, if there are any and it fits. What is to be dropped is given back, to be dropped outside of the lock.
    fn keep(&mut self, piece: &Piece) -> VecDeque<Piece> {
        let size = self.size.saturating_add(piece.size());
        // A later attempt counts on what is kept: what an earlier one was reading when it was made is not to take it away.
        let counted_on = self.reader.is_some_and(|(_, epoch)| self.is_later_than(epoch));
        if self.copies.len() > 1 && self.forgotten == 0 && (size <= self.limit || counted_on) {
            self.size = size;
            self.kept.push_back(piece.clone());
            return VecDeque::new();
        }
        let forgotten = self.forget();
        self.forgotten += 1;
        forgotten
    }

    /// Whether there is a copy for a later reading than `epoch`.
    fn is_later_than(&self, epoch: u32) -> bool {
        self.copies.iter().any(|&(_, of)| of > epoch)
    }

    /// Whether a copy made after `id` is reading.
    fn is_read_after(&self, id: u32) -> bool {
        self.reader.is_some_and(|(reader, _)| reader > id && self.copies.iter().any(|&(of, _)| of == reader))
    }

    fn forget(&mut self) -> VecDeque<Piece> {
        self.forgotten += self.kept.len();
        self.size = 0;
        std::mem::take(&mut self.kept)
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(shared) = &this.shared else { return Poll::Ready(None) };
        let mut inner = shared.lock();
        inner.begun = inner.begun.max(Some(this.epoch));

        // What was read before, by this copy or another.
        let Some(at) = this.position.checked_sub(inner.forgotten) else {
            return Poll::Ready(Some(Err(Superseded::new().into())));
        };
        if let Some(piece) = inner.kept.get(at).cloned() {
            if at == 0 && inner.copies.len() == 1 {
                inner.size -= piece.size();
                inner.forgotten += 1;
                let last = inner.kept.pop_front();
                drop(inner);
                drop(last);
            } else {
                drop(inner);
            }
            return Poll::Ready(Some(Ok(this.give(piece))));
        }
        match inner.end {
            End::Open => {}
            End::Reached => return Poll::Ready(None),
            // Whoever read it has told.
            End::Failed => return Poll::Ready(Some(Err(Superseded::new().into()))),
        }

        // Only the stream itself has more.
        if inner.is_read_after(this.id) || inner.is_later_than(this.epoch) {
            return Poll::Ready(Some(Err(Superseded::new().into())));
        }
        let Some(source) = inner.source.take() else {
            if !inner.in_line.iter().any(|waker| waker.will_wake(cx.waker())) {
                inner.in_line.push(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let earlier = match inner.reader.replace((this.id, this.epoch)) {
            Some((id, _)) if id != this.id => inner.waiting.take(),
            _ => None,
        };
        drop(inner);
        // Else it would wait for a stream that it is not going to get.
        earlier.into_iter().for_each(Waker::wake);
        let mut lent = Lent { shared, source: Some(source) };
        let polled = lent.source.as_mut().map(|source| source.as_mut().poll_frame(cx));
        // A piece is read before the lock is taken: it is the user's code that does it.
        let polled = polled.expect("it is lent until this is dropped").map_ok(Piece::of);
        let at_end = lent.source.as_ref().is_some_and(|source| source.is_end_stream());

        let mut inner = shared.lock();
        let piece = match polled {
            Poll::Pending => {
                if inner.waiting.as_ref().is_none_or(|waiting| !waiting.will_wake(cx.waker())) {
                    inner.waiting = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Poll::Ready(None) => {
                inner.end = End::Reached;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                inner.end = End::Failed;
                let forgotten = inner.forget();
                drop(inner);
                drop(forgotten);
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(Some(Ok(piece))) => piece,
        };
        if at_end || matches!(piece, Some(Piece::Trailers(_))) {
            inner.end = End::Reached;
        }
        let forgotten = piece.as_ref().map(|piece| inner.keep(piece));
        drop(inner);
        drop((forgotten, lent));
        match piece {
            Some(piece) => Poll::Ready(Some(Ok(this.give(piece)))),
            // Left out.
            None => Pin::new(this).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let inner = shared.lock();
            inner.end == End::Reached && self.position == inner.forgotten + inner.kept.len()
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl<B> ReplayBody<B> {
    fn give(&mut self, piece: Piece) -> Frame<Bytes> {
        self.position += 1;
        if let Piece::Data(data) = &piece {
            let given = data.len() as u64;
            let mut hint = SizeHint::new();
            hint.set_lower(self.hint.lower().saturating_sub(given));
            if let Some(upper) = self.hint.upper() {
                hint.set_upper(upper.saturating_sub(given));
            }
            self.hint = hint;
        }
        piece.into_frame()
    }
}

/// The stream while it is polled without the lock; it goes back however that ends.
struct Lent<'a, B> {
    shared: &'a Shared<B>,
    source: Option<Pin<Box<B>>>,
}

impl<B> Drop for Lent<'_, B> {
    fn drop(&mut self) {
        let source = self.source.take();
        let mut inner = self.shared.lock();
        let (next, over) = (std::mem::take(&mut inner.in_line), inner.end != End::Open);
        // A stream that has ended may hold much; it goes now.
        let gone = if over { source } else { std::mem::replace(&mut inner.source, source) };
        drop(inner);
        drop(gone);
        next.into_iter().for_each(Waker::wake);
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        let mut inner = shared.lock();
        inner.copies.retain(|&(id, _)| id != self.id);
        let mut waker = None;
        if inner.reader.is_some_and(|(id, _)| id == self.id) {
            waker = inner.waiting.take();
        }
        // The last copy is the reader, which stands at the end of what is kept: nobody needs it any more.
        let reader_alone =
            matches!((&*inner.copies, inner.reader), (&[(last, _)], Some((reader, _))) if last == reader);
        let forgotten = if reader_alone { inner.forget() } else { VecDeque::new() };
        drop(inner);
        drop((forgotten, waker));
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("position", &self.position)
            .field("kept", &self.kept())
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// A copy of a request body was asked for what goes to a later attempt now, or is not there any more. Only an attempt that has been given up gets it; it
/// says nothing about the endpoint.
#[derive(Debug)]
pub struct Superseded(Judged);

impl Superseded {
    fn new() -> Self {
        Self(Judged::new(Verdict::IGNORED))
    }
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rest of the request body goes to another attempt")
    }
}

impl std::error::Error for Superseded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
