//! Who we are: a certificate and its key, from two files that change.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A client certificate with its key. Both are exchanged together, for handshakes from then on; connections that are there keep what they were made with. Clones
/// are the same identity.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    /// What the files said when they were last taken over, or refused.
    seen: Mutex<Seen>,
    reloads: AtomicU64,
}

struct Seen {
    /// How often the files were looked at to the end.
    looks: u64,
    files: Files,
    error: Option<String>,
}

#[derive(PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    /// Reads the certificate chain and the key of its first certificate, both in PEM.
    ///
    /// # Errors
    /// When a file cannot be read, holds none, or the key is not that of the certificate; names the file.
    pub async fn from_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, InvalidIdentity> {
        let (certificate, key) = (certificate.into(), key.into());
        let files = read(&certificate, &key).await?;
        let current = ArcSwap::from_pointee(parse(&files, &certificate, &key)?);
        let seen = Mutex::new(Seen { looks: 0, files, error: None });
        Ok(Self(Arc::new(Inner { certificate, key, current, seen, reloads: AtomicU64::new(0) })))
    }

    /// Looks at the files `every` so often and takes over what is new, until the last identity is gone. To be spawned or joined by whoever owns it; dropping it
    /// ends the watch and leaves the identity as it is. What cannot be used, such as a pair that is half written, is told once to `tracing` and left alone until
    /// the files change again.
    pub fn watch(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.0);
        async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(inner) = inner.upgrade() else { return };
                let identity = Self(inner);
                let before = identity.last_error();
                match identity.reload().await {
                    Ok(true) => {
                        tracing::info!(certificate = %identity.0.certificate.display(), "a new client certificate");
                    }
                    Ok(false) => {}
                    Err(error) if before.as_deref() == Some(&*error.to_string()) => {}
                    Err(error) => tracing::warn!(%error, "the client certificate stays the old one"),
                }
            }
        }
    }

    /// Looks at the files now: whether there was something new and it was taken over.
    ///
    /// # Errors
    /// When what is there cannot be used; the old certificate and key stay. Dropping the future leaves all as it was.
    pub async fn reload(&self) -> Result<bool, InvalidIdentity> {
        loop {
            let before = self.seen().looks;
            let read = read(&self.0.certificate, &self.0.key).await;
            if let Some(taken) = self.take_over(before, read) {
                return taken;
            }
        }
    }

    /// None if another look has ended since the one that was number `before`: which of the two has read what is newer cannot be told.
    fn take_over(
        &self,
        before: u64,
        read: Result<Files, InvalidIdentity>,
    ) -> Option<Result<bool, InvalidIdentity>> {
        let Inner { certificate, key, .. } = &*self.0;
        let mut seen = self.seen();
        if seen.looks != before {
            return None;
        }
        seen.looks += 1;
        let taken = read.and_then(|files| {
            if seen.files == files && seen.error.is_none() {
                return Ok(false);
            }
            let current = parse(&files, certificate, key)?;
            let new = seen.files != files;
            seen.files = files;
            if new {
                self.0.current.store(Arc::new(current));
                self.0.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(new)
        });
        seen.error = taken.as_ref().err().map(ToString::to_string);
        Some(taken)
    }

    /// Why the files as they are now are not in use; none if they are.
    pub fn last_error(&self) -> Option<String> {
        self.seen().error.clone()
    }

    /// How often a new pair was taken over.
    pub fn reloads(&self) -> u64 {
        self.0.reloads.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(certificate: &Path, key: &Path) -> Result<Files, InvalidIdentity> {
    let of = async |path: &Path| {
        tokio::fs::read(path).await.map_err(|error| InvalidIdentity::new(path, error.to_string()))
    };
    Ok(Files { certificate: of(certificate).await?, key: of(key).await? })
}

fn parse(files: &Files, certificate: &Path, key: &Path) -> Result<CertifiedKey, InvalidIdentity> {
    let no_certificate = |why: &dyn fmt::Display| InvalidIdentity::new(certificate, why.to_string());
    // Never what the file says: only what is wrong with it.
    let no_key = |why: &dyn fmt::Display| InvalidIdentity::new(key, why.to_string());
    let chain = CertificateDer::pem_slice_iter(&files.certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| no_certificate(&e))?;
    if chain.is_empty() {
        return Err(no_certificate(&"no certificate in PEM"));
    }
    let der = PrivateKeyDer::from_pem_slice(&files.key).map_err(|e| no_key(&e))?;
    let signer = ring::sign::any_supported_type(&der).map_err(|e| no_key(&e))?;
    let certified = CertifiedKey::new(chain, signer);
    certified
        .keys_match()
        .map_err(|e| no_key(&format_args!("not the key of {}: {e}", certificate.display())))?;
    Ok(certified)
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { certificate, key, .. } = &*self.0;
        f.debug_struct("Identity").field("certificate", certificate).field("key", key).finish_non_exhaustive()
    }
}

/// A file of an [`Identity`] that cannot be used.
#[derive(Debug)]
pub struct InvalidIdentity {
    file: PathBuf,
    why: String,
}

impl InvalidIdentity {
    fn new(file: &Path, why: String) -> Self {
        Self { file: file.to_owned(), why }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl fmt::Display for InvalidIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for InvalidIdentity {}
