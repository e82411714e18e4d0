//! Resolvers of any type, behind one, and which a service asks.

use std::collections::HashMap;
use std::sync::Arc;
#[cfg(any(feature = "dns", feature = "etcd"))]
use std::sync::Weak;

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

    /// One that asks what others ask too, which stays for as long as somebody may listen.
    #[cfg(any(feature = "dns", feature = "etcd"))]
    fn sharing<R: Send + Sync + 'static>(shared: Arc<R>, resolver: impl Resolve) -> Self {
        let resolve = move |service: &ServiceName| {
            let shared = shared.clone();
            resolver.resolve(service).inspect(move |_| _ = &shared).boxed()
        };
        Self { resolve: Arc::new(resolve), list: None }
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

/// The resolvers there are: those given to the builder, and those that a configuration needs, each made once for all services that ask it at a time.
pub(crate) struct Sources {
    given: HashMap<String, AnyResolver>,
    #[cfg(feature = "dns")]
    dns: Made<tower_mesh_dns::DnsResolver>,
    #[cfg(feature = "etcd")]
    etcd: Made<tower_mesh_etcd::EtcdResolver>,
}

/// They are kept by those who ask: a connection ends with the last service that needs it, however often a reload brings another.
#[cfg(any(feature = "dns", feature = "etcd"))]
struct Made<R>(Vec<Weak<R>>);

#[cfg(any(feature = "dns", feature = "etcd"))]
impl<R> Made<R> {
    fn get<E>(&mut self, is: impl Fn(&R) -> bool, make: impl FnOnce() -> Result<R, E>) -> Result<Arc<R>, E> {
        self.0.retain(|made| made.strong_count() > 0);
        if let Some(same) = self.0.iter().filter_map(Weak::upgrade).find(|made| is(made)) {
            return Ok(same);
        }
        let made = Arc::new(make()?);
        self.0.push(Arc::downgrade(&made));
        Ok(made)
    }
}

impl Sources {
    pub(crate) fn new(given: HashMap<String, AnyResolver>) -> Self {
        Self {
            given,
            #[cfg(feature = "dns")]
            dns: Made(Vec::new()),
            #[cfg(feature = "etcd")]
            etcd: Made(Vec::new()),
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
            SourceConfig::Etcd(config) => self.etcd(config)?,
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
        let same = |made: &DnsResolver| made.config() == config;
        let made = self.dns.get(same, || DnsResolver::with_config(config.clone()));
        let made = made.map_err(|error| {
            Mistake::new("dns", error, "servers, or a configuration of the system that names some")
        })?;
        let asking = made.asking(name).map_err(|error| Mistake::new("dns", error, "a name to ask for"))?;
        Ok(AnyResolver::sharing(made, asking))
    }

    #[cfg(feature = "etcd")]
    fn etcd(&mut self, config: &tower_mesh_etcd::EtcdConfig) -> Result<AnyResolver, Mistake> {
        use tower_mesh_etcd::EtcdResolver;
        let same = |made: &EtcdResolver| made.config() == config;
        let made = self.etcd.get(same, || Ok(EtcdResolver::new(config.clone())))?;
        let resolver = EtcdResolver::clone(&made);
        Ok(AnyResolver::sharing(made, resolver))
    }
}

#[cfg(test)]
#[cfg(all(feature = "dns", feature = "etcd"))]
mod tests {
    use tower_mesh_dns::DnsConfig;
    use tower_mesh_etcd::EtcdConfig;

    use super::*;

    fn etcd(max_endpoints: usize) -> SourceConfig {
        let config = EtcdConfig::builder().servers(["http://127.0.0.1:1"]).max_endpoints(max_endpoints);
        SourceConfig::Etcd(Box::new(config.build().unwrap()))
    }

    fn dns(port: u16) -> SourceConfig {
        let config = DnsConfig::builder().servers(["127.0.0.1:1".parse().unwrap()]).default_port(port);
        SourceConfig::Dns { name: "users.internal".into(), config: Box::new(config.build().unwrap()) }
    }

    #[test]
    fn what_a_configuration_needs_is_made_once_and_goes_with_the_last_who_listens() {
        let mut sources = Sources::new(HashMap::new());
        let service = "users".parse().unwrap();
        let listen = |sources: &mut Sources, source: SourceConfig| {
            sources.find(&source).unwrap().unwrap().resolve(&service)
        };
        let listening = [listen(&mut sources, etcd(1)), listen(&mut sources, dns(1))];
        for n in 2..100 {
            drop((listen(&mut sources, etcd(n.into())), listen(&mut sources, dns(n))));
        }
        let again = [listen(&mut sources, etcd(1)), listen(&mut sources, dns(1))];
        assert_eq!((sources.etcd.0.len(), sources.dns.0.len()), (1, 1));
        drop(listening);
        assert_eq!((sources.etcd.0[0].strong_count(), sources.dns.0[0].strong_count()), (1, 1));
        drop(again);
        assert_eq!((sources.etcd.0[0].strong_count(), sources.dns.0[0].strong_count()), (0, 0));
    }
}
