//! Where a service's endpoints come from, as a file says it.

use std::collections::HashSet;
use std::path::PathBuf;

use tower_mesh_core::Endpoint;
use tower_mesh_core::error::Mistake;
#[cfg(feature = "dns")]
use tower_mesh_dns::{DnsConfig, DnsConfigBuilder, Families};
#[cfg(feature = "etcd")]
use tower_mesh_etcd::{EtcdConfig, EtcdConfigBuilder};

#[cfg(any(feature = "dns", feature = "etcd"))]
use super::policies::set;
use super::read::Table;
use super::{AT_LEAST_ONE, again, tree::ADDRESS};

/// Where a service's endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SourceConfig {
    Endpoints(Vec<Endpoint>),
    Resolver(String),
    File(PathBuf),
    #[cfg(feature = "dns")]
    Dns {
        name: String,
        config: Box<DnsConfig>,
    },
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdConfig>),
    /// Something that is wrong, or that this build has not: a mistake was told of it.
    Wrong,
}

impl SourceConfig {
    /// Whether it is the same source, though its secrets may have been renewed: those that it was started with stay in use.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            #[cfg(feature = "etcd")]
            (Self::Etcd(one), Self::Etcd(other)) => one.is_same_but_for_secrets(other),
            _ => self == other,
        }
    }
}

/// What the file says of sources for all services, and then for one.
#[derive(Clone, Default)]
pub(super) struct Sources {
    #[cfg(feature = "dns")]
    dns: Option<DnsConfigBuilder>,
    #[cfg(feature = "etcd")]
    etcd: Option<EtcdConfigBuilder>,
}

impl Sources {
    /// Takes in what stands under `defaults`. What is wrong there is told once, and counts as if nothing had been said.
    pub(super) fn read_defaults(&mut self, table: &mut Table<'_>) {
        if table.has("dns") {
            let mut part = table.table("dns");
            #[cfg(feature = "dns")]
            {
                let dns = read_dns(DnsConfig::builder(), &mut part);
                self.dns = part.checked(dns.clone().build()).map(|_| dns);
            }
            no_dns(&mut part);
            table.absorb(part);
        }
        if table.has("etcd") {
            let mut part = table.table("etcd");
            #[cfg(feature = "etcd")]
            {
                let etcd = read_etcd(EtcdConfig::builder(), &mut part);
                // Where the servers are not said here, each service names its own.
                let whole =
                    if part.has("servers") { etcd.clone() } else { etcd.clone().servers(["http://any:1"]) };
                self.etcd = part.checked(whole.build()).map(|_| etcd);
            }
            no_etcd(&mut part);
            table.absorb(part);
        }
    }

    /// The source of one service.
    pub(super) fn read(self, table: &mut Table<'_>) -> SourceConfig {
        const KINDS: [&str; 5] = ["resolver", "dns", "etcd", "file", "endpoints"];
        if table.is_described() {
            KINDS.into_iter().for_each(|kind| _ = self.clone().one(kind, table));
            return SourceConfig::Wrong;
        }
        let given: Vec<_> = KINDS.into_iter().filter(|key| table.has(key)).collect();
        match &*given {
            [] => {
                let allowed = "a resolver, dns, etcd, a file, or a list of endpoints";
                table.mistake("resolver", "nothing", allowed);
            }
            [_] => {}
            [first, others @ ..] => {
                let found = format!("{first} beside {}", others.join(" and "));
                table.mistake(first, found, "one of them");
            }
        }
        match given.first() {
            Some(kind) => self.one(kind, table),
            None => SourceConfig::Wrong,
        }
    }

    fn one(self, kind: &str, table: &mut Table<'_>) -> SourceConfig {
        match kind {
            "resolver" => match table.text("resolver") {
                Some(name) => SourceConfig::Resolver(name.to_owned()),
                None => SourceConfig::Wrong,
            },
            "dns" => {
                if table.is_described() {
                    table.text("dns");
                }
                self.dns(table)
            }
            "etcd" => self.etcd(table),
            "file" => file(table),
            _ => endpoints(table),
        }
    }

    /// A name alone, or a table with one and how it is asked for.
    fn dns(self, table: &mut Table<'_>) -> SourceConfig {
        #[cfg(feature = "dns")]
        {
            let dns = self.dns.unwrap_or_else(DnsConfig::builder);
            let (name, config) = if table.is_table("dns") {
                let mut part = table.table("dns");
                let name = part.text("name");
                if !part.has("name") {
                    part.mistake("name", "nothing", NAME);
                }
                let built = read_dns(dns, &mut part).build();
                let config = part.checked(built);
                table.absorb(part);
                (name, config)
            } else {
                (table.text("dns"), dns.build().ok())
            };
            if let (Some(name), Some(config)) = (name, config) {
                match config.check_name(name) {
                    Ok(()) => return SourceConfig::Dns { name: name.to_owned(), config: Box::new(config) },
                    Err(_) => table.mistake("dns", super::read::short(name), NAME),
                }
            }
        }
        #[cfg(not(feature = "dns"))]
        table.mistake("dns", "a name", "nothing: this build asks no DNS (feature dns)");
        SourceConfig::Wrong
    }

    fn etcd(self, table: &mut Table<'_>) -> SourceConfig {
        let mut part = table.table("etcd");
        #[cfg(not(feature = "etcd"))]
        let source = SourceConfig::Wrong;
        #[cfg(feature = "etcd")]
        let source = {
            let etcd = read_etcd(self.etcd.unwrap_or_else(EtcdConfig::builder), &mut part).build();
            part.checked(etcd).map_or(SourceConfig::Wrong, |config| SourceConfig::Etcd(Box::new(config)))
        };
        no_etcd(&mut part);
        table.absorb(part);
        source
    }
}

#[cfg(feature = "dns")]
const NAME: &str = "host:port, host if there is a default_port, or _service._protocol.name";

#[cfg(feature = "dns")]
fn read_dns(mut dns: DnsConfigBuilder, table: &mut Table<'_>) -> DnsConfigBuilder {
    const FAMILIES: &[(&str, Families)] =
        &[("both", Families::Both), ("v4", Families::V4), ("v6", Families::V6)];
    set!(dns, table, timeout: duration, min_interval: duration, max_interval: duration,
        max_negative_interval: duration, jitter: number, retry_delay: duration, max_retry_delay: duration);
    if let Some(servers) = table.texts("servers") {
        let mut right = Vec::new();
        for (i, text) in servers {
            match text.parse() {
                Ok(server) => right.push(server),
                Err(_) => {
                    let allowed = "an IP address and a port, such as \"10.0.0.53:53\"";
                    table.add(Mistake::new(format!("servers[{i}]"), super::read::short(text), allowed));
                }
            }
        }
        dns = dns.servers(right);
    }
    if let Some(domains) = table.texts("search") {
        dns = dns.search(domains.into_iter().map(|(_, domain)| domain));
    }
    if let Some(families) = table.word("families", FAMILIES) {
        dns = dns.families(families);
    }
    if let Some(attempts) = table.count("attempts") {
        dns = dns.attempts(attempts as usize);
    }
    match table.count("default_port").map(u16::try_from) {
        Some(Ok(port)) => dns = dns.default_port(port),
        Some(Err(_)) => table.mistake("default_port", "a larger number", "1 to 65535"),
        None => {}
    }
    dns
}

#[cfg(feature = "etcd")]
fn read_etcd(mut etcd: EtcdConfigBuilder, table: &mut Table<'_>) -> EtcdConfigBuilder {
    set!(etcd, table, prefix: text, domain: text, timeout: duration, keep_alive: duration, retry_delay: duration,
        max_retry_delay: duration);
    if let Some(servers) = table.texts("servers") {
        etcd = etcd.servers(servers.into_iter().map(|(_, server)| server));
    }
    if let Some(max) = table.count("max_endpoints") {
        etcd = etcd.max_endpoints(max as usize);
    }
    if let Some(pem) = secret_file(table, "ca_file") {
        etcd = etcd.ca_certificate(pem);
    }
    if let (Some(certificate), Some(key)) =
        (secret_file(table, "certificate_file"), secret_file(table, "key_file"))
    {
        etcd = etcd.client_certificate(certificate, key);
    }
    if table.has("certificate_file") != table.has("key_file") {
        table.mistake("key_file", "one of certificate_file and key_file", "both, or none");
    }
    let user = table.text("user");
    let from_file = secret_file(table, "password_file");
    let from_env = table.text("password_env").and_then(|variable| match std::env::var(variable) {
        Ok(password) => Some(password),
        Err(error) => {
            let found = format!("{variable:?}: {error}");
            table.mistake("password_env", found, "a variable of the environment");
            None
        }
    });
    let given = [table.has("user"), table.has("password_file"), table.has("password_env")];
    match (given, user, from_file.or(from_env)) {
        ([false, false, false], ..) => {}
        ([true, true, false] | [true, false, true], Some(user), Some(password)) => {
            etcd = etcd.user(user, password);
        }
        // What is wrong with them was told.
        ([true, true, false] | [true, false, true], ..) => {}
        _ => table.mistake(
            "user",
            "an incomplete user, or two passwords",
            "user beside password_file or password_env",
        ),
    }
    etcd
}

/// What a file holds, without the end of its last line. It is shown nowhere; that it cannot be read is.
#[cfg(feature = "etcd")]
fn secret_file(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let path = table.text(key)?;
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            table.mistake(key, format_args!("{path:?}: {error}"), "a file that can be read");
            None
        }
    }
}

/// A build without the feature reads nothing of it, and says so.
fn no_dns(part: &mut Table<'_>) {
    if cfg!(not(feature = "dns")) {
        part.refuse("nothing: this build asks no DNS (feature dns)");
    }
}

fn no_etcd(part: &mut Table<'_>) {
    if cfg!(not(feature = "etcd")) {
        part.refuse("nothing: this build knows no etcd (feature etcd)");
    }
}

fn file(table: &mut Table<'_>) -> SourceConfig {
    let Some(path) = table.text("file") else { return SourceConfig::Wrong };
    if path.is_empty() {
        table.mistake("file", "\"\"", "a path");
    } else if cfg!(not(feature = "file")) {
        table.mistake("file", format_args!("{path:?}"), "nothing: this build reads no files (feature file)");
    }
    SourceConfig::File(path.into())
}

fn endpoints(table: &mut Table<'_>) -> SourceConfig {
    let Some(addresses) = table.texts("endpoints") else { return SourceConfig::Wrong };
    if table.is_empty_list("endpoints") {
        table.mistake("endpoints", "an empty list", AT_LEAST_ONE);
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut seen = HashSet::new();
    for (i, address) in addresses {
        match address.parse::<Endpoint>() {
            Ok(endpoint) if seen.insert(endpoint.id().clone()) => endpoints.push(endpoint),
            Ok(endpoint) => table.add(again(i, &endpoint)),
            Err(_) => {
                let found = format!("{:?}", address.chars().take(64).collect::<String>());
                table.add(Mistake::new(format!("endpoints[{i}]"), found, ADDRESS));
            }
        }
    }
    SourceConfig::Endpoints(endpoints)
}
