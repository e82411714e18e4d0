//! Fields that the environment says otherwise.

use std::process::Command;
use std::time::Duration;

use tower_mesh::config::Overrides;
use tower_mesh::{ErrorKind, Mesh};

use crate::inner::{Rows, query};
use tower::{ServiceExt as _, service_fn};

const CONFIG: &str =
    "[services.my-users]\nendpoints = [\"a:1\"]\nretry.max_attempts = 1\ndeadline.timeout = \"1h\"";

fn addresses(mesh: &Mesh) -> Vec<String> {
    mesh.status().services[0].endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn they_stand_above_the_file_with_whatever_type_they_have() {
    let overrides = Overrides::new()
        .set("services.MY_USERS.endpoints", "[\"b:1\", \"c:1\"]")
        .set("services.my-users.deadline.timeout", "2s")
        .set("services.my-users.required", "false");
    let mesh = Mesh::builder().config_toml(CONFIG).overrides(overrides).build().unwrap();
    let users = mesh.service("my-users").unwrap().connect(|_: &tower_mesh::core::EndpointHandle| {
        service_fn(|_| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, tower_mesh::core::BoxError>(Rows(String::new()))
        })
    });
    mesh.start().await.unwrap();
    while addresses(&mesh).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(addresses(&mesh), ["b:1", "c:1"]);
    let began = tokio::time::Instant::now();
    let error = users.oneshot(query("x")).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::DeadlineExceeded, Duration::from_secs(2)));
    assert!(mesh.readiness().ready, "{:?}", mesh.readiness());
}

#[test]
fn what_is_wrong_is_a_mistake_in_the_field_and_no_value_is_shown_in_debug() {
    let overrides = Overrides::new()
        .set("services.my_users.retry.max_attempts", "many")
        .set("services.my_users.endpoints.first", "secret")
        .set("colour", "blue");
    assert!(!format!("{overrides:?}").contains("secret"));
    let error = Mesh::builder().config_toml(CONFIG).overrides(overrides).build().unwrap_err();
    let told: Vec<_> = error.mistakes().iter().map(|mistake| (mistake.field(), mistake.found())).collect();
    assert_eq!(
        told,
        [
            ("services.my-users.retry.max_attempts", "a value that the environment sets"),
            ("colour", "an unknown field"),
            ("services.my-users.endpoints", "a list"),
        ]
    );
}

/// The environment is the process's, so this is one of its own: the test below, run again.
#[test]
fn they_come_from_the_environment() {
    const CHILD: &str = "overrides::in_an_environment_of_its_own";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--nocapture"])
        .env("SUITE__SERVICES__MY_USERS__RETRY__MAX_ATTEMPTS", "0")
        .env("SUITE__START_TIMEOUT", "never")
        .env("SUITEX__COLOUR", "blue")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn in_an_environment_of_its_own() {
    if std::env::var_os("SUITEX__COLOUR").is_none() {
        return; // run by the test above
    }
    let overrides = Overrides::from_env("SUITE");
    let error = Mesh::builder().config_toml(CONFIG).overrides(overrides).build().unwrap_err();
    let told: Vec<_> = error.mistakes().iter().map(|mistake| (mistake.field(), mistake.found())).collect();
    let hidden = "a value that the environment sets";
    assert_eq!(told, [("start_timeout", hidden), ("services.my-users.retry.max_attempts", hidden)]);
}
