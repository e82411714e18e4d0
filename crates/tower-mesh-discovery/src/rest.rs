//! Putting a service to rest that nobody calls: its source is not listened to until there is a call again.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Context;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;

use crate::balance::clock;
use crate::policy::idle::Idle;
use crate::source::Source;

/// What is asked of the driver, by anybody who has the source.
#[derive(Default)]
pub(crate) struct Asked {
    told: Arc<Notify>,
    order: AtomicU8,
    /// A call found nothing to be sent to, since the driver last looked.
    in_vain: AtomicBool,
    pub(crate) possible: AtomicBool,
    resting: AtomicBool,
}

const NOTHING: u8 = 0;
const REST: u8 = 1;
const WAKE: u8 = 2;

impl Asked {
    pub(crate) fn rest(&self) -> bool {
        self.order(REST)
    }

    pub(crate) fn wake(&self) -> bool {
        self.order(WAKE)
    }

    fn order(&self, order: u8) -> bool {
        let possible = self.possible.load(Ordering::Acquire);
        if possible {
            self.order.store(order, Ordering::Release);
            self.told.notify_one();
        }
        possible
    }

    /// A call found nothing to be sent to. Not on the way of calls that do.
    #[cold]
    pub(crate) fn called_in_vain(&self) {
        self.in_vain.store(true, Ordering::SeqCst);
        // The driver looks again after it has set this, so one of the two sees the other.
        if self.resting.load(Ordering::SeqCst) {
            self.told.notify_one();
        }
    }
}

/// While it rests, calls are looked for as often as this: they are counted on the records of endpoints anyway, and pay nothing for being noticed.
const LOOK_WHILE_RESTING: Duration = Duration::from_secs(1);

/// What a driver needs to rest: how to listen again, and when to stop.
pub(crate) struct Rest<U> {
    again: Box<dyn Fn() -> U + Send + Sync>,
    /// None: only when it is told to.
    after: Option<Duration>,
    /// Begins when the driver is first polled, as does the timer.
    idle: Option<Idle>,
    /// What was counted when it went to rest.
    resting: Option<u64>,
    look: Option<Pin<Box<Sleep>>>,
    told: Pin<Box<OwnedNotified>>,
}

/// What the driver is to do.
pub(crate) enum Step<U> {
    Rest,
    Listen(U),
}

impl<U> Rest<U> {
    pub(crate) fn new(
        again: Box<dyn Fn() -> U + Send + Sync>,
        after: Option<Duration>,
        asked: &Asked,
    ) -> Self {
        Self {
            again,
            after,
            idle: None,
            resting: None,
            look: None,
            told: Box::pin(asked.told.clone().notified_owned()),
        }
    }

    /// What is to be done now; if nothing is, the task is woken when there may be.
    pub(crate) fn poll(&mut self, source: &Source, cx: &mut Context<'_>) -> Option<Step<U>> {
        let asked = source.asked();
        if self.idle.is_none()
            && let Some(after) = self.after
        {
            self.idle = Some(Idle::new(after, clock()));
            self.look_later();
        }
        loop {
            let told = self.told.as_mut().poll(cx).is_ready();
            if told {
                self.told.set(asked.told.clone().notified_owned());
            }
            let looking = self.look.as_mut().is_some_and(|look| look.as_mut().poll(cx).is_ready());
            if !told && !looking {
                return None;
            }
            let order = asked.order.swap(NOTHING, Ordering::AcqRel);
            let in_vain = asked.in_vain.swap(false, Ordering::SeqCst);
            let (calls, busy) = source.calls();
            let step = match self.resting {
                Some(before) if order == WAKE || in_vain || calls != before => self.wake(asked),
                Some(_) => None,
                None if order == REST => self.rest(calls, asked),
                None => {
                    let is_idle = |idle: &mut Idle| idle.look(calls, busy || in_vain, clock());
                    if self.idle.as_mut().is_some_and(is_idle) { self.rest(calls, asked) } else { None }
                }
            };
            self.look_later();
            if step.is_some() {
                return step;
            }
        }
    }

    fn look_later(&mut self) {
        let wait = match (&self.resting, &self.idle) {
            (Some(_), _) => LOOK_WHILE_RESTING,
            (None, Some(idle)) => idle.interval(),
            (None, None) => return self.look = None,
        };
        self.look = Some(Box::pin(tokio::time::sleep(wait)));
    }

    fn rest(&mut self, calls: u64, asked: &Asked) -> Option<Step<U>> {
        asked.resting.store(true, Ordering::SeqCst);
        if asked.in_vain.load(Ordering::SeqCst) {
            // A call came in between: not now.
            asked.resting.store(false, Ordering::SeqCst);
            return None;
        }
        self.resting = Some(calls);
        Some(Step::Rest)
    }

    fn wake(&mut self, asked: &Asked) -> Option<Step<U>> {
        asked.resting.store(false, Ordering::SeqCst);
        self.resting = None;
        if let Some(idle) = &mut self.idle {
            idle.restart(clock());
        }
        Some(Step::Listen((self.again)()))
    }
}
