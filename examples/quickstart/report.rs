//! What the callers of each client have seen.

use std::path::Path;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::load::Record;
use crate::watch::Outage;

/// What the callers of one client have seen.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    /// The share of requests that got a 2xx answer.
    success: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    upstream_per_request: f64,
    faults: Vec<Outage>,
    #[serde(skip)]
    asked: u64,
}

impl Seen {
    /// `sent`: requests that went to servers.
    pub(crate) fn new(record: Record, sent: u64, faults: Vec<Outage>) -> Self {
        let Record { asked, succeeded, latency } = record;
        let percentile = |percent: f64| latency.value_at_percentile(percent) as f64 / 1000.0;
        Self {
            success: succeeded as f64 / asked as f64,
            p50_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            p999_ms: percentile(99.9),
            upstream_per_request: sent as f64 / asked as f64,
            faults,
            asked,
        }
    }

    /// For the client that sends each request once and takes nobody out.
    pub(crate) fn plain(record: Record) -> Self {
        let sent = record.asked;
        Self::new(record, sent, Vec::new())
    }
}

#[derive(Serialize)]
struct Figures<'a> {
    mesh: &'a Seen,
    plain: &'a Seen,
}

/// Writes the figures as JSON.
pub(crate) fn write_json(path: &Path, mesh: &Seen, plain: &Seen) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(&Figures { mesh, plain })?;
    text.push('\n');
    std::fs::write(path, text)
}

/// Prints the figures.
pub(crate) fn print(mesh: &Seen, plain: &Seen) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["what callers saw", "through the mesh", "plainly in turn"]);
    let ms = |value: f64| format!("{value:.1} ms");
    let mut row = |name: &str, value: &dyn Fn(&Seen) -> String| {
        table.add_row([Cell::new(name), right(value(mesh)), right(value(plain))]);
    };
    row("requests", &|seen| seen.asked.to_string());
    row("success", &|seen| format!("{:.2} %", seen.success * 100.0));
    row("p50", &|seen| ms(seen.p50_ms));
    row("p99", &|seen| ms(seen.p99_ms));
    row("p99.9", &|seen| ms(seen.p999_ms));
    row("sent upstream per request", &|seen| format!("{:.3}", seen.upstream_per_request));
    println!("\n{table}");

    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["endpoint that", "out after", "back after recovery"]);
    let seconds = |value: Option<f64>| value.map_or("never".to_owned(), |seconds| format!("{seconds:.2} s"));
    for outage in &mesh.faults {
        table.add_row([
            Cell::new(outage.fault),
            right(seconds(outage.eject_s)),
            right(seconds(outage.readmit_s)),
        ]);
    }
    println!("\n{table}");
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
