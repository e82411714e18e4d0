//! TLS for hyper-util's client, by rustls: who the server must be, whom to trust, and who we are.
//!
//! ```no_run
//! use std::time::Duration;
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use tower_mesh_http::tls::{Identity, Tls};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_mesh_core::BoxError> {
//! let identity = Identity::from_files("client.pem", "client.key").await?;
//! let watching = identity.watch(Duration::from_secs(10)); // to be spawned: takes over new files
//! let tls = Tls::builder()
//!     .trust_pem(std::fs::read("ca.pem")?)
//!     .server_name("users.internal") // or .spiffe_id("spiffe://example.org/users"); else the host of each endpoint's address
//!     .identity(identity)
//!     .build()?;
//! let client: Client<_, http_body_util::Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build(tls.connector());
//! # drop((watching, client)); Ok(()) }
//! ```
//!
//! One client for each [`Tls`]: connections are pooled by address, and one that was verified for a service must not serve another.
//! The connector speaks TLS only. An endpoint's address begins with `https://`, or the request's URI does: what would go in the clear is refused.
//! A handshake that fails is a connection that failed: nothing was sent, and another endpoint may be tried.

mod identity;
mod spiffe;

use std::fmt;
use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tower_mesh_core::error::{InvalidConfig, Mistakes};

pub use identity::{Identity, InvalidIdentity};

/// How connections are secured. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: ClientConfig,
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// Starts one.
    pub fn builder() -> TlsBuilder {
        TlsBuilder::default()
    }

    /// The connector for hyper-util's client: HTTP/1.1, and with the feature `http2` also HTTP/2, as the server chooses (ALPN).
    pub fn connector(&self) -> HttpsConnector<HttpConnector> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.config.clone()).https_only();
        let builder = match self.name.clone() {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => builder,
        };
        #[cfg(feature = "http2")]
        let builder = builder.enable_all_versions();
        #[cfg(not(feature = "http2"))]
        let builder = builder.enable_http1();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        builder.wrap_connector(tcp)
    }

    /// What it is for rustls, for other users of it; names the server name apart, since that is no part of it.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Puts a [`Tls`] together.
#[derive(Debug, Default)]
#[must_use = "it becomes a Tls by build"]
pub struct TlsBuilder {
    roots: Option<RootCertStore>,
    pems: Vec<Vec<u8>>,
    name: Option<String>,
    spiffe: Option<String>,
    identity: Option<Identity>,
}

impl TlsBuilder {
    /// Trusts the certificate authorities in `pem`, one or more. Needed, here or by [`trust`](Self::trust): there is no default.
    pub fn trust_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.pems.push(pem.into());
        self
    }

    /// Trusts `roots`, such as those of the system, from whichever crate.
    pub fn trust(mut self, roots: RootCertStore) -> Self {
        self.roots = Some(roots);
        self
    }

    /// The DNS name (or IP address) that the certificate of every server must bear. Default: the host of the address that is connected to.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The SPIFFE ID that the certificate of every server must bear as its one URI; then its DNS names do not matter.
    pub fn spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.spiffe = Some(id.into());
        self
    }

    /// Who we are to servers that ask. Default: nobody.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The finished one.
    ///
    /// # Errors
    /// All that is wrong with it: nobody is trusted, a PEM without certificates, a name that is none, an ID that is none, a name and an ID both.
    pub fn build(self) -> Result<Tls, InvalidConfig> {
        let mut mistakes = Mistakes::default();
        let mut roots = self.roots.unwrap_or_else(RootCertStore::empty);
        for pem in &self.pems {
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                if let Err(why) = certificate
                    .map_err(|e| e.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|e| e.to_string()))
                {
                    mistakes.unless(false, "trust_pem", why, "certificates in PEM");
                }
            }
            mistakes.unless(roots.len() > before, "trust_pem", "no certificate", "certificates in PEM");
        }
        mistakes.unless(!roots.is_empty(), "trust", "nobody", "at least one certificate authority");
        let name = self.name.as_ref().and_then(|name| match ServerName::try_from(name.clone()) {
            Ok(name) => Some(name),
            Err(_) => {
                mistakes.unless(
                    false,
                    "server_name",
                    format_args!("{name:?}"),
                    "a DNS name or an IP address",
                );
                None
            }
        });
        if let Some(id) = &self.spiffe {
            mistakes.unless(spiffe::is_id(id), "spiffe_id", format_args!("{id:?}"), spiffe::FORM);
            mistakes.unless(self.name.is_none(), "spiffe_id", "server_name beside it", "one of the two");
        }
        mistakes.finish(())?;

        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for every version of TLS");
        let builder = match self.spiffe {
            None => builder.with_root_certificates(roots),
            Some(id) => {
                let verifier = spiffe::Verifier::new(id, roots, provider);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let mut config = builder.with_client_cert_resolver(Arc::new(identity));
                // A resumed session would go on with the certificate it was begun with.
                config.resumption = rustls::client::Resumption::disabled();
                config
            }
        };
        Ok(Tls { config, name })
    }
}
