use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_mesh_core::classify::judge;
use tower_mesh_core::sharded::own_shard;
use tower_mesh_core::{BoxError, CallContext, CallScope, Classify, DropReason, Replay, Sharded, Tick};
use tower_service::Service;

use super::attempt::Attempt;
use super::recycled::Recycled;
use super::service::Parts;
use crate::budget::{ActiveCall, RetryPermit};
use crate::error::NotReady;
use crate::policy::decision::StopReason;
use crate::policy::hedge::{Ended, HedgePolicy};
use crate::policy::latency::STRIPES;
use crate::timer::{Timer, clock};
use crate::told::HedgeTold;

pin_project! {
    /// A call that may be asked of several endpoints at a time.
    pub struct HedgeFuture<S, C, R, Req>
    where
        R: Replay<Req, Sent: 'static>,
        R: 'static,
        S: Service<R::Sent>,
        S: 'static,
        C: 'static,
    {
        // None once it has failed.
        #[pin]
        first: Option<S::Future>,
        // None if there will be no hedge: then nothing but the first attempt is there.
        hedging: Option<Recycled<Hedging<S, C, R, R::Sent>>>,
    }

    impl<S, C, R, Req> PinnedDrop for HedgeFuture<S, C, R, Req>
    where
        R: Replay<Req, Sent: 'static>,
        R: 'static,
        S: Service<R::Sent>,
        S: 'static,
        C: 'static,
    {
        fn drop(this: Pin<&mut Self>) {
            // The first attempt runs in the context of the call, where its guards find the reason. The hedges have contexts of their own.
            if let Some(hedging) = this.project().hedging.as_mut().filter(|hedging| !hedging.out.is_empty()) {
                let reason = CallContext::drop_reason_of(hedging.started);
                hedging.end_all(reason);
            }
        }
    }
}

/// What a call that may be hedged needs beside its first attempt.
pub(super) struct Hedging<S, C, R, Sent>
where
    S: Service<Sent>,
{
    parts: Sharded<Parts<S, C, R>>,
    spare: Option<Sent>,
    scope: CallScope,
    began: Tick,
    /// The start of the attempt as the context has it: the first attempt may have waited for its endpoint and begun anew.
    started: Tick,
    deadline: Option<Tick>,
    policy: HedgePolicy,
    timer: Timer,
    /// The hedges under way, oldest first.
    out: Vec<Pin<Box<Attempt<S, Sent>>>>,
    /// What the next hedge needs, if it was taken before it starts.
    paid: Option<(RetryPermit, Sent)>,
    _active: Option<ActiveCall>,
    /// Whether the latency of the first attempt is to be recorded.
    measured: bool,
}

impl<S, C, R, Sent> Hedging<S, C, R, Sent>
where
    S: Service<Sent>,
{
    pub(super) fn new(
        parts: Sharded<Parts<S, C, R>>,
        spare: Option<Sent>,
        scope: CallScope,
        began: Tick,
        deadline: Option<Tick>,
        policy: HedgePolicy,
        measured: bool,
    ) -> Self {
        let active = if parts.counted_outside { None } else { parts.budget.enter() };
        Self {
            parts,
            spare,
            scope,
            began,
            started: began,
            deadline,
            policy,
            timer: Timer::default(),
            out: Vec::new(),
            paid: None,
            measured,
            _active: active,
        }
    }

    /// When the next hedge starts; none if there is no other, or only after the call must have ended.
    fn next(&self) -> Option<Tick> {
        self.policy.next().filter(|&next| self.deadline.is_none_or(|deadline| next < deadline))
    }

    /// Passes on where a hedge went, so that the next one and retries outside go elsewhere.
    fn learn(&mut self, index: usize) {
        if let Some(key) = self.out[index].as_mut().newly_tried() {
            self.scope.with(|call| call.add_tried(key));
        }
    }

    fn end_all(&mut self, reason: DropReason) {
        for mut attempt in self.out.drain(..) {
            attempt.as_mut().end(reason);
        }
    }

    /// A copy of the request for another attempt, and what that costs; none if either is not to be had.
    fn pay<Req>(&mut self, now: Tick) -> Option<(RetryPermit, Sent)>
    where
        R: Replay<Req, Sent = Sent>,
    {
        if !self.spare.as_ref().is_some_and(|spare| self.parts.replay.is_complete(spare)) {
            return None;
        }
        let request = match &self.spare {
            Some(spare) if self.policy.more_after_next() => self.parts.replay.copy(spare),
            _ => self.spare.take(),
        }?;
        match self.parts.budget.try_withdraw(now) {
            Ok(permit) => Some((permit, request)),
            Err(denied) => {
                HedgeTold::count(&self.parts.told.denied);
                tracing::debug!(reason = %StopReason::from(denied), "not hedging");
                None
            }
        }
    }

    /// Starts a hedge, if the budget has one left.
    fn start<Req>(&mut self, now: Tick)
    where
        R: Replay<Req, Sent = Sent>,
        S: Clone,
    {
        let Some((permit, request)) = self.paid.take().or_else(|| self.pay(now)) else {
            self.policy.stop();
            return;
        };
        let parts = &*self.parts;
        let context = self.scope.with(|call| call.beside()).unwrap_or_default();
        context.start(|| now);
        HedgeTold::count(&parts.told.sent);
        tracing::debug!(after = ?now.since(self.began), out = self.out.len(), "hedging");
        let ready_by = now + parts.config.snapshot().ready_timeout();
        let attempt = Attempt::new(context, parts.template.clone(), request, ready_by, permit);
        self.out.push(Box::pin(attempt));
        self.policy.started(now);
    }
}

impl<S, C, R, Req> HedgeFuture<S, C, R, Req>
where
    R: Replay<Req, Sent: 'static> + 'static,
    S: Service<R::Sent> + 'static,
    C: 'static,
{
    #[inline(always)]
    pub(super) fn new(first: S::Future, hedging: Option<Hedging<S, C, R, R::Sent>>) -> Self {
        Self { first: Some(first), hedging: hedging.map(Recycled::new) }
    }
}

impl<S, C, R, Req> Future for HedgeFuture<S, C, R, Req>
where
    R: Replay<Req, Sent: 'static> + 'static,
    S: Service<R::Sent> + Clone + 'static,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + 'static,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(hedging) = this.hedging else {
            let first = this.first.as_pin_mut().expect("what is not hedged has one attempt");
            return first.poll(cx).map_err(Into::into);
        };
        let mut call = Call { first: this.first.as_mut(), hedging };
        call.poll(cx)
    }
}

/// A hedged call while it is polled.
struct Call<'a, S, C, R, Sent>
where
    S: Service<Sent>,
{
    first: Pin<&'a mut Option<S::Future>>,
    hedging: &'a mut Hedging<S, C, R, Sent>,
}

/// One of the attempts of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Hedge(usize),
}

type Answer<S, Sent> = Result<<S as Service<Sent>>::Response, BoxError>;

impl<S, C, R, Sent> Call<'_, S, C, R, Sent>
where
    S: Service<Sent> + Clone,
    S::Error: Into<BoxError>,
{
    fn poll<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Answer<S, Sent>>
    where
        C: Classify<S::Response>,
        R: Replay<Req, Sent = Sent>,
    {
        // The latest reading of the clock in this poll.
        let mut now = None;
        if let Some(first) = self.first.as_mut().as_pin_mut()
            && let Poll::Ready(result) = self.hedging.scope.run(|| first.poll(cx))
            && let Some(answer) = self.ended(Which::First, result.map_err(Into::into), &mut now)
        {
            return Poll::Ready(answer);
        }
        if let Some(started) = self.hedging.scope.with(|call| call.started()).flatten() {
            self.hedging.started = started;
        }
        let mut asked = 0;
        loop {
            while asked < self.hedging.out.len() {
                let polled = self.hedging.out[asked].as_mut().poll(cx);
                self.hedging.learn(asked);
                match polled {
                    Poll::Pending => asked += 1,
                    Poll::Ready(result) => {
                        if let Some(answer) = self.ended(Which::Hedge(asked), result, &mut now) {
                            return Poll::Ready(answer);
                        }
                    }
                }
            }
            let next = self.hedging.next();
            // A hedge without delay needs no clock to be due.
            if next.is_some_and(|next| next <= now.unwrap_or(self.hedging.began)) {
                let now = *now.get_or_insert_with(clock);
                self.hedging.start(now);
                continue;
            }
            let ready_by = self.hedging.out.iter().filter_map(|attempt| attempt.ready_by()).min();
            let Some(until) = next.into_iter().chain(ready_by).min() else {
                return Poll::Pending;
            };
            if self.hedging.timer.poll_until(until, cx).is_pending() {
                return Poll::Pending;
            }
            // What fired may have been set on a clock that rounds.
            let read = clock().max(until);
            now = Some(read);
            while let Some(late) = self.late(read) {
                let timeout = self.hedging.parts.config.snapshot().ready_timeout();
                let error = NotReady::new(timeout).into();
                if let Some(answer) = self.ended(Which::Hedge(late), Err(error), &mut now) {
                    return Poll::Ready(answer);
                }
                asked = asked.min(self.hedging.out.len());
            }
        }
    }

    /// A hedge that has waited too long for readiness.
    fn late(&self, now: Tick) -> Option<usize> {
        let late = |attempt: &Pin<Box<Attempt<S, Sent>>>| attempt.ready_by().is_some_and(|by| by <= now);
        self.hedging.out.iter().position(late)
    }

    /// An attempt has ended with `result`: the answer to the call, or none if others go on or follow.
    fn ended<Req>(
        &mut self,
        which: Which,
        result: Answer<S, Sent>,
        now: &mut Option<Tick>,
    ) -> Option<Answer<S, Sent>>
    where
        C: Classify<S::Response>,
        R: Replay<Req, Sent = Sent>,
    {
        let verdict = judge(&self.hedging.parts.classifier, result.as_ref().map_err(|error| &**error));
        let parts = &*self.hedging.parts;
        // Where a layer outside counts too, it counts the answer.
        let counts = !parts.counted_outside;
        if counts {
            parts.budget.judged(verdict);
        }
        let pushback = match Ended::of(verdict) {
            Ended::Answer => {
                self.won(which, verdict.is_failure());
                return Some(result);
            }
            Ended::Failed(pushback) => pushback,
        };
        let read = match which {
            Which::First => self.hedging.scope.with(|call| call.ended()).flatten(),
            Which::Hedge(index) => self.hedging.out[index].ended(),
        };
        let read = read.unwrap_or_else(clock);
        *now = Some(read);
        let hedging = &mut *self.hedging;
        hedging.policy.failed(read, pushback);
        let others = hedging.out.len() + usize::from(self.first.is_some()) - 1;
        if others == 0 {
            // Nothing else is out: without another attempt, which must be paid for, this is the answer.
            hedging.paid = if hedging.next().is_some() { hedging.pay(read) } else { None };
            if hedging.paid.is_none() {
                return Some(result);
            }
        }
        if !counts {
            hedging.parts.budget.judged(verdict);
        }
        // What failed holds connections and permits.
        match which {
            Which::First => {
                let first = &mut self.first;
                hedging.scope.run(|| {
                    drop(result);
                    first.set(None);
                });
                hedging.scope.with(CallContext::forget_end);
            }
            Which::Hedge(index) => {
                let mut attempt = hedging.out.remove(index);
                hedging.scope.run(|| drop(result));
                attempt.as_mut().end(DropReason::CallerGone);
            }
        }
        None
    }

    /// `which` has the answer: the others are told that they lost.
    fn won(&mut self, which: Which, failed: bool) {
        struct Clear<'a, 'p, F>(&'a mut Pin<&'p mut Option<F>>);
        impl<F> Drop for Clear<'_, '_, F> {
            fn drop(&mut self) {
                self.0.set(None);
            }
        }
        let hedging = &mut *self.hedging;
        if !failed && self.first.is_some() && hedging.measured {
            // That of a first attempt which lost is at least so long: left out, the percentile would fall with every hedge that wins.
            let ended = match which {
                Which::First => hedging.scope.with(|call| call.ended()).flatten(),
                Which::Hedge(index) => hedging.out[index].ended(),
            };
            let ended = ended.unwrap_or_else(clock);
            hedging.parts.latencies.record(ended, ended.since(hedging.began), own_shard(STRIPES));
        }
        match which {
            Which::First => {}
            Which::Hedge(index) => {
                if !failed {
                    HedgeTold::count(&hedging.parts.told.won);
                }
                // It has ended; what is left of it goes without a reason.
                hedging.out.remove(index).as_mut().end(DropReason::CallerGone);
                hedging.scope.drop_for(DropReason::HedgeLost, Clear(&mut self.first));
                hedging.scope.with(CallContext::forget_end);
            }
        }
        hedging.end_all(DropReason::HedgeLost);
    }
}

impl<S, C, R, Req> fmt::Debug for HedgeFuture<S, C, R, Req>
where
    R: Replay<Req, Sent: 'static> + 'static,
    S: Service<R::Sent> + 'static,
    C: 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out = self.hedging.as_ref().map_or(0, |hedging| hedging.out.len());
        f.debug_struct("HedgeFuture").field("hedges", &out).finish_non_exhaustive()
    }
}
