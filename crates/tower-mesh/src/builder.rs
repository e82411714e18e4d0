//! Putting a mesh together.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use tower_mesh_core::error::{InvalidConfig, Mistake};
use tower_mesh_core::{Probe, Resolve, ServiceName};
use tower_mesh_discovery::FixedList;
use tower_mesh_health::{HealthConfig, HealthLayer, Prober};

use crate::config::{Config, ConfigError, HealthSettings, ServiceConfig, SourceConfig};
use crate::mesh::Mesh;
use crate::part::Part;
use crate::resolver::AnyResolver;

pub(crate) type AnyHealth = (HealthLayer, Prober);

type MakeHealth = Box<dyn FnOnce(HealthConfig) -> AnyHealth + Send>;

/// Collects the parts of a [`Mesh`]. Nothing runs, and nothing is resolved, before [`Mesh::start`].
#[derive(Default)]
#[must_use]
pub struct MeshBuilder {
    config: Config,
    resolvers: HashMap<String, AnyResolver>,
    probes: HashMap<String, MakeHealth>,
}

impl MeshBuilder {
    /// Services and their policies.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A resolver under the name by which services of the configuration ask for it.
    pub fn resolver(mut self, name: impl Into<String>, resolver: impl Resolve) -> Self {
        self.resolvers.insert(name.into(), AnyResolver::new(resolver));
        self
    }

    /// How the endpoints of `service` are probed, where that is not by HTTP. The service's `health` table says when.
    pub fn probe(mut self, service: impl Into<String>, probe: impl Probe) -> Self {
        self.probes.insert(service.into(), Box::new(|config| HealthLayer::new(config, probe)));
        self
    }

    /// The mesh, not yet started.
    ///
    /// # Errors
    /// When the configuration asks for something that is not there, or gives something that nobody asks for; every such mistake in one answer.
    pub fn build(mut self) -> Result<Mesh, ConfigError> {
        let mut mistakes = Vec::new();
        let mut parts = BTreeMap::new();
        for (name, config) in &self.config.services {
            let path = format!("services.{name}");
            let own = config.mistakes();
            if !own.is_empty() {
                mistakes.extend(own.into_iter().map(|mistake| mistake.under(&path)));
                self.probes.remove(name.as_str());
                continue;
            }
            let resolver = resolver_for(config, &self.resolvers);
            let health = health_for(name, config.health.as_ref(), &mut self.probes);
            match (resolver, health) {
                (Ok(resolver), Ok(health)) => {
                    parts.insert(name.clone(), Arc::new(Part::new(name.clone(), config, &resolver, health)));
                }
                (resolver, health) => {
                    let wrong = [resolver.err(), health.err()].into_iter().flatten();
                    mistakes.extend(wrong.map(|mistake| mistake.under(&path)));
                }
            }
        }
        for service in self.probes.keys() {
            let allowed = "a probe for a service that has a health table without a path";
            mistakes.push(Mistake::new(format!("probe({service:?})"), "a probe that is not used", allowed));
        }
        InvalidConfig::check(mistakes)?;
        Ok(Mesh::new(parts, self.config.start_timeout))
    }
}

fn resolver_for(
    config: &ServiceConfig,
    known: &HashMap<String, AnyResolver>,
) -> Result<AnyResolver, Mistake> {
    match &config.source {
        SourceConfig::Endpoints(endpoints) => match FixedList::new(endpoints.iter().cloned()) {
            Ok(list) => Ok(AnyResolver::new(list)),
            Err(error) => Err(Mistake::new("endpoints", error, "each endpoint once")),
        },
        SourceConfig::Resolver(name) => known.get(name).cloned().ok_or_else(|| {
            let mut names: Vec<_> = known.keys().map(|name| format!("{name:?}")).collect();
            names.sort();
            let allowed = if names.is_empty() {
                "one that is given to the builder; none is".into()
            } else {
                names.join(", ")
            };
            Mistake::new("resolver", format_args!("{name:?}"), allowed)
        }),
    }
}

fn health_for(
    name: &ServiceName,
    settings: Option<&HealthSettings>,
    probes: &mut HashMap<String, MakeHealth>,
) -> Result<Option<AnyHealth>, Mistake> {
    let Some(settings) = settings else { return Ok(None) };
    match (&settings.path, probes.remove(name.as_str())) {
        (None, Some(make)) => Ok(Some(make(settings.config))),
        (None, None) => {
            Err(Mistake::new("health.path", "nothing", "a path, or a probe given to the builder"))
        }
        (Some(path), Some(_)) => {
            let found = format_args!("{path:?} beside a probe given to the builder").to_string();
            Err(Mistake::new("health.path", found, "one of the two"))
        }
        #[cfg(feature = "http")]
        (Some(path), None) => Ok(Some(HealthLayer::new(settings.config, tower_mesh_http::probe::get(path)))),
        #[cfg(not(feature = "http"))]
        (Some(path), None) => {
            let found = format_args!("{path:?}").to_string();
            Err(Mistake::new("health.path", found, "nothing: this build has no HTTP probe (feature http)"))
        }
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("services", &self.config.services.keys())
            .field("resolvers", &self.resolvers.keys())
            .finish_non_exhaustive()
    }
}
