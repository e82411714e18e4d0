//! Resolvers of any type, behind one, and which a service asks.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{Resolve, ResolveError, ServiceName, Update};
use tower_mesh_discovery::FixedList;

use crate::config::SourceConfig;

/// The updates of any resolver.
pub(crate) type Updates = BoxStream<'static, Result<Update, ResolveError>>;

/// Any resolver.
#[derive(Clone)]
pub(crate) struct AnyResolver {
    resolve: Arc<dyn Fn(&ServiceName) -> Updates + Send + Sync>,
    list: Option<FixedList>,
}

impl AnyResolver {
    pub(crate) fn new(resolver: impl Resolve) -> Self {
        Self { resolve: Arc::new(move |service| resolver.resolve(service).boxed()), list: None }
    }

    /// A list of the configuration's, which another one may change.
    fn of_list(list: FixedList) -> Self {
        Self { list: Some(list.clone()), ..Self::new(list) }
    }

    /// The list, if it is one of the configuration's.
    pub(crate) fn list(&self) -> Option<&FixedList> {
        self.list.as_ref()
    }
}

impl Resolve for AnyResolver {
    type Updates = Updates;

    fn resolve(&self, service: &ServiceName) -> Updates {
        (self.resolve)(service)
    }
}

/// The resolvers there are: those given to the builder, and those that a configuration needs, each made once.
pub(crate) struct Sources {
    given: HashMap<String, AnyResolver>,
    #[cfg(feature = "dns")]
    dns: Vec<tower_mesh_dns::DnsResolver>,
    #[cfg(feature = "etcd")]
    etcd: Vec<tower_mesh_etcd::EtcdResolver>,
}

impl Sources {
    pub(crate) fn new(given: HashMap<String, AnyResolver>) -> Self {
        Self {
            given,
            #[cfg(feature = "dns")]
            dns: Vec::new(),
            #[cfg(feature = "etcd")]
            etcd: Vec::new(),
        }
    }

    /// The resolver of a service. None if it is known already that there is none.
    pub(crate) fn find(&mut self, source: &SourceConfig) -> Result<Option<AnyResolver>, Mistake> {
        Ok(Some(match source {
            SourceConfig::Resolver(name) => {
                self.given.get(name).cloned().ok_or_else(|| self.unknown(name))?
            }
            // A list that names an endpoint twice was told of.
            SourceConfig::Endpoints(endpoints) => match FixedList::new(endpoints.iter().cloned()) {
                Ok(list) => AnyResolver::of_list(list),
                Err(_) => return Ok(None),
            },
            #[cfg(feature = "file")]
            SourceConfig::File(path) => AnyResolver::new(tower_mesh_discovery::FileList::new(path)),
            #[cfg(not(feature = "file"))]
            SourceConfig::File(_) => return Ok(None),
            #[cfg(feature = "dns")]
            SourceConfig::Dns { name, config } => self.dns(name, config)?,
            #[cfg(feature = "etcd")]
            SourceConfig::Etcd(config) => self.etcd(config),
            SourceConfig::Wrong => return Ok(None),
        }))
    }

    fn unknown(&self, name: &str) -> Mistake {
        let mut names: Vec<_> = self.given.keys().map(|name| format!("{name:?}")).collect();
        names.sort();
        let allowed = if names.is_empty() {
            "one that is given to the builder; none is".into()
        } else {
            names.join(", ")
        };
        Mistake::new("resolver", format_args!("{name:?}"), allowed)
    }

    #[cfg(feature = "dns")]
    fn dns(&mut self, name: &str, config: &tower_mesh_dns::DnsConfig) -> Result<AnyResolver, Mistake> {
        use tower_mesh_dns::DnsResolver;
        let same = self.dns.iter().find(|resolver| resolver.config() == config).cloned();
        let resolver = match same {
            Some(resolver) => resolver,
            None => {
                let made = DnsResolver::with_config(config.clone());
                let resolver = made.map_err(|error| {
                    Mistake::new("dns", error, "servers, or a configuration of the system that names some")
                })?;
                self.dns.push(resolver.clone());
                resolver
            }
        };
        let asking = resolver.asking(name);
        asking.map(AnyResolver::new).map_err(|error| Mistake::new("dns", error, "a name to ask for"))
    }

    #[cfg(feature = "etcd")]
    fn etcd(&mut self, config: &tower_mesh_etcd::EtcdConfig) -> AnyResolver {
        use tower_mesh_etcd::EtcdResolver;
        let same = self.etcd.iter().find(|resolver| resolver.config() == config).cloned();
        AnyResolver::new(same.unwrap_or_else(|| {
            let resolver = EtcdResolver::new(config.clone());
            self.etcd.push(resolver.clone());
            resolver
        }))
    }
}
