//! What happens to keys is seen, and so is what happened while nobody could look.

use std::time::Duration;

use etcd_client::{CompactionOptions, PutOptions};

use crate::gate::Gate;
use crate::server::Etcd;
use crate::{after_failures, next, said, shown, users};

#[tokio::test]
async fn what_is_put_changed_and_deleted_is_seen() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    keys.put("/services/users/a", r#"{"address": "10.0.0.1:80", "weight": 3}"#, None).await.unwrap();
    keys.put("/services/users2/x", r#""10.9.9.9:80""#, None).await.unwrap();
    keys.put("/services/users/v2/x", r#""10.9.9.9:80""#, None).await.unwrap();
    let mut updates = users(&etcd.resolver(|config| config));
    assert_eq!(said(&mut updates).await, "= a@10.0.0.1:80/3/0");
    keys.put("/services/users/b", r#""10.0.0.2:80""#, None).await.unwrap();
    assert_eq!(said(&mut updates).await, "+ b@10.0.0.2:80/1/0");
    keys.put("/services/users/a", r#"{"address": "10.0.0.1:80", "priority": 1}"#, None).await.unwrap();
    assert_eq!(said(&mut updates).await, "+ a@10.0.0.1:80/1/1");
    keys.delete("/services/users/a", None).await.unwrap();
    assert_eq!(said(&mut updates).await, "- a");
    keys.put("/services/users/v2/x", r#""10.9.9.9:81""#, None).await.unwrap();
    keys.delete("/services/users/b", None).await.unwrap();
    assert_eq!(said(&mut updates).await, "- b");
}

#[tokio::test]
async fn a_lease_that_runs_out_is_a_removal() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    let lease = keys.lease_grant(2, None).await.unwrap().id();
    let under = PutOptions::new().with_lease(lease);
    keys.put("/services/users/a", r#""10.0.0.1:80""#, Some(under)).await.unwrap();
    let mut updates = users(&etcd.resolver(|config| config));
    assert_eq!(said(&mut updates).await, "= a@10.0.0.1:80/1/0");
    assert_eq!(said(&mut updates).await, "- a");
}

#[tokio::test]
async fn a_wrong_value_is_told_with_its_key_and_the_last_good_one_stays() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    keys.put("/services/users/a", r#""10.0.0.1:80""#, None).await.unwrap();
    let mut updates = users(&etcd.resolver(|config| config));
    assert_eq!(said(&mut updates).await, "= a@10.0.0.1:80/1/0");
    keys.put("/services/users/a", r#"{"address": "10.0.0.1:80", "weight": "much"}"#, None).await.unwrap();
    let wrong = next(&mut updates).await.unwrap_err().to_string();
    assert!(wrong.contains("/services/users/a") && wrong.contains("weight"), "{wrong}");
    assert_eq!(said(&mut updates).await, "+ ", "nothing is taken out, and the source is well");
    keys.put("/services/users/b", r#""10.0.0.2:80""#, None).await.unwrap();
    assert_eq!(said(&mut updates).await, "+ b@10.0.0.2:80/1/0");
}

/// Killed, so that the watch breaks; changed and compacted before the watcher comes back. The only way to the truth is to list again.
#[tokio::test]
async fn what_happened_during_a_disconnect_and_was_compacted_is_seen_as_a_whole() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    for (key, address) in [("a", "10.0.0.1:80"), ("b", "10.0.0.2:80"), ("c", "10.0.0.3:80")] {
        keys.put(format!("/services/users/{key}"), format!("{address:?}"), None).await.unwrap();
    }
    let resolver = etcd.resolver(|config| config);
    let mut updates = users(&resolver);
    assert_eq!(said(&mut updates).await, "= a@10.0.0.1:80/1/0 b@10.0.0.2:80/1/0 c@10.0.0.3:80/1/0");
    etcd.kill();
    assert_eq!(said(&mut updates).await, "Failed");
    assert!(etcd.run().await);
    // Nobody polls the watcher here, so it comes back after this.
    let mut keys = etcd.client().await;
    keys.delete("/services/users/a", None).await.unwrap();
    keys.put("/services/users/b", r#""10.0.0.22:80""#, None).await.unwrap();
    keys.put("/services/users/d", r#""10.0.0.4:80""#, None).await.unwrap();
    let revision = keys.get("x", None).await.unwrap().header().unwrap().revision();
    keys.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    assert_eq!(
        after_failures(&mut updates).await,
        "= b@10.0.0.22:80/1/0 c@10.0.0.3:80/1/0 d@10.0.0.4:80/1/0"
    );
    keys.delete("/services/users/d", None).await.unwrap();
    assert_eq!(said(&mut updates).await, "- d", "and it is watched again");
}

/// What is to be watched is compacted before the watch begins: the server says so after it has said that the watch is created, and gives no reason.
#[tokio::test]
async fn a_revision_that_is_compacted_before_it_is_watched_is_listed_again_and_is_no_failure() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    keys.put("/services/users/a", r#""10.0.0.1:80""#, None).await.unwrap();
    let gate = Gate::after("10.0.0.1:80", etcd.address).await;
    let mut updates = users(&etcd.resolver(|config| config.servers([format!("http://{}", gate.address)])));
    let listed = tokio::spawn(async move { (said(&mut updates).await, updates) });
    gate.is_held().await;
    keys.delete("/services/users/a", None).await.unwrap();
    keys.put("/services/users/b", r#""10.0.0.2:80""#, None).await.unwrap();
    let revision = keys.get("x", None).await.unwrap().header().unwrap().revision();
    keys.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    gate.open();
    let (first, mut updates) = listed.await.unwrap();
    assert_eq!(first, "= a@10.0.0.1:80/1/0", "what was listed before");
    assert_eq!(said(&mut updates).await, "= b@10.0.0.2:80/1/0");
    keys.delete("/services/users/b", None).await.unwrap();
    assert_eq!(said(&mut updates).await, "- b");
}

/// More than one page, and more than is taken.
#[tokio::test]
async fn many_keys_are_listed_by_pages_up_to_the_bound() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    for i in 0..600 {
        keys.put(format!("/services/users/{i:03}"), format!("\"10.0.0.1:{}\"", 1000 + i), None)
            .await
            .unwrap();
    }
    let all = said(&mut users(&etcd.resolver(|config| config))).await;
    assert_eq!((all.matches('@').count(), all.contains("599@10.0.0.1:1599")), (600, true));
    let mut some = users(&etcd.resolver(|config| config.max_endpoints(300)));
    assert_eq!(said(&mut some).await, "TooMany");
    assert_eq!(said(&mut some).await.matches('@').count(), 300);
    // One that fits now comes in, by listing again.
    keys.delete("/services/users/000", None).await.unwrap();
    assert_eq!(said(&mut some).await, "- 000");
    let again = after_failures(&mut some).await;
    assert!(again.starts_with("= 001@") && again.contains(" 300@"), "{again}");
}

/// A server that is there and says nothing is found out by signs of life.
#[tokio::test]
async fn a_server_that_hangs_is_found_out_and_listed_again_when_it_goes_on() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut keys = etcd.client().await;
    keys.put("/services/users/a", r#""10.0.0.1:80""#, None).await.unwrap();
    let config = |config: tower_mesh_etcd::EtcdConfigBuilder| {
        config.keep_alive(Duration::from_secs(5)).timeout(Duration::from_millis(500))
    };
    let mut updates = users(&etcd.resolver(config));
    assert_eq!(said(&mut updates).await, "= a@10.0.0.1:80/1/0");
    etcd.signal("-STOP");
    let found_out = next(&mut updates).await;
    assert!(found_out.is_err(), "{}", shown(&found_out));
    etcd.signal("-CONT");
    assert_eq!(after_failures(&mut updates).await, "= a@10.0.0.1:80/1/0");
}
