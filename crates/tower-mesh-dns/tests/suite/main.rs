//! A real DNS server, BIND from Debian, on loopback, whose zone changes while it is asked.
//!
//! Without `named` and `nsupdate` there is nothing to test with: that is said and passed over, but where `MESH_REQUIRE_SERVERS` is set it fails.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod server;

mod calls;
mod system;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tower_mesh_core::error::find_in;
use tower_mesh_core::{Endpoint, Resolve, ResolveError, ServiceName, Update};
use tower_mesh_dns::{DnsError, DnsErrorKind, DnsResolver, Families};

use self::server::Bind;

type Updates = BoxStream<'static, Result<Update, ResolveError>>;

fn resolve(resolver: &DnsResolver, name: &str) -> Updates {
    resolver.asking(name).unwrap().resolve(&"a-service".parse().unwrap())
}

async fn next(updates: &mut Updates) -> Result<Update, ResolveError> {
    let said = tokio::time::timeout(Duration::from_secs(20), updates.next()).await;
    said.expect("nothing was said").expect("it never ends")
}

async fn endpoints(updates: &mut Updates) -> Vec<Endpoint> {
    match next(updates).await.unwrap() {
        Update::Reset(all) => all,
        other => panic!("{other:?}"),
    }
}

/// Waits for an update that is as it should be; each is asked for as soon as the TTL of a second is over.
async fn until(
    updates: &mut Updates,
    is: impl Fn(&Result<Update, ResolveError>) -> bool,
) -> Result<Update, ResolveError> {
    for _ in 0..100 {
        let said = next(updates).await;
        if is(&said) {
            return said;
        }
    }
    panic!("it never came");
}

fn ids(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|endpoint| endpoint.id().as_str()).collect()
}

fn resets_to(said: &Result<Update, ResolveError>, expected: &[&str]) -> bool {
    matches!(said, Ok(Update::Reset(all)) if ids(all) == expected)
}

#[tokio::test]
async fn addresses_are_followed_as_the_zone_changes() {
    let Some(bind) = Bind::start() else { return };
    let dns = bind.resolver(|config| config);
    // By the service's own name, as well as asked for by another.
    let service: ServiceName = "users.mesh.test:8080".parse().unwrap();
    let mut users = dns.resolve(&service);
    let both = endpoints(&mut users).await;
    assert_eq!(ids(&both), ["127.0.0.2:8080", "[::1]:8080"]);
    assert_eq!(both[0].metadata()["host"], "users.mesh.test");
    assert_eq!(
        ids(&endpoints(&mut resolve(&dns, "only4.mesh.test:1")).await),
        ["127.0.0.4:1"],
        "no AAAA is no failure"
    );
    assert_eq!(ids(&endpoints(&mut resolve(&dns, "alias.mesh.test:1")).await), ["127.0.0.2:1", "[::1]:1"]);

    bind.update("update add users.mesh.test 1 A 127.0.0.3\nupdate delete users.mesh.test AAAA");
    until(&mut users, |said| resets_to(said, &["127.0.0.2:8080", "127.0.0.3:8080"])).await.unwrap();
    bind.update("update delete users.mesh.test A");
    // Nothing else has that name now, so it is no more; with another record it is there without addresses.
    until(&mut users, |said| matches!(said, Ok(Update::NotFound))).await.unwrap();
    bind.update("update add users.mesh.test 1 TXT \"x\"");
    until(&mut users, |said| resets_to(said, &[])).await.unwrap();
    bind.update("update add users.mesh.test 1 A 127.0.0.9");
    until(&mut users, |said| resets_to(said, &["127.0.0.9:8080"])).await.unwrap();
}

#[tokio::test]
async fn srv_records_bring_port_priority_and_weight() {
    let Some(bind) = Bind::start() else { return };
    let dns = bind.resolver(|config| config.families(Families::V4));
    let mut web = resolve(&dns, "_web._tcp.mesh.test");
    let one = endpoints(&mut web).await;
    assert_eq!((ids(&one), one[0].priority(), one[0].weight().get()), (vec!["127.0.0.2:8081"], 10, 60));
    bind.update("update add _web._tcp.mesh.test 1 SRV 20 5 8082 only4.mesh.test.\nupdate add _web._tcp.mesh.test 1 SRV 0 1 1 gone.mesh.test.");
    let said = until(&mut web, |said| resets_to(said, &["127.0.0.2:8081", "127.0.0.4:8082"])).await;
    let Ok(Update::Reset(two)) = said else { unreachable!() };
    assert_eq!(
        (two[1].priority(), two[1].weight().get(), &*two[1].metadata()["host"]),
        (20, 5, "only4.mesh.test")
    );
}

#[tokio::test]
async fn no_such_name_nothing_there_and_no_answer_are_three_things() {
    let Some(bind) = Bind::start() else { return };
    let dns = bind.resolver(|config| config);
    let kind = |error: &ResolveError| find_in::<DnsError>(error).expect("why").kind();
    assert_eq!(next(&mut resolve(&dns, "nope.mesh.test:1")).await.unwrap(), Update::NotFound);
    assert_eq!(next(&mut resolve(&dns, "_no._tcp.mesh.test")).await.unwrap(), Update::NotFound);
    assert!(endpoints(&mut resolve(&dns, "text.mesh.test:1")).await.is_empty());
    let broken = next(&mut resolve(&dns, "x.dead.test:1")).await.unwrap_err();
    assert_eq!(kind(&broken), DnsErrorKind::Refused);
    let elsewhere = next(&mut resolve(&dns, "x.elsewhere.test:1")).await.unwrap_err();
    assert_eq!(kind(&elsewhere), DnsErrorKind::Refused);

    // A server that hangs, and comes back.
    let mut users = resolve(&dns, "users.mesh.test:1");
    assert_eq!(endpoints(&mut users).await.len(), 2);
    bind.signal("-STOP");
    let silent = until(&mut users, Result::is_err).await.unwrap_err();
    assert_eq!(kind(&silent), DnsErrorKind::Timeout, "{silent}");
    bind.signal("-CONT");
    until(&mut users, |said| resets_to(said, &["127.0.0.2:1", "[::1]:1"])).await.unwrap();
}

#[tokio::test]
async fn search_domains_complete_a_name_and_do_not_hide_a_failure() {
    let Some(bind) = Bind::start() else { return };
    let found = bind.resolver(|config| config.search(["elsewhere.mesh.test", "mesh.test"]).default_port(80));
    assert_eq!(ids(&endpoints(&mut resolve(&found, "only4")).await), ["127.0.0.4:80"]);
    // One candidate could not be asked for, the others are not there: that is no "not found".
    let hidden = bind.resolver(|config| config.search(["dead.test", "mesh.test"]).default_port(80));
    next(&mut resolve(&hidden, "nope")).await.unwrap_err();
}

/// The server cuts what does not fit in a datagram, and gives the whole over TCP.
#[tokio::test]
async fn an_answer_that_is_too_long_for_a_datagram_is_asked_for_over_tcp() {
    let Some(bind) = Bind::start() else { return };
    let dns = bind.resolver(|config| config.families(Families::V4));
    let records = (1..=90).map(|i| format!("update add many.mesh.test 1 A 127.0.1.{i}\n"));
    bind.update(&records.collect::<String>());
    assert_eq!(endpoints(&mut resolve(&dns, "many.mesh.test:80")).await.len(), 90);
}
