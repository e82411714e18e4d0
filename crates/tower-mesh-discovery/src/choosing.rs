//! The patient way to an endpoint: waiting for the first resolution, for a service that is not ready yet, or for the next candidate after a refusal.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;
use tower_mesh_core::{BoxError, CallContext, Reason, Sharded, Tick, Tried};
use tower_service::Service;

use crate::balance::{self, clock, send};
use crate::candidates::Avoid;
use crate::error::{NoEndpoints, NoEndpointsReason, NotDriven, NotReady};
use crate::members::Member;
use crate::set::{Set, Shared};
use crate::status::DiscoveryState;

/// A call that has not been sent yet. Boxed: the usual call never gets here and need not carry the room for it.
pub(crate) struct Choosing<S, Req>(Pin<Box<Inner<S, Req>>>);

pin_project_lite::pin_project! {
    struct Inner<S, Req> {
        shared: Sharded<Shared<S>>,
        request: Option<Req>,
        since: Tick,
        // The endpoint waited for: it was picked and is not ready yet.
        first: Option<(Member, S)>,
        tried_another: bool,
        avoid: Avoid,
        refusal: Option<BoxError>,
        #[pin]
        changed: Option<OwnedNotified>,
        #[pin]
        bound: Option<Sleep>,
    }
}

impl<S, Req> Choosing<S, Req> {
    pub(crate) fn new(shared: Sharded<Shared<S>>, request: Req, first: Option<(Member, S)>) -> Self {
        Self(Box::pin(Inner {
            shared,
            request: Some(request),
            since: clock(),
            first,
            tried_another: false,
            avoid: Avoid::default(),
            refusal: None,
            changed: None,
            bound: None,
        }))
    }

    /// Remembers that the endpoint of `key` did not take the call, which is unspent.
    pub(crate) fn refused(&mut self, key: u32, error: BoxError) {
        let this = self.0.as_mut().project();
        this.avoid.add(key);
        *this.refusal = Some(error);
    }
}

type Sent<S, Req> = balance::Sent<<S as Service<Req>>::Future>;

impl<S, Req> Choosing<S, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent<S, Req>, BoxError>> {
        loop {
            if self.0.first.is_some() {
                if let Some(sent) = self.poll_first(cx) {
                    return Poll::Ready(Ok(sent));
                }
                if self.0.first.is_none() {
                    continue; // it refused: look for the next
                }
            } else {
                // Listen before looking, or a change in between would go unheard.
                self.listen(cx);
                match self.look() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if self.listen(cx) {
                self.reconsider();
                continue;
            }
            let mut this = self.0.as_mut().project();
            if this.bound.is_none() {
                this.bound.set(Some(tokio::time::sleep(this.shared.config.ready_timeout())));
            }
            return match this.bound.as_pin_mut().map(|bound| bound.poll(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(Err(self.waited_too_long())),
                _ => Poll::Pending,
            };
        }
    }

    /// Asks the endpoint waited for; if it is not ready, once, another one too.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Option<Sent<S, Req>> {
        let this = self.0.as_mut().project();
        let (member, service) = this.first.as_mut()?;
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                let (member, service) = this.first.take()?;
                return self.send(&member, service);
            }
            Poll::Ready(Err(error)) => {
                let key = member.key;
                *this.first = None;
                self.refused(key, error.into());
                return None;
            }
            Poll::Pending => {}
        }
        if std::mem::replace(this.tried_another, true) {
            return None;
        }
        let mut avoid = Avoid::default();
        avoid.add(member.key);
        let set = this.shared.set.load();
        let pick = set.pick(clock(), this.shared.rules.decay, tried(), &avoid)?;
        let (other, mut service) = candidate(&set, pick);
        drop(set);
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.send(&other, service),
            Poll::Ready(Err(error)) => {
                self.refused(other.key, error.into());
                None
            }
            Poll::Pending => None,
        }
    }

    fn send(&mut self, member: &Member, mut service: S) -> Option<Sent<S, Req>> {
        let this = self.0.as_mut().project();
        let request = this.request.take()?;
        let now = clock();
        CallContext::restart_attempt(now);
        Some(send(this.shared, member, &mut service, request, now))
    }

    /// Picks an endpoint to wait for: whether there is one, or else whether there is something else to wait for.
    fn look(&mut self) -> Result<bool, BoxError> {
        let this = self.0.as_mut().project();
        let set = this.shared.set.load();
        let now = clock();
        if !this.avoid.is_full()
            && let Some(pick) = set.pick(now, this.shared.rules.decay, tried(), this.avoid)
        {
            *this.first = Some(candidate(&set, pick));
            *this.tried_another = false;
            return Ok(true);
        }
        // Perhaps there are others by now, if nobody listens.
        this.shared.source.asked().called_in_vain();
        let service = &this.shared.source.service;
        if !set.members.as_slice().is_empty() {
            // Who is left may be going because others have come, who are about to be published.
            if set.version != this.shared.source.version() {
                return Ok(false);
            }
            let wait = first_recheck(&set, now);
            return Err(NoEndpoints::all_unavailable(service.clone(), wait, this.refusal.take()).into());
        }
        let status = this.shared.source.status();
        let reason = match status.state {
            DiscoveryState::NotFound => NoEndpointsReason::NotFound,
            // An answer that is known but not yet published here is about to be.
            DiscoveryState::Current | DiscoveryState::Stale if set.version == status.version => {
                NoEndpointsReason::Empty
            }
            _ => return Ok(false),
        };
        Err(NoEndpoints::new(service.clone(), reason).into())
    }

    /// Gives up waiting for an endpoint that discovery has taken out, or for the address where it was before.
    fn reconsider(&mut self) {
        let this = self.0.as_mut().project();
        let Some((member, _)) = &this.first else { return };
        let set = this.shared.set.load();
        let stays = set.members.as_slice().iter().any(|now| now.is_served_as(member));
        if !stays || member.handle.availability().contains(Reason::Draining) {
            *this.first = None;
        }
    }

    /// Whether discovery has said something new since the last look; the task is woken when it does.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        let mut this = self.0.as_mut().project();
        if this.changed.is_none() {
            let notified = this.shared.source.changed.clone().notified_owned();
            this.changed.set(Some(notified));
        }
        let heard = this.changed.as_mut().as_pin_mut().is_some_and(|changed| changed.poll(cx).is_ready());
        if heard {
            this.changed.set(None);
        }
        heard
    }

    #[cold]
    fn waited_too_long(&mut self) -> BoxError {
        let this = self.0.as_mut().project();
        let source = &this.shared.source;
        let service = source.service.clone();
        if this.first.is_some() {
            return NotReady::new(service, clock().since(*this.since)).into();
        }
        match source.state() {
            (DiscoveryState::NotDriven, _) => NotDriven::new(service).into(),
            (_, Some(error)) => {
                NoEndpoints::because(service, NoEndpointsReason::ResolverFailed, error).into()
            }
            (DiscoveryState::Failed | DiscoveryState::Expired, None) => {
                NoEndpoints::new(service, NoEndpointsReason::ResolverFailed).into()
            }
            _ => NoEndpoints::new(service, NoEndpointsReason::NotResolved).into(),
        }
    }
}

/// The endpoints that earlier attempts of this call went to.
fn tried() -> Tried {
    CallContext::with(|call| call.tried()).unwrap_or_default()
}

fn candidate<S: Clone>(set: &Set<S>, index: usize) -> (Member, S) {
    (set.members.as_slice()[index].clone(), set.services[index].clone())
}

/// How long until the first endpoint wants a trial call.
fn first_recheck<S>(set: &Set<S>, now: Tick) -> Option<std::time::Duration> {
    let members = set.members.as_slice();
    let waits = members.iter().filter_map(|member| member.handle.recheck_at());
    waits.min().map(|at| at.since(now))
}
