//! The service below every stack: it answers at once, so that what is measured is the stack.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tower_service::Service;

/// A request that is cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request(pub(crate) u64);

/// Answers the request's number.
#[derive(Debug, Clone)]
pub(crate) struct Echo;

impl Service<Request> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(Ok(request.0))
    }
}
