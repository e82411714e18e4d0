use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_mesh_core::classify::{Guard, Origin, Outcome, Retry, Verdict};

use crate::classifier::Codes;
use crate::policy::grpc;

pin_project! {
    /// A response body that carries a guard to its end: whoever counts the call hears of its last byte, not of its head.
    ///
    /// | the body | the guard |
    /// |---|---|
    /// | gives a frame | makes progress |
    /// | ends, with or without trailers | finishes with the verdict of the head, or that of the trailers if the head was undecided |
    /// | is empty from the start | finishes at once |
    /// | fails | finishes with a failure of local origin, or that of the head if it was one |
    /// | is dropped half way | is dropped, which means abandoned; but if the head was a failure it finishes with that |
    ///
    /// The guard is gone when it has finished; a body dropped after its end reports nothing. Frames, trailers, size hint and end of stream
    /// pass unchanged. Dropping a failed answer unread is what a retry does, so it must not hide the failure.
    pub struct GuardedBody<B, G: Guard> {
        #[pin]
        body: B,
        end: End<G>,
    }
}

impl<B: Body, G: Guard> GuardedBody<B, G> {
    /// Ties `guard` to the end of `body`. `verdict` is that of the head.
    pub fn new(body: B, verdict: Verdict, guard: G) -> Self {
        Self::with_rules(body, verdict, guard, None)
    }

    /// The same, with codes in the trailers that mean something else than usual.
    pub(crate) fn with_rules(body: B, verdict: Verdict, guard: G, codes: Option<Codes>) -> Self {
        let mut end = End { guard: Some(guard), verdict, codes };
        if body.is_end_stream() {
            end.reached(None);
        }
        Self { body, end }
    }
}

impl<B, G: Guard> GuardedBody<B, G> {
    /// The body itself.
    pub fn get_ref(&self) -> &B {
        &self.body
    }

    /// Whether the guard still waits for the end.
    pub fn is_guarded(&self) -> bool {
        self.end.guard.is_some()
    }
}

impl<B: Body, G: Guard> Body for GuardedBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = ready!(this.body.as_mut().poll_frame(cx));
        match &polled {
            None => this.end.reached(None),
            Some(Err(_)) => this.end.broken(),
            Some(Ok(frame)) => {
                this.end.progress();
                // A reader that knows the length stops after the last frame and never asks for the end.
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.end.reached(frame.trailers_ref());
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: fmt::Debug, G: Guard> fmt::Debug for GuardedBody<B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBody")
            .field("body", &self.body)
            .field("verdict", &self.end.verdict)
            .field("guarded", &self.is_guarded())
            .finish()
    }
}

/// The guard, as long as the end has not come.
struct End<G: Guard> {
    guard: Option<G>,
    /// What the head said.
    verdict: Verdict,
    codes: Option<Codes>,
}

impl<G: Guard> End<G> {
    fn progress(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.progress();
        }
    }

    fn reached(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(guard) = self.guard.take() {
            guard.finish(match self.verdict.outcome {
                Outcome::Undecided => match (&self.codes, trailers) {
                    (Some(codes), Some(trailers)) => {
                        codes.ruled(trailers).unwrap_or_else(|| grpc::at_end(Some(trailers)))
                    }
                    _ => grpc::at_end(trailers),
                },
                _ => self.verdict,
            });
        }
    }

    fn broken(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.finish(if self.verdict.is_failure() {
                self.verdict
            } else {
                Verdict::failure(Origin::Local, Retry::IfIdempotent)
            });
        }
    }
}

impl<G: Guard> Drop for End<G> {
    fn drop(&mut self) {
        if self.verdict.is_failure()
            && let Some(guard) = self.guard.take()
        {
            guard.finish(self.verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use tokio_test::{assert_pending, assert_ready, task};

    type Item = Option<Result<Frame<Bytes>, &'static str>>;

    /// Gives what it is told to; `None` stands for "not yet".
    struct Script {
        items: VecDeque<Option<Result<Frame<Bytes>, &'static str>>>,
        knows_its_end: bool,
    }

    fn script(items: impl IntoIterator<Item = Item>) -> Script {
        Script { items: items.into_iter().collect(), knows_its_end: false }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Item> {
            match self.items.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(item) => Poll::Ready(item),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.knows_its_end && self.items.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(77)
        }
    }

    #[derive(Debug, PartialEq, Clone)]
    enum Told {
        Progress,
        Finished(Verdict),
        Dropped,
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<Told>>>);

    impl Log {
        fn push(&self, told: Told) {
            self.0.lock().unwrap().push(told);
        }
        fn take(&self) -> Vec<Told> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    struct Spy(Option<Log>);

    impl Guard for Spy {
        fn progress(&mut self) {
            self.0.as_ref().unwrap().push(Told::Progress);
        }
        fn finish(mut self, verdict: Verdict) {
            self.0.take().unwrap().push(Told::Finished(verdict));
        }
    }

    impl Drop for Spy {
        fn drop(&mut self) {
            if let Some(log) = self.0.take() {
                log.push(Told::Dropped);
            }
        }
    }

    fn guarded(body: Script, verdict: Verdict) -> (GuardedBody<Script, Spy>, Log) {
        let log = Log::default();
        (GuardedBody::new(body, verdict, Spy(Some(log.clone()))), log)
    }

    fn poll(body: &mut GuardedBody<Script, Spy>) -> Poll<Item> {
        let mut body = Pin::new(body);
        task::spawn(()).enter(|cx, _| body.as_mut().poll_frame(cx))
    }

    fn data(bytes: &'static str) -> Item {
        Some(Ok(Frame::data(Bytes::from_static(bytes.as_bytes()))))
    }

    fn trailers(status: &'static str) -> Item {
        let mut map = HeaderMap::new();
        map.insert("grpc-status", status.parse().unwrap());
        Some(Ok(Frame::trailers(map)))
    }

    const LOCAL: Verdict = Verdict::failure(Origin::Local, Retry::IfIdempotent);
    const REMOTE: Verdict = Verdict::failure(Origin::Remote, Retry::IfIdempotent);

    #[test]
    fn the_guard_hears_of_every_frame_and_once_of_the_end() {
        let (mut body, log) = guarded(script([data("a"), None, data("b")]), Verdict::SUCCESS);
        assert_eq!(body.size_hint().exact(), Some(77));
        assert!(log.take().is_empty());
        assert!(assert_ready!(poll(&mut body)).unwrap().unwrap().is_data());
        assert_pending!(poll(&mut body));
        assert!(assert_ready!(poll(&mut body)).unwrap().unwrap().is_data());
        assert_eq!(log.take(), [Told::Progress, Told::Progress]);
        assert!(assert_ready!(poll(&mut body)).is_none());
        assert_eq!(log.take(), [Told::Finished(Verdict::SUCCESS)]);
        drop(body);
        assert!(log.take().is_empty(), "after its end a dropped body reports nothing");
    }

    #[test]
    fn a_reader_that_stops_at_the_last_frame_has_read_it_all() {
        let mut source = script([data("a")]);
        source.knows_its_end = true;
        let (mut body, log) = guarded(source, Verdict::SUCCESS);
        assert!(assert_ready!(poll(&mut body)).unwrap().is_ok());
        assert_eq!(log.take(), [Told::Progress, Told::Finished(Verdict::SUCCESS)]);
        assert!(body.is_end_stream());
    }

    #[test]
    fn an_empty_body_ends_with_its_head() {
        let mut source = script([]);
        source.knows_its_end = true;
        let (body, log) = guarded(source, Verdict::SUCCESS);
        assert_eq!(log.take(), [Told::Finished(Verdict::SUCCESS)]);
        assert!(!body.is_guarded());
    }

    #[test]
    fn trailers_decide_what_the_head_left_open_and_reach_the_caller() {
        for (status, expected) in [("0", Verdict::SUCCESS), ("14", REMOTE), ("5", Verdict::SUCCESS)] {
            let (mut body, log) = guarded(script([data("a"), trailers(status)]), Verdict::UNDECIDED);
            assert!(assert_ready!(poll(&mut body)).unwrap().is_ok());
            let frame = assert_ready!(poll(&mut body)).unwrap().unwrap();
            assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], status);
            assert_eq!(log.take(), [Told::Progress, Told::Progress, Told::Finished(expected)], "{status}");
        }
        let (mut body, log) = guarded(script([data("a")]), Verdict::UNDECIDED);
        while assert_ready!(poll(&mut body)).is_some() {}
        assert_eq!(log.take()[1..], [Told::Finished(grpc::MISSING)]);
    }

    #[test]
    fn trailers_do_not_change_what_the_head_decided() {
        let (mut body, log) = guarded(script([trailers("14")]), Verdict::SUCCESS);
        assert!(assert_ready!(poll(&mut body)).unwrap().is_ok());
        assert_eq!(log.take()[1..], [Told::Finished(Verdict::SUCCESS)]);
    }

    #[test]
    fn a_broken_body_is_a_failure_and_keeps_that_of_its_head() {
        for (head, expected) in [(Verdict::SUCCESS, LOCAL), (Verdict::UNDECIDED, LOCAL), (REMOTE, REMOTE)] {
            let (mut body, log) = guarded(script([Some(Err("reset"))]), head);
            assert!(assert_ready!(poll(&mut body)).unwrap().is_err());
            assert_eq!(log.take(), [Told::Finished(expected)]);
        }
    }

    #[test]
    fn a_body_dropped_half_way_is_abandoned_unless_its_head_had_failed() {
        for (head, expected) in [
            (Verdict::SUCCESS, Told::Dropped),
            (Verdict::UNDECIDED, Told::Dropped),
            (REMOTE, Told::Finished(REMOTE)),
        ] {
            let (mut body, log) = guarded(script([data("a"), data("b")]), head);
            assert!(assert_ready!(poll(&mut body)).unwrap().is_ok());
            drop(body);
            assert_eq!(log.take()[1..], [expected]);
        }
    }
}
