//! Users and passwords.

use etcd_client::{Client, PermissionType};
use tower_mesh_core::error::find_in;
use tower_mesh_etcd::EtcdError;

use crate::server::Etcd;
use crate::{after_failures, next, said, users};

/// `root` and `mesh`, of whom the latter may read the keys of services.
async fn with_users(client: &mut Client) {
    client.user_add("root", "r00t", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    let services = etcd_client::Permission::new(PermissionType::Read, "/services/").with_prefix();
    client.role_grant_permission("reader", services).await.unwrap();
    client.user_add("mesh", "s3cret", None).await.unwrap();
    client.user_grant_role("mesh", "reader").await.unwrap();
    client.put("/services/users/a", r#""10.0.0.1:80""#, None).await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test]
async fn the_right_password_is_taken_and_a_wrong_one_is_told_without_showing_it() {
    let Some(mut etcd) = Etcd::start().await else { return };
    with_users(&mut etcd.client().await).await;
    let mut right = users(&etcd.resolver(|config| config.user("mesh", "s3cret")));
    assert_eq!(said(&mut right).await, "= a@10.0.0.1:80/1/0");
    let resolver = etcd.resolver(|config| config.user("mesh", "wr0ng"));
    let mut wrong = users(&resolver);
    let error = next(&mut wrong).await.unwrap_err();
    assert_eq!(crate::kind(&error), tower_mesh_etcd::EtcdErrorKind::Refused, "{error}");
    let text = format!("{error} {error:?} {resolver:?} {:?}", find_in::<EtcdError>(&error));
    assert!(!text.contains("wr0ng") && text.contains("mesh"), "{text}");
    // Nobody, and somebody who may not.
    assert_eq!(said(&mut users(&etcd.resolver(|config| config))).await, "Refused");
    let elsewhere = etcd.resolver(|config| config.user("mesh", "s3cret").prefix("/other/"));
    assert_eq!(said(&mut users(&elsewhere)).await, "Refused");
    // Tokens do not outlive the server; the password does.
    etcd.kill();
    assert_eq!(said(&mut right).await, "Failed");
    assert!(etcd.run_locked().await);
    assert_eq!(after_failures(&mut right).await, "= a@10.0.0.1:80/1/0");
}
