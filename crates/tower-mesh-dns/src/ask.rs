//! One question to the servers, with the search list walked here: what the last name of it gives must not hide what an earlier one gave.

use std::future::Future;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as WireError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use crate::config::DnsConfig;
use crate::error::{DnsError, DnsErrorKind, SetupError};

/// What one question for one type of record gave.
#[derive(Debug)]
pub(crate) enum Found {
    /// Records of that type, and how long they hold.
    Records(Vec<RData>, Duration),
    /// The name is there, but no record of that type.
    NoData(Option<Duration>),
    /// There is no such name.
    NoName(Option<Duration>),
    Failed(DnsError),
}

/// Somebody to ask.
pub(crate) trait Ask: Send + Sync + 'static {
    fn ask(&self, name: &Name, kind: RecordType) -> impl Future<Output = Found> + Send;
}

/// The real servers.
pub(crate) struct Servers {
    resolver: TokioResolver,
    search: Vec<Name>,
    ndots: usize,
}

impl Servers {
    pub(crate) fn new(config: &DnsConfig) -> Result<Self, SetupError> {
        let mut builder = if config.servers().is_empty() {
            TokioResolver::builder_tokio().map_err(|error| SetupError(error.into()))?
        } else {
            let servers = config.servers().iter().map(|server| {
                let at = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                NameServerConfig::new(
                    server.ip(),
                    true,
                    vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())],
                )
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = config.timeout();
        options.attempts = config.attempts() - 1;
        // How long an answer holds is for the cadence to say, and it asks no more often than it must.
        options.cache_size = 0;
        let ndots = options.ndots;
        let resolver = builder.build().map_err(|error| SetupError(error.into()))?;
        let search = if config.search().is_empty() && config.servers().is_empty() {
            system_search()
        } else {
            config.search().iter().filter_map(|domain| crate::question::name(domain)).collect()
        };
        Ok(Self { resolver, search, ndots })
    }

    async fn ask_one(&self, name: Name, kind: RecordType) -> Found {
        let ttl = |seconds: u32| Duration::from_secs(seconds.into());
        let error = match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let records = lookup.answers();
                // Aliases on the way hold for their time too.
                let least = records.iter().map(|record| record.ttl).min().unwrap_or(0);
                let right = records.iter().filter(|record| record.data.record_type() == kind);
                let data: Vec<_> = right.map(|record| record.data.clone()).collect();
                return if data.is_empty() { Found::NoData(None) } else { Found::Records(data, ttl(least)) };
            }
            Err(error) => error,
        };
        let kind = match &error {
            NetError::Dns(WireError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError => return Found::NoData(none.negative_ttl.map(ttl)),
                ResponseCode::NXDomain => return Found::NoName(none.negative_ttl.map(ttl)),
                _ => DnsErrorKind::Refused,
            },
            NetError::Dns(_) => DnsErrorKind::Refused,
            NetError::Timeout => DnsErrorKind::Timeout,
            _ => DnsErrorKind::Failed,
        };
        Found::Failed(DnsError::new(name, kind, error))
    }
}

/// The search list of the system.
fn system_search() -> Vec<Name> {
    match hickory_resolver::system_conf::read_system_conf() {
        Ok((config, _)) if config.search().is_empty() => config.domain().cloned().into_iter().collect(),
        Ok((config, _)) => config.search().to_vec(),
        Err(_) => Vec::new(),
    }
}

impl Ask for Servers {
    async fn ask(&self, name: &Name, kind: RecordType) -> Found {
        let mut failed = None;
        let mut absent = None;
        for name in candidates(name, &self.search, self.ndots) {
            match self.ask_one(name, kind).await {
                // It is the one that is meant, whatever records it has: so both families come from one name.
                found @ (Found::Records(..) | Found::NoData(_)) => return found,
                found @ Found::Failed(_) => failed = failed.or(Some(found)),
                found @ Found::NoName(_) => absent = absent.or(Some(found)),
            }
        }
        // What failed may have been the one.
        failed.or(absent).unwrap_or(Found::NoName(None))
    }
}

/// The full names that a name may stand for, in the order of asking, as `resolv.conf(5)` has it.
fn candidates(name: &Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut full = name.clone();
    full.set_fqdn(true);
    if name.is_fqdn() {
        return vec![full];
    }
    let under = search.iter().filter_map(|domain| {
        let mut name = name.clone().append_domain(domain).ok()?;
        name.set_fqdn(true);
        Some(name)
    });
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let mut all: Vec<_> = under.collect();
    all.insert(if dots >= ndots { 0 } else { all.len() }, full);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_for_as_the_system_does() {
        let name = |text: &str| crate::question::name(text).unwrap();
        let search = [name("a.test"), name("b.test")];
        let asked = |text: &str, ndots| -> Vec<_> {
            candidates(&name(text), &search, ndots).iter().map(ToString::to_string).collect()
        };
        assert_eq!(asked("users", 1), ["users.a.test.", "users.b.test.", "users."]);
        assert_eq!(asked("users.x", 1), ["users.x.", "users.x.a.test.", "users.x.b.test."]);
        assert_eq!(asked("users.x", 5), ["users.x.a.test.", "users.x.b.test.", "users.x."]);
        assert_eq!(asked("users.", 5), ["users."]);
    }
}
