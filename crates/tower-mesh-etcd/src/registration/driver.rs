//! The background work of a registration: a lease, a key under it, and a sign of life now and then.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tower_mesh_core::backoff::Chance;

use super::{RegistrationState, RegistrationStatus, Wanted};
use crate::connections::{Connections, bounded};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::policy::failures::Failures;

/// The background work of a [`Registration`](crate::Registration): spawn it, or join it with other drivers. It ends when the key was taken out or could not be.
#[must_use = "nothing is registered unless the driver is polled"]
pub struct RegistrationDriver(BoxFuture<'static, ()>);

impl RegistrationDriver {
    pub(super) fn new(
        connections: Connections,
        key: String,
        wanted: watch::Receiver<Wanted>,
        status: watch::Sender<RegistrationStatus>,
    ) -> Self {
        Self(Driving { connections, key, wanted, status }.run().boxed())
    }
}

impl Future for RegistrationDriver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for RegistrationDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationDriver")
    }
}

struct Driving {
    connections: Connections,
    key: String,
    wanted: watch::Receiver<Wanted>,
    status: watch::Sender<RegistrationStatus>,
}

/// A lease that is kept alive.
struct Lease {
    id: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    /// How long the server gives it.
    ttl: Duration,
    /// When the server last said that it lives.
    alive_at: Instant,
}

impl Driving {
    async fn run(mut self) {
        let mut failures = Failures::default();
        loop {
            if self.is_over() {
                // Nothing stands there that a lease does not end.
                let held = self.status.borrow().state == RegistrationState::Failing;
                let over = if held { RegistrationState::Abandoned } else { RegistrationState::Removed };
                return self.tell(|status| status.state = over);
            }
            if self.status.borrow().state == RegistrationState::NotDriven {
                self.tell(|status| status.state = RegistrationState::Registering);
            }
            let mut registered_at = None;
            let Err(error) = self.hold(&mut registered_at).await else { return };
            failures.failed(registered_at.map(|at| at.elapsed()), &self.connections.config);
            tracing::warn!(key = self.key, %error, "registration failed; tried again");
            self.tell(|status| {
                status.state = RegistrationState::Failing;
                status.last_error = Some(error.to_string());
            });
            let chance = Chance::Uniform(fastrand::f64());
            let delay = failures.wait(&self.connections.config, chance).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = removed(&mut self.wanted) => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        *self.wanted.borrow() == Wanted::Nothing || self.wanted.has_changed().is_err()
    }

    fn tell(&self, change: impl FnOnce(&mut RegistrationStatus)) {
        self.status.send_modify(change);
    }

    /// Registers, says when, and keeps that up until it is over (`Ok`) or something is wrong.
    async fn hold(&mut self, registered_at: &mut Option<Instant>) -> Result<(), EtcdError> {
        let client = self.connections.get(&self.key).await?;
        // Always a new one: the key moves to it from an old one that may still live.
        let mut lease = self.lease(&client).await?;
        self.put(&client, lease.id).await?;
        *registered_at = Some(Instant::now());
        self.tell(|status| {
            status.state = RegistrationState::Registered;
            status.renewed += u64::from(status.lease.is_some());
            status.lease = Some(lease.id);
            status.last_error = None;
        });
        tracing::debug!(key = self.key, lease = lease.id, "registered");
        loop {
            if self.is_over() {
                self.give_back(&client, lease.id).await;
                return Ok(());
            }
            tokio::select! {
                // Whatever the server says unasked, and that the connection is gone.
                answer = lease.answers.message() => self.heard(&mut lease, answer)?,
                () = tokio::time::sleep_until(lease.alive_at + lease.ttl / 3) => self.keep(&mut lease).await?,
                // An error says that all handles are gone, by which it is over.
                changed = self.wanted.changed() => if changed.is_ok() {
                    self.put(&client, lease.id).await?;
                },
            }
        }
    }

    async fn lease(&self, client: &Client) -> Result<Lease, EtcdError> {
        let (key, config) = (&self.key, &self.connections.config);
        let seconds = config.ttl().as_secs() + u64::from(config.ttl().subsec_nanos() > 0);
        let mut leases = client.lease_client();
        let granted = leases.grant(i64::try_from(seconds).unwrap_or(i64::MAX), None);
        let granted = bounded(config.timeout(), key, granted).await?;
        let (id, alive_at) = (granted.id(), Instant::now());
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(1).max(1));
        let (keeper, answers) = bounded(config.timeout(), key, leases.keep_alive(id)).await?;
        Ok(Lease { id, keeper, answers, ttl, alive_at })
    }

    async fn put(&mut self, client: &Client, lease: i64) -> Result<(), EtcdError> {
        let Wanted::Value(value) = self.wanted.borrow_and_update().clone() else { return Ok(()) };
        let mut kv = client.kv_client();
        let put = kv.put(self.key.as_bytes(), value, Some(PutOptions::new().with_lease(lease)));
        bounded(self.connections.config.timeout(), &self.key, put).await?;
        Ok(())
    }

    /// Asks for the lease to live on, and waits for the answer.
    async fn keep(&self, lease: &mut Lease) -> Result<(), EtcdError> {
        let bound = self.connections.config.timeout();
        let asked = async {
            lease.keeper.keep_alive().await?;
            lease.answers.message().await
        };
        let answer = tokio::time::timeout(bound, asked).await;
        let answer = answer.map_err(|_| EtcdError::timeout(&self.key))?;
        self.heard(lease, answer)
    }

    fn heard(
        &self,
        lease: &mut Lease,
        answer: Result<Option<etcd_client::LeaseKeepAliveResponse>, etcd_client::Error>,
    ) -> Result<(), EtcdError> {
        match answer {
            Ok(Some(alive)) if alive.ttl() > 0 => {
                lease.alive_at = Instant::now();
                Ok(())
            }
            Ok(Some(_)) => {
                let why = format!("lease {} is no more", lease.id);
                Err(EtcdError::new(&self.key, EtcdErrorKind::LeaseLost, why))
            }
            Ok(None) => {
                Err(EtcdError::new(&self.key, EtcdErrorKind::Failed, "the server ended the signs of life"))
            }
            Err(error) => Err(EtcdError::of_client(&self.key, error)),
        }
    }

    /// Ends the lease, and the key with it.
    async fn give_back(&self, client: &Client, lease: i64) {
        let mut leases = client.lease_client();
        let revoked = bounded(self.connections.config.timeout(), &self.key, leases.revoke(lease)).await;
        self.tell(|status| match revoked {
            Ok(_) => status.state = RegistrationState::Removed,
            Err(error) => {
                status.state = RegistrationState::Abandoned;
                status.last_error = Some(error.to_string());
            }
        });
    }
}

/// Waits until the registration is to end.
async fn removed(wanted: &mut watch::Receiver<Wanted>) {
    // An error says that nobody is there any more who wants it.
    let _ = wanted.wait_for(|wanted| *wanted == Wanted::Nothing).await;
}
