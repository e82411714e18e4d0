//! Hearing that something happened to a file: by watching the directory it is in, and by looking now and then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::{BURST, QUIET, RECHECK, RECHECK_UNWATCHED};

/// The watch over one file: of what stands in it nothing is known here. Dropping it ends the watching, and with it the thread that listens.
///
/// ```
/// # async fn f() -> std::io::Result<()> {
/// let mut watch = tower_mesh_discovery::FileWatch::new("/etc/users.toml".as_ref());
/// loop {
///     watch.changed().await;
///     let text = tokio::fs::read("/etc/users.toml").await?;
///     // what differs from the last time is news
/// #   drop(text);
/// }
/// # }
/// ```
pub struct FileWatch {
    directory: PathBuf,
    /// None while the directory cannot be watched: then looking now and then is all there is.
    watcher: Option<RecommendedWatcher>,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    something: Notify,
    /// The directory itself is gone, so that nothing more will be heard of it.
    lost: AtomicBool,
}

impl FileWatch {
    /// A watch over `file`, which need not be there. What is watched is its directory, so it may be replaced.
    pub fn new(file: &Path) -> Self {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        Self { directory, watcher: None, heard: Arc::default() }
    }

    /// Begins to watch, if it does not.
    pub(super) fn renew(&mut self) {
        if self.heard.lost.swap(false, Ordering::AcqRel) {
            self.watcher = None;
        }
        if self.watcher.is_none() {
            match self.watcher() {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    // What happened before is not heard.
                    self.heard.something.notify_one();
                }
                Err(error) => {
                    let directory = self.directory.display();
                    tracing::debug!(%directory, %error, "cannot be watched; looked at now and then");
                }
            }
        }
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        let (heard, directory) = (self.heard.clone(), self.directory.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                // Reading is an event too, ours included.
                Ok(event) if is_reading(event.kind) => return,
                Ok(event) => {
                    let of_directory = event.paths.contains(&directory);
                    let lost =
                        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
                    if of_directory && lost {
                        heard.lost.store(true, Ordering::Release);
                    }
                }
                // Perhaps something was missed, perhaps the watch itself is gone.
                Err(_) => heard.lost.store(true, Ordering::Release),
            }
            heard.something.notify_one();
        })?;
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }

    /// Waits until something has happened to the file and the burst of it is over, or it is time to look anyway: every 5 s, every second while the directory
    /// cannot be watched. It may have been something else in the directory. At once when it begins to watch, as what happened before is not heard.
    ///
    /// Needs tokio's runtime. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        self.renew();
        let something = || self.heard.something.notified();
        let recheck = if self.watcher.is_some() { RECHECK } else { RECHECK_UNWATCHED };
        if tokio::time::timeout(recheck, something()).await.is_err() {
            return;
        }
        let burst = async { while tokio::time::timeout(QUIET, something()).await.is_ok() {} };
        // Too long a burst is looked into as it is.
        let _ = tokio::time::timeout(BURST, burst).await;
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").field("directory", &self.directory).finish_non_exhaustive()
    }
}
