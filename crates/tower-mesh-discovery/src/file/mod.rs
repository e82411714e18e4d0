//! A list of endpoints in a file that is watched.

mod read;
mod watch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tower_mesh_core::error::InvalidConfig;
use tower_mesh_core::{BoxError, Endpoint, Resolve, ResolveError, ServiceName, Update};

pub use self::watch::FileWatch;

/// The endpoints stand in a file, and follow it: `.json` is JSON, everything else TOML. It answers every service name with the same list.
///
/// ```toml
/// endpoints = [
///     "10.0.0.1:8080",                                     # an address alone
///     { address = "10.0.0.2:8080", id = "users-2", weight = 3, priority = 1, locality = "eu-1a", metadata = { version = "2" } },
/// ]
/// ```
///
/// Read strictly: an unknown field, a wrong type or an endpoint that stands there twice is a mistake, and all mistakes of the file are told in one
/// [`FileError`]. Whatever is wrong, gone or half-written leaves the last good list in use and is the source's error until the file is right again; only a
/// list that is there and empty empties the set.
///
/// Write a new file beside it and rename that over it: then no state in between is ever seen. A file written in place is read when nothing has happened
/// to it for 50 ms. What is watched is the directory, so the file may be missing, be replaced, or be a link that is set elsewhere. It is looked at
/// again every 5 s as well, for file systems that tell nothing, and every second while the directory cannot be watched.
///
/// The stream reads when it is polled, needs tokio's runtime, and stops watching when it is dropped.
///
/// ```
/// use tower_mesh_discovery::{DiscoveryLayer, FileList};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let (discovery, driver) = DiscoveryLayer::new(&FileList::new("/etc/users/endpoints.toml"), "users".parse()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FileList {
    path: PathBuf,
}

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A burst of changes is over when nothing has happened for this long,
const QUIET: Duration = Duration::from_millis(50);

/// but is not waited for longer than this.
const BURST: Duration = Duration::from_secs(1);

/// How often the file is looked at though nothing was told.
const RECHECK: Duration = Duration::from_secs(5);

/// The same while its directory cannot be watched, perhaps because it is not there.
const RECHECK_UNWATCHED: Duration = Duration::from_secs(1);

impl FileList {
    /// The list in the file at `path`, which need not exist yet. A relative path is taken from the directory that is current when resolution begins.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file once. Blocks while it does.
    ///
    /// # Errors
    /// When it cannot be read, or says something that cannot be.
    pub fn read(&self) -> Result<Vec<Endpoint>, FileError> {
        let unreadable = |error| FileError::Unreadable { path: self.path.clone(), error };
        let size = std::fs::metadata(&self.path).map_err(unreadable)?.len();
        let text = check_size(size).and_then(|()| std::fs::read(&self.path)).map_err(unreadable)?;
        read::read(&self.path, &text)
    }
}

fn check_size(size: u64) -> io::Result<()> {
    if size > MAX_BYTES {
        let reason = format!("it has {size} bytes, allowed are {MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(())
}

impl Resolve for FileList {
    type Updates = BoxStream<'static, Result<Update, ResolveError>>;

    fn resolve(&self, _service: &ServiceName) -> Self::Updates {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let following = Following { watch: FileWatch::new(&path), path, said: None };
        stream::unfold(following, |mut following| async {
            let said = following.next().await;
            Some((said, following))
        })
        .boxed()
    }
}

/// A file that is followed.
struct Following {
    path: PathBuf,
    watch: FileWatch,
    /// What the file held, or why it could not be read, when something was last said of it.
    said: Option<Result<Vec<u8>, String>>,
}

impl Following {
    async fn next(&mut self) -> Result<Update, ResolveError> {
        loop {
            // Listening begins before reading, so that a change in between is heard.
            self.watch.renew();
            if self.said.is_some() {
                self.watch.changed().await;
            }
            let found = self.look().await;
            let held = found.as_ref().map(Vec::clone).map_err(ToString::to_string);
            if self.said.as_ref() == Some(&held) {
                continue;
            }
            self.said = Some(held);
            let unreadable = |error| FileError::Unreadable { path: self.path.clone(), error };
            let endpoints = found.map_err(unreadable).and_then(|text| read::read(&self.path, &text));
            return endpoints.map(Update::Reset).map_err(ResolveError::new);
        }
    }

    async fn look(&self) -> io::Result<Vec<u8>> {
        check_size(tokio::fs::metadata(&self.path).await?.len())?;
        tokio::fs::read(&self.path).await
    }
}

/// A list of endpoints that cannot be used. The last good one stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// The file is not there or cannot be read.
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is not TOML, or not JSON: perhaps half-written.
    Malformed {
        /// Its path.
        path: PathBuf,
        /// What the parser says, with the place.
        error: BoxError,
    },
    /// It says something that cannot be.
    Invalid {
        /// Its path.
        path: PathBuf,
        /// All of it.
        error: InvalidConfig,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(f, "cannot read endpoints from {}: {error}", path.display())
            }
            Self::Malformed { path, error } => {
                write!(f, "cannot parse endpoints in {}: {error}", path.display())
            }
            Self::Invalid { path, error } => write!(f, "in {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self {
            Self::Unreadable { error, .. } => error,
            Self::Malformed { error, .. } => &**error,
            Self::Invalid { error, .. } => error,
        })
    }
}
