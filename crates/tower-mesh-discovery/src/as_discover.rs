//! Our sources for tower's own balancer.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tower::discover::Change;
use tower_mesh_core::{Bind, EndpointHandle, EndpointId, Resolve, ServiceName};

use crate::config::DiscoveryConfig;
use crate::members::{Member, Members};

pin_project_lite::pin_project! {
    /// Any [`Resolve`] as a [`tower::discover::Discover`], for tower's `Balance` and whatever else takes one: keys are [`EndpointId`]s, services are made
    /// from the client by a [`Bind`], as a [`DiscoveryLayer`](crate::DiscoveryLayer) makes them.
    ///
    /// It says what changed and nothing else: an endpoint announced again with another weight is no change, one at another address is an `Insert` of its key
    /// with a new service. Tower's words have none for weight, priority and locality, nor for a source that fails: the error is told to `tracing` and the
    /// endpoints stay. The end of the source is the end of this, which tower takes as "the endpoints stay" too. Endpoints beyond 10 000 are left out.
    /// Dropping it cancels the resolution.
    ///
    /// ```
    /// use tower::balance::p2c::Balance;
    /// use tower::load::Constant;
    /// use tower::{Service, ServiceExt, service_fn};
    /// use tower_mesh_core::EndpointHandle;
    /// use tower_mesh_discovery::{AsDiscover, FixedList};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower::BoxError> {
    /// let list = FixedList::new(["a:1".parse()?, "b:1".parse()?])?;
    /// let discover = AsDiscover::new(&list, &"users".parse()?, (), |_: &(), endpoint: &EndpointHandle| {
    ///     let address = endpoint.endpoint().address().to_owned();
    ///     Constant::new(service_fn(move |_: ()| std::future::ready(Ok::<_, std::io::Error>(address.clone()))), 1)
    /// });
    /// let mut towers = Balance::new(discover);
    /// let answer = towers.ready().await?.call(()).await?;
    /// assert!(["a:1", "b:1"].contains(&&*answer));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "nothing is resolved unless it is polled"]
    pub struct AsDiscover<U, C, B> {
        #[pin]
        updates: U,
        service: ServiceName,
        members: Members,
        changes: VecDeque<Pending>,
        client: C,
        bind: B,
    }
}

/// What is still to be said. The service of an endpoint is made when it is.
enum Pending {
    Insert(EndpointHandle),
    Remove(EndpointId),
}

impl<U, C, B: Bind<C>> AsDiscover<U, C, B> {
    /// The endpoints that `resolver` knows of `service`, each with the service that `bind` makes from `client`.
    pub fn new<R>(resolver: &R, service: &ServiceName, client: C, bind: B) -> Self
    where
        R: Resolve<Updates = U>,
    {
        Self {
            updates: resolver.resolve(service),
            service: service.clone(),
            members: Members::default(),
            changes: VecDeque::new(),
            client,
            bind,
        }
    }
}

impl<U, C, B> Stream for AsDiscover<U, C, B>
where
    U: Stream<Item = Result<tower_mesh_core::Update, tower_mesh_core::ResolveError>>,
    B: Bind<C>,
{
    type Item = Result<Change<EndpointId, B::Service>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            match this.changes.pop_front() {
                Some(Pending::Insert(handle)) => {
                    let change = Change::Insert(handle.id().clone(), this.bind.bind(this.client, &handle));
                    return Poll::Ready(Some(Ok(change)));
                }
                Some(Pending::Remove(id)) => return Poll::Ready(Some(Ok(Change::Remove(id)))),
                None => {}
            }
            match ready!(this.updates.as_mut().poll_next(cx)) {
                Some(Ok(update)) => {
                    let before = this.members.clone();
                    this.members.apply(update, DiscoveryConfig::default().max_endpoints(), false);
                    this.changes.extend(difference(&before, this.members));
                }
                Some(Err(error)) => {
                    let service = this.service.as_str();
                    tracing::warn!(service, %error, "resolution failed; the last good endpoints stay");
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// What leads from one set to the other: newcomers first, so that a set that is replaced is never empty in between.
fn difference(before: &Members, after: &Members) -> Vec<Pending> {
    let by_key = |members: &Members| -> HashMap<u32, Member> {
        members.as_slice().iter().map(|member| (member.key, member.clone())).collect()
    };
    let (old, new) = (by_key(before), by_key(after));
    let inserted = after
        .as_slice()
        .iter()
        .filter(|member| old.get(&member.key).is_none_or(|before| !member.is_served_as(before)));
    let removed = before.as_slice().iter().filter(|member| !new.contains_key(&member.key));
    let inserted = inserted.map(|member| Pending::Insert(member.handle.clone()));
    inserted.chain(removed.map(|member| Pending::Remove(member.handle.id().clone()))).collect()
}

impl<U, C, B> fmt::Debug for AsDiscover<U, C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsDiscover").field("service", &self.service).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tower::balance::p2c::Balance;
    use tower::load::Constant;
    use tower::{Service, ServiceExt, service_fn};
    use tower_mesh_core::Endpoint;

    use super::*;
    use crate::FixedList;

    fn address(_: &(), endpoint: &EndpointHandle) -> String {
        endpoint.endpoint().address().to_owned()
    }

    fn at(id: &str, address: &str) -> Endpoint {
        address.parse::<Endpoint>().unwrap().with_id(id.parse().unwrap())
    }

    /// What is said until there is nothing more to say.
    fn said<D: Stream<Item = Result<Change<EndpointId, String>, Infallible>> + Unpin>(
        discover: &mut D,
    ) -> Vec<String> {
        let mut said = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(change))) = discover.poll_next_unpin(&mut cx) {
            said.push(match change {
                Change::Insert(id, service) => format!("+{id} {service}"),
                Change::Remove(id) => format!("-{id}"),
            });
        }
        said
    }

    #[test]
    fn only_what_changes_the_services_is_said_newcomers_first() {
        let list = FixedList::new([at("a", "a:1"), at("b", "b:1")]).unwrap();
        let mut discover = AsDiscover::new(&list, &"users".parse().unwrap(), (), address);
        assert_eq!(said(&mut discover), ["+a a:1", "+b b:1"]);
        list.set([at("a", "a:1").with_weight(std::num::NonZeroU32::new(9).unwrap()), at("c", "c:1")])
            .unwrap();
        assert_eq!(said(&mut discover), ["+c c:1", "-b"], "another weight is no change");
        list.set([at("a", "a:2"), at("c", "c:1")]).unwrap();
        assert_eq!(said(&mut discover), ["+a a:2"], "another address is");
        list.set([]).unwrap();
        assert_eq!(said(&mut discover), ["-a", "-c"]);
    }

    #[tokio::test]
    async fn towers_own_balance_follows_a_list_that_changes() {
        let list = FixedList::new([at("a", "a:1"), at("b", "b:1")]).unwrap();
        let discover =
            AsDiscover::new(&list, &"users".parse().unwrap(), (), |_: &(), endpoint: &EndpointHandle| {
                let address = endpoint.endpoint().address().to_owned();
                Constant::new(
                    service_fn(move |_: u32| std::future::ready(Ok::<_, Infallible>(address.clone()))),
                    1,
                )
            });
        let mut balance = Balance::new(discover);
        let mut seen = std::collections::HashSet::new();
        for n in 0..100 {
            seen.insert(balance.ready().await.unwrap().call(n).await.unwrap());
        }
        assert_eq!(seen.len(), 2);
        list.set([at("b", "b:2")]).unwrap();
        for n in 0..100 {
            assert_eq!(balance.ready().await.unwrap().call(n).await.unwrap(), "b:2");
        }
    }
}
