//! Holds the quickstart's figures against what it promises: `check-quickstart FILE`.

use std::process::ExitCode;

use serde::Deserialize;

#[derive(Deserialize)]
struct Figures {
    mesh: Seen,
    plain: Seen,
}

#[derive(Deserialize)]
struct Seen {
    success: f64,
    upstream_per_request: f64,
    faults: Vec<Outage>,
}

#[derive(Deserialize)]
struct Outage {
    fault: String,
    eject_s: Option<f64>,
    readmit_s: Option<f64>,
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: check-quickstart FILE");
        return ExitCode::from(2);
    };
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    let figures: Figures =
        match read.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string())) {
            Ok(figures) => figures,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        };
    let broken = broken_promises(&figures);
    for promise in &broken {
        eprintln!("quickstart: {promise}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn broken_promises(figures: &Figures) -> Vec<String> {
    let mesh = &figures.mesh;
    let mut broken = Vec::new();
    let mut promise = |kept: bool, what: String| {
        if !kept {
            broken.push(what);
        }
    };
    promise(
        mesh.success >= 1.0,
        format!("{:.3} % of the mesh's callers saw success, not all", mesh.success * 100.0),
    );
    promise(
        mesh.upstream_per_request <= 1.05,
        format!("{:.3} requests upstream per request", mesh.upstream_per_request),
    );
    promise(mesh.faults.len() == 4, format!("{} faults, not four", mesh.faults.len()));
    for Outage { fault, eject_s, readmit_s } in &mesh.faults {
        promise(
            eject_s.is_some_and(|s| s <= 0.5),
            format!("the endpoint that {fault} was out after {eject_s:?} s"),
        );
        promise(
            readmit_s.is_some_and(|s| s <= 2.0),
            format!("the endpoint that {fault} was back after {readmit_s:?} s"),
        );
    }
    // Or the faults were none, and the rest shows nothing.
    promise(figures.plain.success < 1.0, "the plain client saw no failure either".to_owned());
    broken
}
