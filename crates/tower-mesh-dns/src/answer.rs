//! From records to endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tower_mesh_core::{Endpoint, Update};

use crate::ask::{Ask, Found};
use crate::config::Families;
use crate::error::DnsError;
use crate::policy::cadence::Heard;
use crate::question::Question;

/// What a round of questions gave.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What is to be said, if not only that there was no answer.
    pub(crate) update: Option<Update>,
    pub(crate) error: Option<DnsError>,
    pub(crate) heard: Heard,
}

/// Hosts of SRV records asked for at once.
const AT_ONCE: usize = 8;

/// Asks all that a question needs.
pub(crate) async fn ask<A: Ask>(servers: &A, question: &Question, families: Families) -> Answer {
    let mut round = Round::default();
    match question {
        Question::Addresses { host, port } => {
            round.take(host, *port, 0, 1, addresses(servers, host, families).await);
        }
        Question::Services { name } => match servers.ask(name, RecordType::SRV).await {
            Found::Records(records, ttl) => {
                round.holds(ttl);
                let services = records.into_iter().filter_map(|record| match record {
                    RData::SRV(service) => Some(service),
                    _ => None,
                });
                // A target that is the root says that the service is decidedly not there (RFC 2782).
                let mut services: Vec<_> = services.filter(|service| !service.target.is_root()).collect();
                services.sort_by_key(|service| (service.priority, service.port));
                round.is_there = true;
                let asked = stream::iter(services).map(|service| async move {
                    let mut host = service.target.clone();
                    host.set_fqdn(true);
                    let found = addresses(servers, &host, families).await;
                    (service, found)
                });
                let mut asked = std::pin::pin!(asked.buffered(AT_ONCE));
                while let Some((service, found)) = asked.next().await {
                    let (priority, weight) = (service.priority.into(), u32::from(service.weight).max(1));
                    round.take(&service.target, service.port, priority, weight, found);
                }
            }
            other => round.take(name, 0, 0, 1, vec![other]),
        },
    }
    round.answer()
}

/// The addresses of a host, by each family that is asked for.
async fn addresses<A: Ask>(servers: &A, host: &Name, families: Families) -> Vec<Found> {
    let ask = |asked: bool, kind| OptionFuture::from(asked.then(|| servers.ask(host, kind)));
    let (v4, v6) = futures_util::join!(
        ask(families != Families::V6, RecordType::A),
        ask(families != Families::V4, RecordType::AAAA)
    );
    v4.into_iter().chain(v6).collect()
}

/// What the questions of one round gave so far.
#[derive(Default)]
struct Round {
    /// By address, so that the order is no change. Of one that is named twice the first counts, which is that of the better priority.
    endpoints: BTreeMap<SocketAddr, Endpoint>,
    ttl: Option<Duration>,
    negative_ttl: Option<Duration>,
    /// Some name is there, whatever records it has.
    is_there: bool,
    error: Option<DnsError>,
}

impl Round {
    fn holds(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |before| before.min(ttl)));
    }

    fn holds_not(&mut self, ttl: Option<Duration>) {
        self.negative_ttl = self.negative_ttl.into_iter().chain(ttl).min();
    }

    fn take(&mut self, host: &Name, port: u16, priority: u32, weight: u32, found: Vec<Found>) {
        for found in found {
            match found {
                Found::Records(records, ttl) => {
                    self.is_there = true;
                    self.holds(ttl);
                    for record in records {
                        let ip = match record {
                            RData::A(ip) => IpAddr::V4(ip.0),
                            RData::AAAA(ip) => IpAddr::V6(ip.0),
                            _ => continue,
                        };
                        let address = SocketAddr::new(ip, port);
                        self.endpoints
                            .entry(address)
                            .or_insert_with(|| endpoint(address, host, priority, weight));
                    }
                }
                Found::NoData(ttl) => {
                    self.is_there = true;
                    self.holds_not(ttl);
                }
                Found::NoName(ttl) => self.holds_not(ttl),
                Found::Failed(error) => self.error = Some(error),
            }
        }
    }

    fn answer(self) -> Answer {
        let endpoints: Vec<_> = self.endpoints.into_values().collect();
        let (update, heard) = match (&self.error, endpoints.is_empty()) {
            // What was not answered may be there still: nobody is taken out.
            (Some(_), true) => (None, Heard::Failure),
            (Some(_), false) => (Some(Update::Upsert(endpoints)), Heard::Failure),
            (None, false) => {
                (Some(Update::Reset(endpoints)), Heard::Answer { ttl: self.ttl.unwrap_or(Duration::ZERO) })
            }
            (None, true) => {
                let update = if self.is_there { Update::Reset(endpoints) } else { Update::NotFound };
                (Some(update), Heard::Nothing { ttl: self.negative_ttl.into_iter().chain(self.ttl).min() })
            }
        };
        Answer { update, error: self.error, heard }
    }
}

fn endpoint(address: SocketAddr, host: &Name, priority: u32, weight: u32) -> Endpoint {
    let endpoint = Endpoint::from(address).with_priority(priority);
    let endpoint = endpoint.with_weight(NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN));
    let mut host = host.clone();
    host.set_fqdn(false);
    // A name is shorter than what metadata may hold.
    endpoint.clone().with_metadata("host", host.to_string()).unwrap_or(endpoint)
}
