//! Putting a mesh together.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tower_mesh_core::error::{InvalidConfig, Mistake};
use tower_mesh_core::{Probe, Resolve, ServiceName};
use tower_mesh_health::{HealthConfig, HealthLayer, Prober};

use crate::authorize::{Authorize, Authorizer};
use crate::config::{Config, ConfigError, Draft, Overrides, ProbeSettings, ServiceConfig, path_of};
use crate::credentials::Credentials;
use crate::events::{Event, EventSink, Missed, Publisher};
use crate::lifecycle::{Farewell, Lifecycle};
use crate::mesh::Mesh;
use crate::part::Part;
use crate::probe;
use crate::reload::{Followed, Reloads};
use crate::resolver::{AnyResolver, Sources};

pub(crate) type AnyHealth = (HealthLayer, Prober);

pub(crate) type MakeHealth = Box<dyn FnOnce(HealthConfig) -> AnyHealth + Send>;

/// Collects the parts of a [`Mesh`]. Nothing runs, and nothing is resolved, before [`Mesh::start`].
#[derive(Default)]
#[must_use]
pub struct MeshBuilder {
    config: Given,
    resolvers: HashMap<String, AnyResolver>,
    probes: HashMap<String, MakeHealth>,
    overrides: Overrides,
    follow: bool,
    authorizer: Option<Arc<dyn Authorize>>,
    farewells: Vec<Farewell>,
    sinks: Vec<EventSink>,
    measured: bool,
}

/// Where the services and their policies are told. Texts are not read before [`MeshBuilder::build`].
#[derive(Debug)]
enum Given {
    Code(Config),
    Path(PathBuf),
    Toml(String),
    Json(String),
    #[cfg(feature = "yaml")]
    Yaml(String),
}

impl Default for Given {
    fn default() -> Self {
        Self::Code(Config::new())
    }
}

impl Given {
    fn draft(self, overrides: &Overrides) -> Result<Draft, ConfigError> {
        match self {
            Self::Code(config) => Ok(Draft::of_code(config)),
            Self::Path(path) => Draft::of_path(&path, overrides),
            Self::Toml(text) => Draft::of_toml(&text, overrides),
            Self::Json(text) => Draft::of_json(&text, overrides),
            #[cfg(feature = "yaml")]
            Self::Yaml(text) => Draft::of_yaml(&text, overrides),
        }
    }
}

impl MeshBuilder {
    /// Services and their policies, put together in code or read before. Of several configurations the last one given counts.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Given::Code(config);
        self
    }

    /// Services and their policies, read from this file by [`build`](Self::build), so that what is wrong in the file and what is wrong between the
    /// file and the builder come in one answer; `.json` is JSON, `.yaml` and `.yml` are YAML (feature `yaml`), everything else is TOML. See [`config`](crate::config) for its form.
    pub fn config_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.config = Given::Path(path.into());
        self
    }

    /// As [`config_path`](Self::config_path), for a text in TOML.
    pub fn config_toml(mut self, text: impl Into<String>) -> Self {
        self.config = Given::Toml(text.into());
        self
    }

    /// As [`config_path`](Self::config_path), for a text in JSON.
    pub fn config_json(mut self, text: impl Into<String>) -> Self {
        self.config = Given::Json(text.into());
        self
    }

    /// As [`config_path`](Self::config_path), for a text in YAML.
    #[cfg(feature = "yaml")]
    pub fn config_yaml(mut self, text: impl Into<String>) -> Self {
        self.config = Given::Yaml(text.into());
        self
    }

    /// A resolver under the name by which services of the configuration ask for it, in place of one given before under that name. One that nobody asks
    /// for is not used.
    pub fn resolver(mut self, name: impl Into<String>, resolver: impl Resolve) -> Self {
        self.resolvers.insert(name.into(), AnyResolver::new(resolver));
        self
    }

    /// How the endpoints of `service` are probed, where that is not by HTTP. The service's `health` table says when.
    pub fn probe(mut self, service: impl Into<String>, probe: impl Probe) -> Self {
        self.probes.insert(service.into(), Box::new(|config| HealthLayer::new(config, probe)));
        self
    }

    /// Asks `authorizer` before every call, after the lists of the configuration.
    pub fn authorizer(mut self, authorizer: impl Authorize) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self
    }

    /// Does this when [`Mesh::shutdown`] begins, beside waiting for the calls under way and for as long: to take this program out of a registry, for example. What is
    /// not done when the grace is over is dropped, and counted in the report. A mesh that is never shut down drops it.
    pub fn at_shutdown(mut self, farewell: impl Future<Output = ()> + Send + 'static) -> Self {
        self.farewells.push(Box::pin(farewell));
        self
    }

    /// Puts fields above those of the configuration's text or file, by default none; [`Overrides::from_env`] has them from the environment. A configuration in code
    /// is as it is.
    pub fn overrides(mut self, overrides: Overrides) -> Self {
        self.overrides = overrides;
        self
    }

    /// Has a running mesh follow its configuration's file: when that changes, it is reloaded as by [`Mesh::reload`]. What is wrong with a new one is told to
    /// `tracing` and in the [status](Mesh::status), and the old one stays.
    ///
    /// Write a new file beside it and rename that over it: then no state in between is ever seen.
    #[cfg(feature = "file")]
    pub fn follow_config(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Gives every event of the mesh to `sink`, on a task of its own that ends with the mesh: it holds up nobody, and if it is too slow it is told how much
    /// it has missed. It must not block for long, as any task. Several may be given.
    ///
    /// ```
    /// # use tower_mesh::{Event, Mesh, Missed};
    /// let builder = Mesh::builder().event_sink(|event: Result<&Event, Missed>| match event {
    ///     Ok(event) => println!("{}", serde_json::to_string(event).unwrap()),
    ///     Err(missed) => println!("{missed}"),
    /// });
    /// ```
    pub fn event_sink(mut self, sink: impl FnMut(Result<&Event, Missed>) + Send + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Measures whole calls: how long they take ([`ServiceStatus::latency`](crate::ServiceStatus::latency), and a histogram with the feature `metrics`) and how they end, by
    /// operation. It costs each call two readings of the clock and counters that all threads share, so it is off by default: attempts are counted without it.
    pub fn measure_calls(mut self) -> Self {
        self.measured = true;
        self
    }

    /// The mesh, not yet started.
    ///
    /// # Errors
    /// When the configuration cannot be read, says something that cannot be, asks for a resolver or a probe that is not there, or when a probe is
    /// given that nobody asks for; every such mistake in one answer.
    pub fn build(self) -> Result<Mesh, ConfigError> {
        let Self {
            config,
            overrides,
            resolvers,
            mut probes,
            follow,
            authorizer: own,
            farewells,
            sinks,
            measured,
        } = self;
        let followed = match &config {
            Given::Path(path) if follow => {
                Some(Followed { path: path.clone(), overrides: overrides.clone() })
            }
            _ => None,
        };
        let Draft { config, mut mistakes } = config.draft(&overrides)?;
        if follow && followed.is_none() {
            mistakes.push(Mistake::new("follow_config", "a configuration that is no file", "config_path"));
        }
        let mut sources = Sources::new(resolvers);
        let (mut found, mut credentials) = (HashMap::new(), HashMap::new());
        for (name, service) in &config.services {
            let source = sources.find(&service.source);
            let given = probes.contains_key(name.as_str());
            let loaded = service.credentials.as_ref().map(Credentials::load).transpose();
            let unloaded = loaded.as_ref().err().cloned();
            let wrong = [source.as_ref().err().cloned(), health_mistake(service, given), unloaded];
            if let Ok(Some(source)) = source {
                found.insert(name.clone(), source);
            }
            if let Ok(Some(loaded)) = loaded {
                credentials.insert(name.clone(), loaded);
            }
            let path = path_of("services", name.as_str());
            mistakes.extend(wrong.into_iter().flatten().map(|mistake| mistake.under(&path)));
        }
        let asked_for =
            |name: &str| config.services.get(name).is_some_and(|service| service.health.is_some());
        let mut unused: Vec<_> = probes.keys().filter(|name| !asked_for(name)).collect();
        unused.sort();
        mistakes.extend(unused.into_iter().map(|name| {
            let allowed = "a probe for a service that has a health table without a probe";
            Mistake::new(format!("probe({name:?})"), "a probe that is not used", allowed)
        }));
        InvalidConfig::check(mistakes)?;

        let shared = Shared {
            authorizer: Authorizer { own, identity: config.identity },
            events: Publisher::default(),
            measured,
        };
        let parts = config.services.iter().map(|(name, service)| {
            let resolver = found.remove(name).expect("a service without a source is a mistake");
            let (probe, credentials) = (probes.remove(name.as_str()), credentials.remove(name));
            let part = part(name, service, &resolver, probe, credentials, &shared);
            (name.clone(), Arc::new(part))
        });
        let parts = parts.collect();
        let reloads = Reloads::new(sources, shared.clone(), config.start_timeout, followed);
        Ok(Mesh::new(parts, reloads, Lifecycle::new(shared.events, sinks, farewells)))
    }
}

/// What all services of a mesh share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) authorizer: Authorizer,
    pub(crate) events: Publisher,
    pub(crate) measured: bool,
}

/// A service that was checked; `make` its probe, if it was given to the builder.
pub(crate) fn part(
    name: &ServiceName,
    service: &ServiceConfig,
    resolver: &AnyResolver,
    make: Option<MakeHealth>,
    credentials: Option<Credentials>,
    shared: &Shared,
) -> Part {
    let health = service.health.as_ref().map(|settings| match make {
        Some(make) => make(settings.config),
        None => probe::health(settings),
    });
    Part::new(name.clone(), service, resolver, health, credentials, shared)
}

/// What is wrong with how a service is probed; `given` if its probe was given to the builder.
pub(crate) fn health_mistake(service: &ServiceConfig, given: bool) -> Option<Mistake> {
    match (&service.health.as_ref()?.probe, given) {
        (None, true) => None,
        (None, false) => {
            Some(Mistake::new("health", "no probe", "path, http, tcp, grpc, or a probe given to the builder"))
        }
        (Some(ProbeSettings { key, .. }), true) => {
            let found = format!("{key} beside a probe given to the builder");
            Some(Mistake::new(format!("health.{key}"), found, "one of the two"))
        }
        (Some(settings), false) => settings.lacks().map(|(what, feature)| {
            let allowed = format!("nothing: this build has no such probe (feature {feature})");
            Mistake::new(format!("health.{}", settings.key), what, allowed)
        }),
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("config", &self.config)
            .field("resolvers", &self.resolvers.keys())
            .finish_non_exhaustive()
    }
}
