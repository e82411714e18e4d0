//! A response whose head is there and whose body is still to come.

use std::error::Error;

use tower_mesh_core::Classify;
use tower_mesh_core::classify::{Guard, Origin, Retry, Verdict};

/// What is still to come of a response.
pub trait Body {
    /// A piece of it arrives.
    fn piece(&mut self);

    /// It ends, well or badly.
    fn end(self, well: bool);
}

/// As a server answers it: nobody listens yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head;

impl Body for Head {
    fn piece(&mut self) {}
    fn end(self, _well: bool) {}
}

/// With the guard of somebody who counts tied to its end.
#[derive(Debug)]
pub struct Guarded<B, G> {
    body: B,
    guard: G,
}

impl<B: Body, G: Guard> Body for Guarded<B, G> {
    fn piece(&mut self) {
        self.body.piece();
        self.guard.progress();
    }

    fn end(self, well: bool) {
        self.body.end(well);
        let badly = Verdict::failure(Origin::Remote, Retry::Never);
        self.guard.finish(if well { Verdict::SUCCESS } else { badly });
    }
}

/// Judges by the end of the body.
#[derive(Debug, Clone, Copy)]
pub struct Streams;

impl<B: Body> Classify<B> for Streams {
    type Response<G: Guard> = Guarded<B, G>;

    fn head(&self, result: Result<&B, &(dyn Error + 'static)>) -> Verdict {
        match result {
            Ok(_) => Verdict::UNDECIDED,
            Err(_) => Verdict::failure(Origin::Local, Retry::IfIdempotent),
        }
    }

    fn attach<G: Guard>(&self, body: B, _verdict: Verdict, guard: G) -> Guarded<B, G> {
        Guarded { body, guard }
    }
}
