//! Any source of tower's for our balancer.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use tower::discover::{Change, Discover};
use tower_layer::Layer as _;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{
    Bind, BoxError, Endpoint, EndpointHandle, EndpointId, InvalidEndpoint, ResolveError, ServiceName, Update,
};

use crate::balance::Balance;
use crate::config::DiscoveryConfig;
use crate::driver::Driver;
use crate::layer::{DiscoveryLayer, NoLayers};

impl<S> Balance<S, ByResult>
where
    S: Clone + Send + Sync + 'static,
{
    /// Spreads calls over the services that `discover` brings, taken as they come. The driver must run for it, as everywhere.
    ///
    /// The key's text is an endpoint's address in status and errors, and its id, so keys that differ must differ in their text. A service inserted anew under a key that is there takes the place of
    /// the one before and is a new endpoint: nothing is known of it yet. An error of `discover` leaves the endpoints as they are, and it is
    /// asked again; its end makes them stale. Keys whose text cannot be an address (empty, with blanks, over 1024 bytes) are told as an error
    /// and left out.
    ///
    /// ```
    /// use tower::discover::ServiceList;
    /// use tower::{Service, ServiceExt, service_fn};
    /// use tower_mesh_discovery::Balance;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower::BoxError> {
    /// let echo = service_fn(|text: &'static str| async move { Ok::<_, std::io::Error>(text) });
    /// let (mut echoes, driver) = Balance::from_discover(ServiceList::new::<&str>(vec![echo, echo]), "echo".parse()?);
    /// let driver = tokio::spawn(driver);
    /// assert_eq!(echoes.ready().await?.call("hello").await?, "hello");
    /// # drop(echoes);
    /// # driver.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_discover<D>(discover: D, service: ServiceName) -> (Self, Driver<FromDiscover<D>>)
    where
        D: Discover<Service = S>,
        D::Key: Hash + fmt::Display,
        D::Error: Into<BoxError>,
    {
        Self::from_discover_with(discover, service, DiscoveryConfig::default(), ByResult)
    }
}

impl<S, C> Balance<S, C>
where
    S: Clone + Send + Sync + 'static,
    C: Clone,
{
    /// As [`Balance::from_discover`], with other than the default knobs and judgement. There is no
    /// [`merge_window`](DiscoveryConfig::merge_window): a service is taken when it comes.
    pub fn from_discover_with<D>(
        discover: D,
        service: ServiceName,
        config: DiscoveryConfig,
        classifier: C,
    ) -> (Self, Driver<FromDiscover<D>>)
    where
        D: Discover<Service = S>,
        D::Key: Hash + fmt::Display,
        D::Error: Into<BoxError>,
    {
        let brought = Brought::default();
        let config = config.without_merging();
        let (layer, driver) =
            DiscoveryLayer::over(FromDiscover::new(discover, brought.clone()), service, config);
        let layer: DiscoveryLayer<_, NoLayers, _> = layer.bind(Taken(brought)).classify(classifier);
        (layer.layer(()), driver)
    }
}

/// The services that came and were not taken yet.
type Brought<S> = Arc<Mutex<HashMap<EndpointId, S>>>;

fn services<S>(brought: &Brought<S>) -> MutexGuard<'_, HashMap<EndpointId, S>> {
    brought.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each endpoint the service that came for it. There is one balancer, so each is asked for once: with the publication of its coming.
struct Taken<S>(Brought<S>);

impl<S> Bind<()> for Taken<S> {
    type Service = S;

    fn bind(&self, _client: &(), endpoint: &EndpointHandle) -> S {
        services(&self.0).remove(endpoint.id()).expect("an endpoint comes with its service")
    }
}

/// Newcomers said in one update, at most.
const AT_ONCE: usize = 1024;

pin_project_lite::pin_project! {
    /// What a [`Discover`] says, as our driver hears it. Made by [`Balance::from_discover`].
    pub struct FromDiscover<D>
    where
        D: Discover,
    {
        #[pin]
        discover: D,
        // Which endpoint a key stands for now.
        keys: HashMap<D::Key, EndpointId>,
        brought: Brought<D::Service>,
        // What came while newcomers were gathered, and must be said after them.
        next: Option<Result<Update, ResolveError>>,
        replaced: u64,
        ended: bool,
    }
}

impl<D> FromDiscover<D>
where
    D: Discover,
    D::Key: Hash + fmt::Display,
{
    fn new(discover: D, brought: Brought<D::Service>) -> Self {
        Self { discover, keys: HashMap::new(), brought, next: None, replaced: 0, ended: false }
    }
}

impl<D> Stream for FromDiscover<D>
where
    D: Discover,
    D::Key: Hash + fmt::Display,
    D::Error: Into<BoxError>,
{
    type Item = Result<Update, ResolveError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(next));
        }
        let mut come = Vec::new();
        // One update for all that is there at once: each makes a new set.
        let next = loop {
            if *this.ended || come.len() >= AT_ONCE {
                break None;
            }
            let change = match this.discover.as_mut().poll_discover(cx) {
                Poll::Pending if come.is_empty() => return Poll::Pending,
                Poll::Pending => break None,
                Poll::Ready(None) => {
                    *this.ended = true;
                    break None;
                }
                Poll::Ready(Some(Err(error))) => break Some(Err(ResolveError::new(error))),
                Poll::Ready(Some(Ok(change))) => change,
            };
            match change {
                Change::Insert(key, service) => {
                    let before = this.keys.get(&key);
                    let endpoint = match endpoint(&key, before.is_some().then_some(*this.replaced)) {
                        Ok(endpoint) => endpoint,
                        Err(error) => break Some(Err(ResolveError::new(error))),
                    };
                    *this.replaced += u64::from(before.is_some());
                    services(this.brought).insert(endpoint.id().clone(), service);
                    let before = this.keys.insert(key, endpoint.id().clone());
                    come.push(endpoint);
                    // After the one that takes its place, so that the set is never empty in between.
                    if let Some(before) = before {
                        break Some(Ok(Update::Remove(vec![before])));
                    }
                }
                Change::Remove(key) => {
                    let Some(id) = this.keys.remove(&key) else { continue };
                    break Some(Ok(Update::Remove(vec![id])));
                }
            }
        };
        if let Some(Ok(Update::Remove(gone))) = &next {
            // Still there only if it came just now or was over the bound.
            for id in gone {
                come.retain(|endpoint| endpoint.id() != id);
                let untaken = services(this.brought).remove(id);
                drop(untaken);
            }
        }
        match (come.is_empty(), next) {
            (false, next) => {
                *this.next = next;
                Poll::Ready(Some(Ok(Update::Upsert(come))))
            }
            (true, Some(next)) => Poll::Ready(Some(next)),
            (true, None) => Poll::Ready(None),
        }
    }
}

/// The endpoint that a key stands for; one that takes the place of another gets an id of its own.
fn endpoint(key: &impl fmt::Display, replaced: Option<u64>) -> Result<Endpoint, InvalidEndpoint> {
    let address = key.to_string();
    let endpoint = Endpoint::new(&address)?;
    match replaced {
        None => Ok(endpoint),
        Some(n) => Ok(endpoint.with_id(format!("{address}#{}", n + 2).parse()?)),
    }
}

impl<D> fmt::Debug for FromDiscover<D>
where
    D: Discover,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromDiscover").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's runtime ends with it")]
mod tests {
    use std::future::{Ready, ready};

    use tokio::sync::mpsc;
    use tower::discover::ServiceList;
    use tower::{Service, ServiceExt};
    use tower_mesh_core::error::find;

    use super::*;
    use crate::{DiscoveryState, NoEndpoints, NoEndpointsReason};

    /// Answers with its name.
    #[derive(Clone, Debug, PartialEq)]
    struct Named(&'static str);

    impl Service<u32> for Named {
        type Response = &'static str;
        type Error = BoxError;
        type Future = Ready<Result<&'static str, BoxError>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: u32) -> Self::Future {
            ready(Ok(self.0))
        }
    }

    type Said = Result<Change<&'static str, Named>, BoxError>;

    fn scripted()
    -> (mpsc::UnboundedSender<Said>, impl Discover<Key = &'static str, Service = Named, Error = BoxError>)
    {
        let (say, said) = mpsc::unbounded_channel::<Said>();
        (say, futures_util::stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) }))
    }

    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    async fn answers(balance: &Balance<Named, ByResult>) -> Vec<&'static str> {
        let mut seen = Vec::new();
        for n in 0..50 {
            seen.push(balance.clone().oneshot(n).await.unwrap());
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn services_are_taken_as_they_come_replaced_and_dropped() {
        let (say, discover) = scripted();
        let (balance, driver) = Balance::from_discover(discover, "users".parse().unwrap());
        let driver = tokio::spawn(driver);
        say.send(Ok(Change::Insert("a", Named("a")))).unwrap();
        say.send(Ok(Change::Insert("b", Named("b")))).unwrap();
        assert_eq!(answers(&balance).await, ["a", "b"]);
        let of_b = balance.status().endpoints[1].clone();

        say.send(Ok(Change::Insert("a", Named("new a")))).unwrap();
        settle().await;
        assert_eq!(answers(&balance).await, ["b", "new a"]);
        let status = balance.status();
        assert!(status.endpoints.iter().any(|now| now.key() == of_b.key()), "b is who it was");
        assert_eq!(status.endpoints.iter().filter(|now| now.endpoint().address() == "a").count(), 1);

        say.send(Ok(Change::Remove("a"))).unwrap();
        say.send(Err("the registry is down".into())).unwrap();
        settle().await;
        assert_eq!((answers(&balance).await, balance.status().state), (vec!["b"], DiscoveryState::Stale));

        say.send(Ok(Change::Remove("b"))).unwrap();
        settle().await;
        let error = balance.clone().oneshot(0).await.unwrap_err();
        assert_eq!(find::<NoEndpoints>(&*error).unwrap().reason(), NoEndpointsReason::Empty);
        drop(balance);
        driver.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_of_towers_is_one_update_and_stays_when_it_has_ended() {
        let (balance, driver) = Balance::from_discover(
            ServiceList::new::<u32>(vec![Named("a"), Named("b"), Named("c")]),
            "users".parse().unwrap(),
        );
        tokio::spawn(driver);
        assert_eq!(answers(&balance).await, ["a", "b", "c"]);
        let status = balance.status();
        assert_eq!((status.version, status.state), (1, DiscoveryState::Stale));
    }

    #[tokio::test]
    async fn nobody_keeps_a_service_that_was_not_taken() {
        let (say, discover) = scripted();
        let brought = Brought::default();
        let mut updates = std::pin::pin!(FromDiscover::new(discover, brought.clone()));
        let mut next = || match updates.as_mut().poll_next(&mut Context::from_waker(std::task::Waker::noop()))
        {
            Poll::Ready(Some(Ok(update))) => Some(update),
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            _ => None,
        };
        for change in
            [Change::Insert("a", Named("a")), Change::Insert("a", Named("again")), Change::Remove("a")]
        {
            say.send(Ok(change)).unwrap();
        }
        let mut here = std::collections::BTreeSet::new();
        while let Some(update) = next() {
            match update {
                Update::Upsert(come) => here.extend(come.iter().map(|endpoint| endpoint.id().clone())),
                Update::Remove(gone) => here.retain(|id| !gone.contains(id)),
                other => panic!("{other:?}"),
            }
        }
        assert!(here.is_empty() && services(&brought).is_empty(), "{here:?}");
    }
}
