//! Being among the endpoints, for as long as one lives.

use std::num::NonZeroU32;
use std::time::Duration;

use tower_mesh_core::Endpoint;
use tower_mesh_etcd::{Registration, RegistrationState};

use crate::server::Etcd;
use crate::{after_failures, said, users};

fn endpoint() -> Endpoint {
    Endpoint::new("10.0.0.1:80").unwrap().with_id("a/1".parse().unwrap())
}

async fn registered(registration: &Registration) -> Option<i64> {
    let status = tokio::time::timeout(Duration::from_secs(10), registration.registered()).await.unwrap();
    assert_eq!(status.state, RegistrationState::Registered);
    status.lease
}

#[tokio::test]
async fn it_is_put_kept_alive_changed_and_removed() {
    let Some(etcd) = Etcd::start().await else { return };
    let resolver = etcd.resolver(|config| config);
    let mut updates = users(&resolver);
    assert_eq!(said(&mut updates).await, "= ");
    let (registration, driver) = resolver.register(&"users".parse().unwrap(), &endpoint()).unwrap();
    assert_eq!(registration.status().state, RegistrationState::NotDriven);
    let driver = tokio::spawn(driver);
    let lease = registered(&registration).await;
    assert_eq!(registration.key(), "/services/users/a%2F1");
    assert_eq!(said(&mut updates).await, "+ a/1@10.0.0.1:80/1/0");
    // Longer than its lease would live by itself.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let heavier = endpoint().with_weight(NonZeroU32::new(5).unwrap());
    registration.update(&heavier).unwrap();
    assert_eq!(said(&mut updates).await, "+ a/1@10.0.0.1:80/5/0", "it was never gone");
    assert_eq!((registration.status().lease, registration.status().renewed), (lease, 0));
    registration.remove().await.unwrap();
    assert_eq!(said(&mut updates).await, "- a/1");
    driver.await.unwrap();
    assert_eq!(registration.status().state, RegistrationState::Removed);
    let mut client = etcd.client().await;
    assert!(client.leases().await.unwrap().leases().is_empty(), "the lease is given back");
}

#[tokio::test]
async fn a_lost_lease_is_replaced_and_the_key_put_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let resolver = etcd.resolver(|config| config);
    let mut updates = users(&resolver);
    assert_eq!(said(&mut updates).await, "= ");
    let (registration, driver) = resolver.register(&"users".parse().unwrap(), &endpoint()).unwrap();
    let driver = tokio::spawn(driver);
    let lease = registered(&registration).await.unwrap();
    assert_eq!(said(&mut updates).await, "+ a/1@10.0.0.1:80/1/0");
    etcd.client().await.lease_revoke(lease).await.unwrap();
    assert_eq!(said(&mut updates).await, "- a/1");
    assert_eq!(said(&mut updates).await, "+ a/1@10.0.0.1:80/1/0");
    // Who watches may hear of the key before who put it does.
    assert_ne!(registered(&registration).await, Some(lease));
    assert_eq!(registration.status().renewed, 1);

    // All of etcd's data is gone, keys and leases.
    etcd.kill();
    assert_eq!(said(&mut updates).await, "Failed");
    etcd.lose_data();
    assert!(etcd.run().await);
    let mut back = after_failures(&mut updates).await;
    if back == "= " {
        back = after_failures(&mut updates).await;
    }
    assert!(back.ends_with(" a/1@10.0.0.1:80/1/0"), "{back}");

    // The last handle goes, and the key with it.
    drop(registration);
    assert_eq!(after_failures(&mut updates).await, "- a/1");
    driver.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_removed_says_so_in_bounded_time() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let resolver = etcd.resolver(|config| config.timeout(Duration::from_millis(300)));
    let (never, driver) = resolver.register(&"users".parse().unwrap(), &endpoint()).unwrap();
    let error = never.remove().await.unwrap_err().to_string();
    assert!(error.contains("its driver does not run"), "{error}");
    drop(driver);

    let (registration, driver) = resolver.register(&"users".parse().unwrap(), &endpoint()).unwrap();
    let driver = tokio::spawn(driver);
    registered(&registration).await;
    etcd.kill();
    let error = registration.remove().await.unwrap_err().to_string();
    assert!(error.contains("/services/users/a%2F1") && !error.contains("does not run"), "{error}");
    assert_eq!(registration.status().state, RegistrationState::Abandoned);
    driver.await.unwrap();
}
