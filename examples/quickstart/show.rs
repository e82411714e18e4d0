//! What goes on, while it goes on: a live table on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};
use tower_mesh::{EndpointStatus, Mesh};

use crate::load::Counts;
use crate::watch::Watch;

/// Shows the mesh until the run is over.
pub(crate) async fn run(mesh: &Mesh, watch: &Watch, counts: [Arc<Counts>; 2], length: Duration) {
    let terminal = std::io::stdout().is_terminal();
    let bar = ProgressBar::new(length.as_millis() as u64);
    if terminal {
        let style = ProgressStyle::with_template("{msg}\n{wide_bar} {percent:>3} %").expect("a template");
        bar.set_style(style);
    }
    let began = Instant::now();
    let mut due = interval(if terminal { Duration::from_millis(100) } else { Duration::from_secs(1) });
    while began.elapsed() < length {
        due.tick().await;
        let endpoints: Vec<_> =
            mesh.status().services.into_iter().flat_map(|service| service.endpoints).collect();
        let fault = match watch.current() {
            Some((fault, id)) => format!("{id} {fault}"),
            None => "all well".to_owned(),
        };
        let [through_mesh, plainly] = counts.each_ref().map(|counts| progress(counts));
        let line = format!("mesh {through_mesh} · plain {plainly} · {fault}");
        if terminal {
            bar.set_position(began.elapsed().as_millis() as u64);
            bar.set_message(format!("{}\n{line}", table(&endpoints)));
        } else {
            let out: Vec<_> = endpoints.iter().filter(|endpoint| !endpoint.available).map(brief).collect();
            let out = if out.is_empty() { "none".to_owned() } else { out.join(" ") };
            println!("{:5.1} s  {line}  (out: {out})", began.elapsed().as_secs_f64());
        }
    }
    if terminal {
        bar.finish_and_clear();
    }
}

fn progress(counts: &Counts) -> String {
    let [ok, failed] = [&counts.succeeded, &counts.failed].map(|counter| counter.load(Ordering::Relaxed));
    format!("{ok} ok, {failed} failed")
}

fn brief(endpoint: &EndpointStatus) -> String {
    format!("{} [{}]", endpoint.id, endpoint.reasons.join(","))
}

fn table(endpoints: &[EndpointStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["endpoint", "state", "circuit", "in flight", "latency", "ok", "failed"]);
    for endpoint in endpoints {
        let state =
            if endpoint.reasons.is_empty() { "available".to_owned() } else { endpoint.reasons.join(" ") };
        let circuit = endpoint.circuit.as_ref().map_or("–", |circuit| &circuit.state);
        let latency = endpoint.latency_ms.map_or("–".to_owned(), |ms| format!("{ms:.1} ms"));
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&endpoint.id),
            Cell::new(state),
            Cell::new(circuit),
            number(endpoint.in_flight.to_string()),
            number(latency),
            number(endpoint.succeeded.to_string()),
            number((endpoint.failed + endpoint.abandoned).to_string()),
        ]);
    }
    table.to_string()
}
