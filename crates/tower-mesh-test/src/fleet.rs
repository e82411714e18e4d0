//! Endpoints that are well, fail or hang when the test says so.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_mesh_core::{Endpoint, EndpointHandle};

use crate::inner::Inner;
use crate::record::Down;

/// What an endpoint does with a call, decided when the call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Behaviour {
    /// Answers at once.
    #[default]
    Healthy,
    /// Answers after that long.
    Slow(Duration),
    /// Fails at once, with [`Down`] of its address.
    Failing,
    /// Never answers.
    Hanging,
}

/// A set of endpoints, each with an [`Inner`] service that answers with the endpoint's address, and a behaviour that can be changed while in use. Clones are
/// the same fleet.
///
/// ```
/// use tower_mesh_discovery::{DiscoveryLayer, FixedList};
/// use tower_mesh_test::{Behaviour, Fleet};
/// # use tower::ServiceExt;
///
/// struct Query;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let fleet = Fleet::<Query>::new(["a:1", "b:1"]);
/// let list = FixedList::new(fleet.endpoints())?;
/// let connect = { let fleet = fleet.clone(); move |endpoint: &_| fleet.connect(endpoint) };
/// let service = DiscoveryLayer::spawn(&list, "users".parse()?).connect(connect);
///
/// fleet.set("a:1", Behaviour::Failing);
/// for _ in 0..20 {
///     let _ = service.clone().oneshot(Query).await;
/// }
/// assert!(fleet.at("a:1").calls() < fleet.at("b:1").calls(), "failing fast attracts no traffic");
/// # Ok(())
/// # }
/// ```
pub struct Fleet<Req>(Arc<BTreeMap<String, Ship<Req>>>);

struct Ship<Req> {
    handle: EndpointHandle,
    inner: Inner<Req, String>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl<Req: Send + 'static> Fleet<Req> {
    /// Healthy endpoints at `addresses`.
    ///
    /// # Panics
    /// When one of them is no address.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let ship = |address: &str| {
            let endpoint = Endpoint::new(address).expect("a test gives addresses that are right");
            (address.to_owned(), Ship::new(EndpointHandle::new(endpoint)))
        };
        Self(Arc::new(addresses.into_iter().map(ship).collect()))
    }
}

impl<Req> Fleet<Req> {
    /// From now on calls to the endpoint at `address` are met with `behaviour`. Calls under way go on as they began.
    ///
    /// # Panics
    /// When the fleet has no such address.
    pub fn set(&self, address: &str, behaviour: Behaviour) {
        *self.ship(address).behaviour() = behaviour;
    }

    /// The service at `address`: to ask it what it has seen, and to hold its readiness.
    ///
    /// # Panics
    /// When the fleet has no such address.
    pub fn at(&self, address: &str) -> &Inner<Req, String> {
        &self.ship(address).inner
    }

    /// A service for `endpoint`, to be given to a balancer or to be put a layer around.
    ///
    /// # Panics
    /// When the fleet has no such address.
    pub fn connect(&self, endpoint: &EndpointHandle) -> Inner<Req, String> {
        self.at(endpoint.endpoint().address()).clone()
    }

    /// A record for each endpoint, in the order of addresses, for layers that are tested without a balancer. A balancer makes its own.
    pub fn handles(&self) -> Vec<EndpointHandle> {
        self.0.values().map(|ship| ship.handle.clone()).collect()
    }

    /// The endpoints as discovery would announce them, in the order of addresses.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.0.values().map(|ship| ship.handle.endpoint().as_ref().clone()).collect()
    }

    /// Every breach of contract anywhere in the fleet.
    pub fn violations(&self) -> Vec<&'static str> {
        self.0.values().flat_map(|ship| ship.inner.violations()).collect()
    }

    fn ship(&self, address: &str) -> &Ship<Req> {
        self.0.get(address).unwrap_or_else(|| panic!("the fleet has no endpoint at {address}"))
    }
}

impl<Req: Send + 'static> Ship<Req> {
    fn new(handle: EndpointHandle) -> Self {
        let address = handle.endpoint().address().to_owned();
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let now = behaviour.clone();
        let inner = Inner::new(move |_, _request| {
            let (address, behaviour) = (address.clone(), *lock(&now));
            async move {
                match behaviour {
                    Behaviour::Healthy => {}
                    Behaviour::Slow(latency) => tokio::time::sleep(latency).await,
                    Behaviour::Failing => return Err(Down(address).into()),
                    Behaviour::Hanging => pending().await,
                }
                Ok(address)
            }
        });
        Self { handle, inner, behaviour }
    }
}

impl<Req> Ship<Req> {
    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        lock(&self.behaviour)
    }
}

fn lock(behaviour: &Mutex<Behaviour>) -> MutexGuard<'_, Behaviour> {
    behaviour.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Req> Clone for Fleet<Req> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Req> fmt::Debug for Fleet<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
