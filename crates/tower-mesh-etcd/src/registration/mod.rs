//! Being among the endpoints of a service, for as long as the process lives.

mod driver;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tower_mesh_core::{Endpoint, ServiceName};

pub use self::driver::RegistrationDriver;
use crate::config::EtcdConfig;
use crate::connections::Connections;
use crate::key;

/// An endpoint that is kept in etcd under a lease, by the [`RegistrationDriver`] that was made with it. Clones speak of the same.
///
/// [`remove`](Self::remove) takes it out. If all handles are dropped instead, the driver takes it out by itself; if the driver is dropped, or the process dies, the key goes when the lease has
/// run out, after [`EtcdConfig::ttl`].
#[derive(Clone)]
pub struct Registration {
    key: String,
    /// Long enough for the driver to end, whatever it is at.
    patience: Duration,
    wanted: watch::Sender<Wanted>,
    status: watch::Receiver<RegistrationStatus>,
}

/// What is to stand at the key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    Value(Vec<u8>),
    Nothing,
}

/// How far a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The driver was not polled yet.
    NotDriven,
    /// The key is being put.
    Registering,
    /// The key is there, and its lease is kept alive.
    Registered,
    /// Something went wrong, and it is tried again: [`last_error`](RegistrationStatus::last_error) says what. The key may still be there, until its lease has run out.
    Failing,
    /// The key was taken out, as asked.
    Removed,
    /// It was to be taken out, but etcd could not be told: the key goes when its lease has run out.
    Abandoned,
}

/// What is known of a registration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistrationStatus {
    /// How far it is.
    pub state: RegistrationState,
    /// The lease under which the key stands, or last stood.
    pub lease: Option<i64>,
    /// How often the key was put under a new lease after the first.
    pub renewed: u64,
    /// Why it last failed; none since it succeeded.
    pub last_error: Option<String>,
}

impl Registration {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How far it is. Reading changes nothing.
    pub fn status(&self) -> RegistrationStatus {
        self.status.borrow().clone()
    }

    /// Waits until the key is there, or the driver has ended. Not bounded by itself.
    pub async fn registered(&self) -> RegistrationStatus {
        self.reaches(|state| state == RegistrationState::Registered).await;
        self.status()
    }

    /// Says other attributes, or another address, of the same endpoint: its id stays that of the first. The driver puts them.
    ///
    /// # Errors
    /// When the value would be longer than those that are read. What was said before stays.
    pub fn update(&self, endpoint: &Endpoint) -> Result<(), InvalidRegistration> {
        let value = value(endpoint)?;
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != Wanted::Nothing;
            if news {
                *wanted = Wanted::Value(value);
            }
            news
        });
        Ok(())
    }

    /// Takes the key out by giving its lease back, after which the driver ends. Within twice [`EtcdConfig::timeout`]. Dropped earlier, it is done by the driver all the same.
    ///
    /// # Errors
    /// When etcd could not be told, or no driver runs. The key goes then when its lease has run out.
    pub async fn remove(&self) -> Result<(), NotRemoved> {
        self.wanted.send_replace(Wanted::Nothing);
        let ended = self.reaches(|_| false);
        let driven = tokio::time::timeout(self.patience, ended).await.is_ok();
        let status = self.status();
        match status.state {
            RegistrationState::Removed => Ok(()),
            _ => Err(NotRemoved { key: self.key.clone(), driven, cause: status.last_error }),
        }
    }

    /// Waits for a state, or until the driver is gone.
    async fn reaches(&self, is: impl Fn(RegistrationState) -> bool) {
        let mut status = self.status.clone();
        // An error says that there is no driver any more.
        let _ = status.wait_for(|status| is(status.state)).await;
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("key", &self.key)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

pub(crate) fn new(
    connections: Connections,
    service: &ServiceName,
    endpoint: &Endpoint,
) -> Result<(Registration, RegistrationDriver), InvalidRegistration> {
    let value = value(endpoint)?;
    let key = key::prefix_of(&connections.config, service) + &key::part_of(endpoint.id());
    let patience = connections.config.timeout() * 2 + Duration::from_millis(100);
    let (wanted, to_do) = watch::channel(Wanted::Value(value));
    let (said, status) = watch::channel(RegistrationStatus {
        state: RegistrationState::NotDriven,
        lease: None,
        renewed: 0,
        last_error: None,
    });
    let driver = RegistrationDriver::new(connections, key.clone(), to_do, said);
    Ok((Registration { key, patience, wanted, status }, driver))
}

fn value(endpoint: &Endpoint) -> Result<Vec<u8>, InvalidRegistration> {
    let value = key::write(endpoint);
    if value.len() > EtcdConfig::MAX_VALUE {
        return Err(InvalidRegistration { bytes: value.len() });
    }
    Ok(value)
}

/// An endpoint that nobody would read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRegistration {
    bytes: usize,
}

impl fmt::Display for InvalidRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed = EtcdConfig::MAX_VALUE;
        write!(f, "an endpoint of {} bytes cannot be registered: allowed are {allowed}", self.bytes)
    }
}

impl std::error::Error for InvalidRegistration {}

/// A key that could not be taken out. It goes when its lease has run out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRemoved {
    key: String,
    driven: bool,
    cause: Option<String>,
}

impl fmt::Display for NotRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not taken out and goes when its lease has run out: ", self.key)?;
        match (&self.cause, self.driven) {
            (Some(cause), _) => f.write_str(cause),
            (None, true) => f.write_str("its driver ended before"),
            (None, false) => f.write_str("its driver does not run"),
        }
    }
}

impl std::error::Error for NotRemoved {}
