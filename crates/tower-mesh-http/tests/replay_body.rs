//! A streaming request body that is sent again.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_mesh_core::{BoxError, Replay};
use tower_mesh_http::{Classifier, ReplayBody, Superseded};
use tower_mesh_retry::{HedgeConfig, HedgeLayer};

type Item = Result<Frame<Bytes>, &'static str>;

/// A stream that is fed by hand; no clone of it is a body.
#[derive(Default)]
struct Feed(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    ended: bool,
    polls: usize,
    waker: Option<Waker>,
    hint: SizeHint,
    /// What happens while it is being read, as if on another thread.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

impl Feed {
    fn body(&self) -> Stream {
        Stream(self.0.clone())
    }
    fn push(&self, item: Item) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.items.push_back(item);
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
    fn data(&self, data: impl Into<Bytes>) {
        self.push(Ok(Frame::data(data.into())));
    }
    fn end(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.ended = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
    fn polls(&self) -> usize {
        self.0.lock().unwrap().polls
    }
}

struct Stream(Arc<Mutex<State>>);

impl Body for Stream {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let meanwhile = self.0.lock().unwrap().meanwhile.take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        let mut state = self.0.lock().unwrap();
        state.polls += 1;
        match state.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap().hint
    }
}

type Read = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// One copy, as a client reads it.
struct Reader(task::Spawn<ReplayBody<Stream>>);

impl Reader {
    fn new(body: ReplayBody<Stream>) -> Self {
        Self(task::spawn(body))
    }
    fn poll(&mut self) -> Read {
        self.0.enter(|cx, body| body.poll_frame(cx))
    }
    fn data(&mut self) -> Bytes {
        assert_ready!(self.poll()).unwrap().unwrap().into_data().unwrap()
    }
    fn is_superseded(&mut self) -> bool {
        let Poll::Ready(Some(Err(error))) = self.poll() else { return false };
        error.is::<Superseded>()
    }
}

fn copy(body: &ReplayBody<Stream>) -> Option<ReplayBody<Stream>> {
    body.try_clone()
}

#[test]
fn a_later_attempt_gets_what_the_first_read_and_then_the_rest_trailers_included() {
    let feed = Feed::default();
    let first = ReplayBody::new(feed.body());
    let spare = copy(&first).unwrap();
    let mut first = Reader::new(first);
    feed.data("one");
    assert_eq!(first.data(), "one");
    assert_pending!(first.poll());
    drop(first);

    let mut second = Reader::new(copy(&spare).unwrap());
    assert_eq!(second.data(), "one");
    feed.data("two");
    assert_eq!(second.data(), "two");
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "7".parse().unwrap());
    feed.push(Ok(Frame::trailers(trailers.clone())));
    let frame = assert_ready!(second.poll()).unwrap().unwrap();
    assert_eq!(frame.trailers_ref(), Some(&trailers));
    assert!(second.0.is_end_stream());

    let mut third = Reader::new(copy(&spare).unwrap());
    assert_eq!((third.data(), third.data()), ("one".into(), "two".into()));
    let frame = assert_ready!(third.poll()).unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    assert!(assert_ready!(third.poll()).is_none());
}

#[test]
fn nothing_is_kept_unless_somebody_keeps_a_copy_and_all_is_freed_with_the_last() {
    let feed = Feed::default();
    let mut alone = Reader::new(ReplayBody::new(feed.body()));
    feed.data("streams through");
    alone.data();
    assert_eq!(alone.0.kept(), 0);
    assert!(copy(&alone.0).is_none(), "what went by is gone");

    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    feed.data(vec![b'a'; 1000]);
    reader.data();
    assert_eq!(reader.0.kept(), 1000);
    drop(spare);
    assert_eq!(reader.0.kept(), 0, "at once, not with the next piece");
    feed.data(vec![b'b'; 1000]);
    assert_eq!(reader.data(), vec![b'b'; 1000]);
    assert_eq!(reader.0.kept(), 0);
    feed.end();
    assert!(assert_ready!(reader.poll()).is_none());
    assert!(reader.0.is_end_stream());
}

#[test]
fn the_last_copy_gives_back_what_it_has_read() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    for _ in 0..2 {
        feed.data(vec![b'a'; 1000]);
        reader.data();
    }
    drop(reader);
    let mut last = Reader::new(spare);
    last.data();
    assert_eq!(last.0.kept(), 1000);
    last.data();
    assert_eq!(last.0.kept(), 0);
}

#[test]
fn beyond_the_limit_it_streams_through_and_there_are_no_more_copies() {
    let feed = Feed::default();
    let body = ReplayBody::with_limit(feed.body(), 100);
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    feed.data(vec![b'a'; 100]);
    reader.data();
    assert!(copy(&spare).is_some(), "just fits");
    feed.data("x");
    assert_eq!(reader.data(), "x");
    assert_eq!((reader.0.kept(), copy(&spare).is_none()), (0, true));
    assert!(Reader::new(spare).is_superseded(), "never a part for the whole");
    for _ in 0..10 {
        feed.data(vec![b'b'; 1000]);
        assert_eq!(reader.data().len(), 1000);
        assert_eq!(reader.0.kept(), 0);
    }
}

#[test]
fn many_tiny_pieces_are_bounded_too() {
    let feed = Feed::default();
    let body = ReplayBody::with_limit(feed.body(), 6400);
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    for _ in 0..100 {
        feed.data("x");
        reader.data();
    }
    assert!(copy(&spare).is_some());
    feed.data("x");
    reader.data();
    assert!(copy(&spare).is_none());
}

#[test]
fn an_attempt_that_was_given_up_and_still_reads_is_told_and_takes_nothing_away() {
    let feed = Feed::default();
    let body = ReplayBody::with_limit(feed.body(), 100);
    let spare = copy(&body).unwrap();
    let mut old = Reader::new(body);
    feed.data("one");
    old.data();
    assert_pending!(old.poll());

    // The next attempt is decided, and has not begun: what comes now is its own.
    let mut new = Reader::new(copy(&spare).unwrap());
    feed.data(vec![b'a'; 90]);
    assert!(old.is_superseded());
    assert_eq!(new.data(), "one");
    assert_eq!(new.data().len(), 90);
    assert_pending!(new.poll());
    feed.end();
    assert!(new.0.is_woken());
    assert!(assert_ready!(new.poll()).is_none());
}

#[test]
fn what_an_old_reader_was_reading_when_the_next_attempt_was_decided_is_not_lost() {
    let feed = Feed::default();
    let body = ReplayBody::with_limit(feed.body(), 10);
    let spare = copy(&body).unwrap();
    let mut old = Reader::new(body);
    let decided = Arc::new(Mutex::new(None));
    let decide = decided.clone();
    feed.0.lock().unwrap().meanwhile = Some(Box::new(move || *decide.lock().unwrap() = copy(&spare)));
    feed.data(vec![b'a'; 100]);
    assert_eq!(old.data().len(), 100);
    let mut new = Reader::new(decided.lock().unwrap().take().unwrap());
    assert_eq!(new.data().len(), 100);
    feed.data("x");
    assert!(old.is_superseded());
    assert_eq!(new.data(), "x");
}

#[test]
fn an_old_reader_that_waits_is_woken_when_a_later_one_takes_the_stream() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut old = Reader::new(body);
    assert_pending!(old.poll());
    let mut new = Reader::new(copy(&spare).unwrap());
    assert_pending!(new.poll());
    assert!(old.0.is_woken(), "else it would hang");
    assert!(old.is_superseded());
}

#[test]
fn all_who_wait_for_the_stream_to_be_given_back_are_woken() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut old = Reader::new(body);
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let others = waiting.clone();
    feed.0.lock().unwrap().meanwhile = Some(Box::new(move || {
        for _ in 0..2 {
            let mut other = Reader::new(copy(&spare).unwrap());
            assert_pending!(other.poll());
            others.lock().unwrap().push(other);
        }
    }));
    assert_pending!(old.poll());
    assert!(waiting.lock().unwrap().iter().all(|other: &Reader| other.0.is_woken()), "else one would hang");
}

#[test]
fn a_copy_that_was_asked_for_in_vain_leaves_the_reader_where_it_is() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    assert_pending!(reader.poll());
    drop(copy(&spare));
    drop(spare);
    feed.data("on");
    assert!(reader.0.is_woken());
    assert_eq!(reader.data(), "on");
}

#[test]
fn copies_of_what_is_complete_are_read_side_by_side() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut first = Reader::new(body);
    feed.data("one");
    feed.data("two");
    assert_eq!(first.data(), "one");
    assert!(!spare.is_complete());
    first.data();
    feed.end();
    assert_ready!(first.poll());
    assert!(spare.is_complete());
    let (mut a, mut b) = (Reader::new(copy(&spare).unwrap()), Reader::new(copy(&spare).unwrap()));
    assert_eq!(
        (a.data(), b.data(), b.data(), a.data()),
        ("one".into(), "one".into(), "two".into(), "two".into())
    );
    assert!(assert_ready!(a.poll()).is_none() && assert_ready!(b.poll()).is_none());
}

#[test]
fn a_stream_that_fails_is_not_sent_again() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    feed.push(Err("disk"));
    assert_eq!(assert_ready!(reader.poll()).unwrap().unwrap_err().to_string(), "disk");
    assert!(copy(&spare).is_none() && !spare.is_complete());
}

#[test]
fn a_stream_that_panics_once_is_not_lost_and_nobody_waits_for_ever() {
    let feed = Feed::default();
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    feed.0.lock().unwrap().meanwhile = Some(Box::new(|| panic!("a caller's bug")));
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.poll().is_ready()));
    assert!(polled.is_err());
    let mut next = Reader::new(copy(&spare).unwrap());
    feed.data("goes on");
    assert_eq!(next.data(), "goes on");
}

#[test]
fn the_stream_is_read_only_when_somebody_asks_and_its_length_is_told() {
    let feed = Feed::default();
    feed.0.lock().unwrap().hint = SizeHint::with_exact(6);
    let body = ReplayBody::new(feed.body());
    let spare = copy(&body).unwrap();
    let mut reader = Reader::new(body);
    for piece in ["abc", "def"] {
        feed.data(piece);
    }
    assert_eq!((feed.polls(), reader.0.size_hint().exact()), (0, Some(6)));
    reader.data();
    assert_eq!((feed.polls(), reader.0.size_hint().exact()), (1, Some(3)));
    let mut again = Reader::new(copy(&spare).unwrap());
    assert_eq!(again.0.size_hint().exact(), Some(6));
    again.data();
    assert_eq!(feed.polls(), 1, "what is kept is not read again");
}

#[test]
fn an_empty_body_is_always_complete() {
    let body = ReplayBody::new(Empty::<Bytes>::new());
    let request = Request::get("/").header("a", "b").body(body).unwrap();
    let classifier = Classifier::default();
    assert!(classifier.is_complete(&request));
    let copy = classifier.copy(&classifier.copy(&request).unwrap()).unwrap();
    assert!(copy.body().is_end_stream());
    assert_eq!(
        (copy.headers(), copy.uri(), copy.method()),
        (request.headers(), request.uri(), request.method())
    );
}

/// Whatever is read, copied and dropped in whatever order: a copy gives the stream from its first byte, piece by piece, or says that it cannot; the newest attempt
/// always gets all of it; nobody is left waiting.
#[test]
fn no_order_of_events_gives_a_part_for_the_whole() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..2000 {
        let feed = Feed::default();
        let limit = random.usize(0..4) * 200;
        let body = ReplayBody::with_limit(feed.body(), limit);
        let mut spare = copy(&body);
        let mut readers = vec![(Reader::new(body), 0)];
        let (mut fed, mut ended, mut begun) = (0_usize, false, false);
        for _ in 0..random.usize(1..40) {
            match random.u32(0..10) {
                0..4 if !ended => {
                    feed.data(format!("{fed:0>64}"));
                    fed += 1;
                }
                4 if random.bool() => {
                    ended = true;
                    feed.end();
                }
                // Another attempt follows one that has begun.
                5 if begun => {
                    begun = false;
                    if let Some(copy) = spare.as_ref().and_then(copy) {
                        readers.push((Reader::new(copy), 0));
                    }
                }
                6 if random.u32(0..4) == 0 => spare = None,
                7 if readers.len() > 1 => drop(readers.remove(random.usize(..readers.len() - 1))),
                _ => {
                    let at = random.usize(..readers.len());
                    let newest = at + 1 == readers.len();
                    begun |= newest;
                    let (reader, position) = &mut readers[at];
                    match reader.poll() {
                        Poll::Ready(Some(Ok(frame))) => {
                            let data = frame.into_data().unwrap();
                            assert_eq!(data, format!("{position:0>64}"), "round {round}");
                            *position += 1;
                        }
                        Poll::Ready(Some(Err(error))) => {
                            assert!(error.is::<Superseded>() && !newest, "round {round}");
                        }
                        Poll::Ready(None) => assert!(ended && *position == fed, "round {round}"),
                        Poll::Pending => assert!(!ended && *position == fed, "round {round}"),
                    }
                }
            }
        }
        if !ended {
            feed.end();
        }
        let (reader, position) = readers.last_mut().unwrap();
        while let Some(frame) = assert_ready!(reader.poll()) {
            assert_eq!(frame.unwrap().into_data().unwrap(), format!("{position:0>64}"), "round {round}");
            *position += 1;
        }
        assert_eq!(*position, fed, "round {round}");
        drop(spare);
        let kept = readers.last().unwrap().0.0.kept();
        assert!(kept <= limit + 64, "round {round}: {kept}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "both are awaited")]
async fn readers_on_other_threads_never_get_a_part_for_the_whole() {
    for _ in 0..200 {
        let feed = Feed::default();
        let body = ReplayBody::new(feed.body());
        let spare = copy(&body).unwrap();
        let old = tokio::spawn(async move { body.collect().await.map(|all| all.to_bytes()) });
        for i in 0..10 {
            feed.data(vec![i; 100]);
            tokio::task::yield_now().await;
        }
        let new = copy(&spare).unwrap();
        let new = tokio::spawn(async move { new.collect().await.map(|all| all.to_bytes()) });
        for i in 10..20 {
            feed.data(vec![i; 100]);
            tokio::task::yield_now().await;
        }
        feed.end();
        let all: Vec<u8> = (0..20).flat_map(|i| [i; 100]).collect();
        assert_eq!(new.await.unwrap().unwrap(), all);
        match old.await.unwrap() {
            Ok(read) => assert_eq!(read, all),
            Err(error) => assert!(error.is::<Superseded>()),
        }
    }
}

/// The first attempt reads what there is and hangs; a second answers at once with all that it gets.
async fn hedged(feed: &Feed) -> Option<Bytes> {
    let config = HedgeConfig::builder().max_hedges(1).delay(Duration::from_millis(10)).build().unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |request: Request<ReplayBody<Stream>>| {
        let first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let all = request.into_body().collect().await?.to_bytes();
            if first {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(Response::new(Full::new(all)))
        }
    });
    let service = HedgeLayer::new(config, Classifier::default()).layer(service);
    let request = Request::get("/").body(ReplayBody::new(feed.body())).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(60), service.oneshot(request)).await;
    Some(answer.ok()?.unwrap().into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test(start_paused = true)]
async fn only_what_is_complete_is_hedged() {
    let feed = Feed::default();
    feed.data("all");
    feed.end();
    assert_eq!(hedged(&feed).await.unwrap(), "all");

    let feed = Feed::default();
    feed.data("begins");
    assert!(hedged(&feed).await.is_none(), "a second attempt would have taken the stream from the first");
}

/// A piece that looks at the body it is of while it is read.
struct Nosy(Bytes, Arc<Mutex<Option<ReplayBody<Once>>>>);

impl bytes::Buf for Nosy {
    fn remaining(&self) -> usize {
        let copy = self.1.lock().unwrap();
        self.0.len() + copy.as_ref().map_or(0, ReplayBody::kept)
    }
    fn chunk(&self) -> &[u8] {
        &self.0
    }
    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

struct Once(Option<Nosy>);

impl Body for Once {
    type Data = Nosy;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Nosy>, BoxError>>> {
        Poll::Ready(self.get_mut().0.take().map(|nosy| Ok(Frame::data(nosy))))
    }
}

#[test]
fn a_piece_is_read_without_the_lock() {
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let copy = Arc::new(Mutex::new(None));
        let body = ReplayBody::new(Once(Some(Nosy("piece".into(), copy.clone()))));
        let request = Request::put("/").body(body).unwrap();
        *copy.lock().unwrap() = Classifier::default().copy(&request).map(Request::into_body);
        let mut reader = task::spawn(request.into_body());
        let frame = assert_ready!(reader.enter(|cx, body| body.poll_frame(cx))).unwrap().unwrap();
        told.send(frame.into_data().unwrap()).unwrap();
    });
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)).as_deref(), Ok(&b"piece"[..]), "else it hangs");
}
