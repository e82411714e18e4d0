//! Every example that ends by itself runs, and says what it says it shows. The quickstart has a check of its own, `tests/quickstart`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Runs the example that was built beside this test.
async fn shows(name: &str, lines: &[&str]) {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("examples").join(name);
    let mut command = Command::new(&program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let output = tokio::time::timeout(Duration::from_secs(60), run.wait_with_output()).await;
    let output = output.expect("it ends by itself").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in lines {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

macro_rules! stories {
    ($($name:ident: $($line:literal),+;)*) => {
        $(#[tokio::test] async fn $name() { shows(stringify!($name), &[$($line),+]).await; })*
    };
}

#[cfg(feature = "tonic")]
stories! {
    tonic_client: "30 of 30 greeted, 0 by the one that refuses", "counted to 3", "DeadlineExceeded",
        "one was killed            30 of 30 greeted", "all are gone              Unavailable: service greeter";
}

stories! {
    hyper_client: "20 uploads of 10 pieces each arrived", "were sent again";
    reqwest_client: "20 of 20 calls succeed";
    axum_gateway: "404 Not Found", "504 Gateway Timeout", "the server's own answer    503 Service Unavailable failing",
        "its circuit is open        503 Service Unavailable (Retry-After:";
    custom_request: "30 reads answered", "broke off", "operation put: the service takes another type of request";
    one_layer: "Closed → Open", "refused, nothing was sent", "HalfOpen → Closed";
    own_stack: "30/30 calls succeed", "Open";
    custom_resolver: "the inventory is broken  20/20";
}

#[cfg(feature = "opentelemetry")]
stories! {
    opentelemetry: "10 requests, 10 traces at the collector", "mesh.attempt", "named an attempt that the collector knows";
}
