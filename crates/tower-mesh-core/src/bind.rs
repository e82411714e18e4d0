//! From a client that can reach any address to the service of one endpoint.

use crate::handle::EndpointHandle;

/// Makes one endpoint's service out of the user's client `C`.
///
/// Any `Fn(&C, &EndpointHandle) -> S` is one. It runs off the call path, once for each endpoint that appears or moves to another address, and must neither block nor
/// connect: the service it gives connects when it is first used.
///
/// ```
/// use tower_mesh_core::{Bind, EndpointHandle};
/// #[derive(Clone)]
/// struct Client;
/// struct Tagged(Client, String);
/// fn check<C, B: Bind<C>>(_: B) {}
/// check::<Client, _>(|client: &Client, endpoint: &EndpointHandle| {
///     Tagged(client.clone(), endpoint.endpoint().address().to_owned())
/// });
/// ```
pub trait Bind<C> {
    /// The endpoint's service.
    type Service;

    /// The service that reaches `endpoint` through `client`.
    fn bind(&self, client: &C, endpoint: &EndpointHandle) -> Self::Service;
}

impl<C, S, F: Fn(&C, &EndpointHandle) -> S> Bind<C> for F {
    type Service = S;

    fn bind(&self, client: &C, endpoint: &EndpointHandle) -> S {
        self(client, endpoint)
    }
}

/// Every endpoint gets a clone of the client as it is: for a client that looks at nothing of the endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameClient;

impl<C: Clone> Bind<C> for SameClient {
    type Service = C;

    fn bind(&self, client: &C, _endpoint: &EndpointHandle) -> C {
        client.clone()
    }
}
