//! A call that waits for a place, and a place that is held for a call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::time::Sleep;
use tower_mesh_core::{Priority, Sharded};

use crate::error::{OverloadReason, Overloaded};
use crate::gate::Key;
use crate::shared::Shared;

/// A place for a call that is still to be made. Dropped, it is given back, and the call was none.
pub(crate) struct Place {
    shared: Option<Sharded<Shared>>,
    number: u32,
}

impl Place {
    #[inline]
    pub(crate) fn new(shared: Sharded<Shared>, number: u32) -> Self {
        Self { shared: Some(shared), number }
    }

    /// Whether it is one of a limit's.
    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.number != 0
    }

    /// For a guard that takes over giving it back.
    #[inline]
    pub(crate) fn into_parts(mut self) -> (Sharded<Shared>, u32) {
        (self.shared.take().expect("it is taken once"), self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.leave(self.number);
        }
    }
}

/// A call that waits. Dropped, it waits no more, and somebody else may.
pub(crate) struct Waiting {
    shared: Sharded<Shared>,
    priority: Priority,
    key: Key,
    leave: oneshot::Receiver<u32>,
    until: Pin<Box<Sleep>>,
    over: bool,
}

impl Waiting {
    pub(crate) fn new(
        shared: Sharded<Shared>,
        priority: Priority,
        key: Key,
        leave: oneshot::Receiver<u32>,
    ) -> Self {
        let until = Box::pin(tokio::time::sleep(shared.limiter().max_wait()));
        Self { shared, priority, key, leave, until, over: false }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Place, Overloaded>> {
        match Pin::new(&mut self.leave).poll(cx) {
            Poll::Ready(answer) => {
                self.over = true;
                Poll::Ready(match answer {
                    Ok(number) => Ok(Place::new(self.shared.clone(), number)),
                    Err(_) => Err(self.shared.refusal(OverloadReason::Displaced, self.priority)),
                })
            }
            Poll::Pending if self.until.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Err(self.shared.refusal(OverloadReason::WaitedTooLong, self.priority)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.over {
            self.shared.limiter().gate().give_up(self.key, &mut self.leave);
        }
    }
}
