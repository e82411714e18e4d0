//! reqwest's client behind the mesh: the request names the service, the mesh finds the server.
//!
//! `cargo run --example reqwest_client`

use std::time::Duration;

use tower::{BoxError, ServiceExt};
use tower_mesh::Mesh;
use tower_mesh::discovery::FixedList;
use tower_mesh_examples::{Backend, Mood};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backends = [Backend::start().await?, Backend::start().await?];
    let list = FixedList::new(backends.iter().map(Backend::endpoint))?;
    let mesh = Mesh::builder()
        .config_toml("[services.users]\nresolver = \"list\"")
        .resolver("list", list)
        .build()?;

    // Where a redirect leads is not known to the mesh, so the client does not follow any.
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let users = mesh.service("users")?.reqwest(client.clone());
    mesh.start().await?;

    backends[1].set_mood(Mood::Failing);
    for _ in 0..20 {
        let request = client.get("http://users/").build()?;
        // reqwest's own response again, with text(), json() and the rest.
        let response = reqwest::Response::from(users.clone().oneshot(request).await?);
        let text = response.error_for_status()?.text().await?;
        if text != "well\n" {
            return Err(format!("an answer of somebody else: {text:?}").into());
        }
    }
    let status = mesh.status();
    let service = status.services.first().ok_or("no service")?;
    println!(
        "20 of 20 calls succeed though one of two servers fails; {} were sent again",
        service.retry.granted
    );
    mesh.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
