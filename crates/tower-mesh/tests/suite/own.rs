//! Parts of the user's own, where the mesh has one by default.

use tower::{ServiceExt as _, service_fn};
use tower_mesh::Mesh;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::Candidates;

use crate::inner::{Query, Rows, query, tasks};

const CONFIG: &str = "[services.users]\nendpoints = [\"a:1\", \"b:1\", \"c:1\"]";

fn connect(
    endpoint: &EndpointHandle,
) -> impl tower::Service<Query, Response = Rows, Error = BoxError, Future: Send> + Clone + use<> {
    let address = endpoint.endpoint().address().to_owned();
    service_fn(move |_: Query| std::future::ready(Ok::<_, BoxError>(Rows(address.clone()))))
}

async fn answers(
    service: impl tower::Service<Query, Response = Rows, Error = tower_mesh::Error> + Clone,
) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..50 {
        answers.push(service.clone().oneshot(query("x")).await.unwrap().0);
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn a_picker_of_ones_own_chooses_for_what_is_made_from_the_handle_it_was_given_to() {
    let mesh = Mesh::builder().config_toml(CONFIG).build().unwrap();
    let last = |_: &[EndpointHandle]| {
        |among: &Candidates<'_>| (0..among.len()).rev().find(|&index| among.may_use(index))
    };
    let own = mesh.service("users").unwrap().pick_with(last).connect(connect);
    let others = mesh.service("users").unwrap().connect(connect);
    mesh.start().await.unwrap();
    tasks().await;
    assert!(answers(own).await.iter().all(|answer| answer == "c:1"));
    assert!(answers(others).await.iter().any(|answer| answer != "c:1"));
}

#[tokio::test(start_paused = true)]
async fn chance_is_the_threads_and_can_be_seeded() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let mesh = Mesh::builder().config_toml(CONFIG).build().unwrap();
        let users = mesh.service("users").unwrap().connect(connect);
        mesh.start().await.unwrap();
        tasks().await;
        fastrand::seed(seed);
        runs.push(answers(users).await);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
