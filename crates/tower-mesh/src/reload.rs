//! Another configuration for a mesh that runs: checked as a whole, then applied as what differs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tower_mesh_core::ServiceName;
use tower_mesh_core::error::{InvalidConfig, Mistake};

use crate::builder::{self, Shared};
use crate::config::{Config, ConfigError, Draft, Overrides, ServiceConfig, path_of};
use crate::credentials::Credentials;
use crate::events::EventKind;
use crate::mesh::Parts;
use crate::part::Part;
use crate::resolver::Sources;
use crate::status::ConfigStatus;

/// What a [reload](crate::Mesh::reload) has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    added: Vec<ServiceName>,
    removed: Vec<ServiceName>,
    changed: BTreeMap<ServiceName, Vec<&'static str>>,
}

impl Reloaded {
    /// Services that were not there before.
    pub fn added(&self) -> &[ServiceName] {
        &self.added
    }

    /// Services that are no longer there.
    pub fn removed(&self) -> &[ServiceName] {
        &self.removed
    }

    /// The other services that differ, each with the names of the tables and fields that do.
    pub fn changed(&self) -> &BTreeMap<ServiceName, Vec<&'static str>> {
        &self.changed
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// What a mesh keeps for its reloads.
pub(crate) struct Reloads {
    sources: Mutex<Sources>,
    shared: Shared,
    start_timeout: Duration,
    followed: Option<Followed>,
    /// One at a time, and no lock that is held while others' code runs.
    busy: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// Taken out, with calls under way perhaps.
    gone: Mutex<Vec<Arc<Part>>>,
}

/// A file, and what stands above its fields.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) path: PathBuf,
    #[cfg_attr(not(feature = "file"), expect(dead_code, reason = "no file is followed"))]
    pub(crate) overrides: Overrides,
}

/// A reload is under way.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Reloads {
    pub(crate) fn new(
        sources: Sources,
        shared: Shared,
        start_timeout: Duration,
        followed: Option<Followed>,
    ) -> Self {
        Self {
            sources: Mutex::new(sources),
            shared,
            start_timeout,
            followed,
            busy: AtomicBool::new(false),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_error: Mutex::default(),
            gone: Mutex::default(),
        }
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        self.start_timeout
    }

    /// The file that is followed, if one is.
    #[cfg(feature = "file")]
    pub(crate) fn followed(&self) -> Option<&Followed> {
        self.followed.as_ref()
    }

    pub(crate) fn status(&self) -> ConfigStatus {
        ConfigStatus {
            followed: self.followed.as_ref().map(|followed| followed.path.display().to_string()),
            reloads: self.done.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
        }
    }

    /// The calls under way of services that were taken out.
    pub(crate) fn gone_under_way(&self) -> u64 {
        self.let_go();
        lock(&self.gone).iter().map(|part| part.under_way()).sum()
    }

    /// Keeps of the services that were taken out only those that have calls.
    fn let_go(&self) {
        let idle: Vec<_> = lock(&self.gone).extract_if(.., |part| part.under_way() == 0).collect();
        // Not under the lock: with a service may go the client of its user.
        drop(idle);
    }

    pub(crate) fn reload(
        &self,
        config: Config,
        parts: &ArcSwap<Parts>,
        start: impl Fn(&Part),
        forget: impl Fn(&ServiceName),
    ) -> Result<Reloaded, ConfigError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(ConfigError::Busy);
        }
        let _busy = Busy(&self.busy);
        let result =
            self.checked(config, &parts.load_full()).map(|plan| plan.apply(self, parts, start, forget));
        self.note(result.as_ref());
        result
    }

    /// Remembers how a reload ended, for the status.
    pub(crate) fn note(&self, result: Result<&Reloaded, &ConfigError>) {
        let names = |names: &[ServiceName]| names.iter().map(ToString::to_string).collect();
        match result {
            Ok(reloaded) if reloaded.is_empty() => {}
            Ok(Reloaded { added, removed, changed }) => {
                self.shared.events.tell(None, || EventKind::Reloaded {
                    added: names(added),
                    removed: names(removed),
                    changed: changed
                        .iter()
                        .map(|(name, fields)| (name.to_string(), fields.clone()))
                        .collect(),
                });
            }
            Err(error) => {
                self.shared.events.tell(None, || EventKind::ReloadRefused { error: error.to_string() });
            }
        }
        match result {
            Ok(reloaded) if reloaded.is_empty() => {}
            Ok(_) => _ = self.done.fetch_add(1, Ordering::Relaxed),
            Err(_) => _ = self.refused.fetch_add(1, Ordering::Relaxed),
        }
        *lock(&self.last_error) = result.err().map(ToString::to_string);
    }

    fn checked(&self, config: Config, parts: &Parts) -> Result<Plan, ConfigError> {
        let Draft { config, mut mistakes } = Draft::of_code(config);
        if config.identity != self.shared.authorizer.identity {
            let found = config.identity.map_or("none", |identity| identity.as_str());
            let allowed = "what it was started with: this takes a restart";
            mistakes.push(Mistake::new("identity", found, allowed));
        }
        let mut plan = Plan { next: Parts::new(), differing: Vec::new(), report: Reloaded::default() };
        for (name, service) in config.services {
            let path = path_of("services", name.as_str());
            let mut wrong = Vec::new();
            match parts.get(&name) {
                Some(part) => {
                    let changed = part.differing(&service, &mut wrong);
                    let credentials = part.other_credentials(&service);
                    wrong.extend(credentials.as_ref().err().cloned());
                    plan.next.insert(name.clone(), part.clone());
                    if !changed.is_empty() {
                        plan.differing.push((part.clone(), service, credentials.ok().flatten()));
                        plan.report.changed.insert(name, changed);
                    }
                }
                None => match self.new_part(&name, &service) {
                    Ok(part) => {
                        plan.next.insert(name.clone(), Arc::new(part));
                        plan.report.added.push(name);
                    }
                    Err(mistakes) => wrong = mistakes,
                },
            }
            mistakes.extend(wrong.into_iter().map(|mistake| mistake.under(&path)));
        }
        InvalidConfig::check(mistakes)?;
        plan.report.removed = parts.keys().filter(|name| !plan.next.contains_key(*name)).cloned().collect();
        Ok(plan)
    }

    fn new_part(&self, name: &ServiceName, service: &ServiceConfig) -> Result<Part, Vec<Mistake>> {
        // What is wrong with the source's own words was told already.
        let source = lock(&self.sources).find(&service.source);
        let mut wrong = Vec::from_iter(builder::health_mistake(service, false));
        let credentials = service.credentials.as_ref().map(Credentials::load).transpose();
        let credentials = credentials.map_err(|mistake| wrong.push(mistake));
        match (source, credentials) {
            (Ok(Some(resolver)), Ok(credentials)) if wrong.is_empty() => {
                Ok(builder::part(name, service, &resolver, None, credentials, &self.shared))
            }
            (source, _) => Err(source.err().into_iter().chain(wrong).collect()),
        }
    }
}

/// Reloads the mesh whenever its file says something else, for as long as there is the mesh.
#[cfg(feature = "file")]
pub(crate) async fn follow(mesh: std::sync::Weak<crate::mesh::Inner>, followed: Followed) {
    const AGAIN: Duration = Duration::from_millis(100);

    let Followed { path, overrides } = followed;
    let mut watch = tower_mesh_discovery::FileWatch::new(&path);
    // None: what was read when the mesh was built may be another one by now.
    let mut seen = None;
    loop {
        if seen.is_some() {
            watch.changed().await;
        }
        let text = tokio::fs::read(&path).await.ok();
        if seen.as_ref() == Some(&text) {
            continue;
        }
        seen = Some(text);
        let Some(inner) = mesh.upgrade() else { return };
        let result = match Config::from_path_with(&path, &overrides) {
            Ok(config) => inner.reload(config).map(|_| ()),
            Err(error) => {
                inner.reloads.note(Err(&error));
                Err(error)
            }
        };
        if matches!(result, Err(ConfigError::Busy)) {
            // Somebody else's is under way: this one's turn comes after it.
            seen = None;
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        if let Err(error) = result {
            let path = path.display();
            tracing::error!(%path, %error, "the configuration is refused, and the old one stays");
        }
    }
}

/// What a reload will do; nothing of it can fail.
struct Plan {
    next: Parts,
    differing: Vec<(Arc<Part>, ServiceConfig, Option<Credentials>)>,
    report: Reloaded,
}

impl Plan {
    fn apply(
        self,
        reloads: &Reloads,
        parts: &ArcSwap<Parts>,
        start: impl Fn(&Part),
        forget: impl Fn(&ServiceName),
    ) -> Reloaded {
        let Self { next, differing, report } = self;
        for (part, config, credentials) in differing {
            part.reload(&config, credentials.as_ref());
        }
        let next = Arc::new(next);
        let before = parts.swap(next.clone());
        for name in &report.removed {
            if let Some(part) = before.get(name) {
                part.leave();
                lock(&reloads.gone).push(part.clone());
                forget(name);
            }
        }
        reloads.let_go();
        report.added.iter().filter_map(|name| next.get(name)).for_each(|part| start(part));
        if !report.is_empty() {
            tracing::info!(added = ?report.added, removed = ?report.removed, changed = ?report.changed, "configuration reloaded");
        }
        report
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
