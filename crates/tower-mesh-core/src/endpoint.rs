//! One place where a service can be reached, as discovery describes it: an identity and attributes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

/// Who an endpoint is, apart from what is said about it today.
///
/// Whatever the layers learn (latency, circuit, health) belongs to the identity, so an endpoint that is announced
/// again with another weight, or even another address, keeps its history. Unless discovery gives a stable id of its own, the address is the id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({:?})", &*self.0)
    }
}

impl FromStr for EndpointId {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        check("id", text, Endpoint::MAX_TEXT)?;
        Ok(Self(text.into()))
    }
}

/// Plain data that discovery says of one endpoint.
///
/// ```
/// use std::num::NonZeroU32;
/// use tower_mesh_core::Endpoint;
/// let endpoint = "10.0.0.7:8080".parse::<Endpoint>()?
///     .with_weight(NonZeroU32::new(3).unwrap())
///     .with_metadata("version", "2")?;
/// assert_eq!(endpoint.id().as_str(), "10.0.0.7:8080");
/// # Ok::<(), tower_mesh_core::InvalidEndpoint>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    id: EndpointId,
    address: Arc<str>,
    weight: NonZeroU32,
    priority: u32,
    locality: Option<Arc<str>>,
    metadata: BTreeMap<String, String>,
}

impl Endpoint {
    /// The longest id, address, locality, metadata key or metadata value accepted, in bytes.
    pub const MAX_TEXT: usize = 1024;
    /// The most metadata entries one endpoint may carry.
    pub const MAX_METADATA: usize = 64;

    /// An endpoint at `address`, which is also its id.
    ///
    /// The address is whatever the user's client understands: `host:port` for HTTP, a URL, a socket path.
    ///
    /// # Errors
    /// When the address is empty, longer than [`Endpoint::MAX_TEXT`], or holds blanks or control characters.
    pub fn new(address: impl AsRef<str>) -> Result<Self, InvalidEndpoint> {
        let address = address.as_ref();
        check("address", address, Self::MAX_TEXT)?;
        let address: Arc<str> = address.into();
        Ok(Self {
            id: EndpointId(address.clone()),
            address,
            weight: NonZeroU32::MIN,
            priority: 0,
            locality: None,
            metadata: BTreeMap::new(),
        })
    }

    /// Gives the endpoint a stable id of its own, so that its history survives a change of address.
    pub fn with_id(mut self, id: EndpointId) -> Self {
        self.id = id;
        self
    }

    /// Its share of traffic relative to its peers. Default 1.
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }

    /// Its failover level: 0, the default, is used first.
    pub fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// Where it stands, for example a zone. Default none.
    ///
    /// # Errors
    /// As for an address.
    pub fn with_locality(mut self, locality: impl AsRef<str>) -> Result<Self, InvalidEndpoint> {
        check("locality", locality.as_ref(), Self::MAX_TEXT)?;
        self.locality = Some(locality.as_ref().into());
        Ok(self)
    }

    /// Adds one metadata entry, replacing one of the same key.
    ///
    /// # Errors
    /// When there are [`Endpoint::MAX_METADATA`] entries already, the key is empty, or either text is too long.
    pub fn with_metadata(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, InvalidEndpoint> {
        let (key, value) = (key.into(), value.into());
        check("metadata key", &key, Self::MAX_TEXT)?;
        if value.len() > Self::MAX_TEXT {
            return Err(InvalidEndpoint::new("metadata value", &value));
        }
        if self.metadata.len() >= Self::MAX_METADATA && !self.metadata.contains_key(&key) {
            return Err(InvalidEndpoint::new("metadata", &key));
        }
        self.metadata.insert(key, value);
        Ok(self)
    }

    /// Its identity.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Where to connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its share of traffic relative to its peers.
    pub fn weight(&self) -> NonZeroU32 {
        self.weight
    }

    /// Its failover level; 0 is used first.
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// Where it stands, if discovery said so.
    pub fn locality(&self) -> Option<&str> {
        self.locality.as_deref()
    }

    /// What else discovery said, in key order.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(address: &str) -> Result<Self, InvalidEndpoint> {
        Self::new(address)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.to_string()).expect("a socket address prints without blanks")
    }
}

fn check(field: &'static str, text: &str, max: usize) -> Result<(), InvalidEndpoint> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > max || text.chars().any(blank) {
        return Err(InvalidEndpoint::new(field, text));
    }
    Ok(())
}

/// Something discovery said of an endpoint that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidEndpoint {
    field: &'static str,
    found: String,
}

impl InvalidEndpoint {
    fn new(field: &'static str, found: &str) -> Self {
        Self { field, found: found.chars().take(64).collect() }
    }

    /// The attribute that is wrong.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for InvalidEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid endpoint {} {:?}: allowed are 1 to {} bytes without blanks or control characters, and at most {} metadata entries",
            self.field,
            self.found,
            Endpoint::MAX_TEXT,
            Endpoint::MAX_METADATA
        )
    }
}

impl std::error::Error for InvalidEndpoint {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_id_until_discovery_gives_one() {
        let plain = Endpoint::new("a:1").unwrap();
        assert_eq!(plain.id().as_str(), "a:1");
        let named = plain.with_id("pod-1".parse().unwrap());
        assert_eq!((named.id().as_str(), named.address()), ("pod-1", "a:1"));
    }

    #[test]
    fn wrong_attributes_name_the_field() {
        assert_eq!(Endpoint::new("").unwrap_err().field(), "address");
        assert_eq!(Endpoint::new("a b").unwrap_err().field(), "address");
        let endpoint = Endpoint::new("a:1").unwrap();
        assert_eq!(endpoint.clone().with_locality("").unwrap_err().field(), "locality");
        let full =
            (0..Endpoint::MAX_METADATA).fold(endpoint, |e, i| e.with_metadata(format!("k{i}"), "v").unwrap());
        assert_eq!(full.clone().with_metadata("one-more", "v").unwrap_err().field(), "metadata");
        assert_eq!(full.with_metadata("k0", "w").unwrap().metadata()["k0"], "w");
    }
}
