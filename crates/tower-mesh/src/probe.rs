//! From what a file says of a probe to the layer that runs it.

use crate::builder::AnyHealth;
use crate::config::HealthSettings;

/// The layer for a service whose file names a probe that this build has.
#[cfg(feature = "http")]
pub(crate) fn health(settings: &HealthSettings) -> AnyHealth {
    use tower_mesh_health::HealthLayer;
    use tower_mesh_http::probe;

    use crate::config::ProbeKind;

    let config = settings.config;
    let said = settings.probe.as_ref().expect("a service without a probe of its own has one in its file");
    /// Asks where the file says, if it does.
    macro_rules! at {
        ($probe:expr) => {{
            let probe = match said.port {
                Some(port) => $probe.port(port),
                None => $probe,
            };
            let probe = match &said.host {
                Some(host) => probe.host(host),
                None => probe,
            };
            HealthLayer::new(config, probe)
        }};
    }
    match &said.kind {
        ProbeKind::Http(http) => at!(http_probe(http)),
        ProbeKind::Tcp => at!(probe::tcp()),
        #[cfg(feature = "http2")]
        ProbeKind::Grpc { service, watch: false } => at!(probe::grpc(service)),
        #[cfg(feature = "http2")]
        ProbeKind::Grpc { service, watch: true } => at!(probe::grpc(service).watching()),
        #[cfg(not(feature = "http2"))]
        ProbeKind::Grpc { .. } => unreachable!("a gRPC probe without the feature is a mistake"),
    }
}

#[cfg(not(feature = "http"))]
pub(crate) fn health(_settings: &HealthSettings) -> AnyHealth {
    unreachable!("a probe without the feature is a mistake")
}

#[cfg(feature = "http")]
fn http_probe(said: &crate::config::HttpSettings) -> tower_mesh_http::probe::HttpProbe {
    let mut probe = tower_mesh_http::probe::get(&said.path);
    if let Some(method) = said.method.and_then(|method| method.parse().ok()) {
        probe = probe.method(method);
    }
    if let [first, others @ ..] = &*said.expected {
        probe =
            others.iter().cloned().fold(probe.expect(first.clone()), |probe, more| probe.and_expect(more));
    }
    for (name, value) in &said.headers {
        // Checked when they were read.
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
            probe = probe.header(name, value);
        }
    }
    if let Some(text) = &said.body_contains {
        probe = probe.body_contains(text);
    }
    if let Some(bytes) = said.max_body {
        probe = probe.max_body(bytes as usize);
    }
    #[cfg(feature = "http2")]
    if said.http2 {
        probe = probe.http2();
    }
    probe
}
