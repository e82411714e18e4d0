//! Overhead per call: the whole stack and its parts, beside the floor (what no balancer can do without) and beside tower's
//! retry > timeout > buffer > P2C, in one run; then what an update with one change costs, and what an endpoint keeps in memory; and what checking the
//! health of many endpoints costs, in processor time and in bursts; and what a mesh of many services costs, and what
//! looking at it costs those who call. `--only` names what is measured: stacks, `updates`, `health`, `scale`.
//!
//! `cargo run --release -p tower-mesh-bench -- [--json FILE] [--only NAME,…] [--threads N] [--endpoints N] [--calls N] [--rounds N]`
//!
//! Machines are noisy, so every round measures all stacks in turn and the ratios are medians of the ratios within a round.

mod floor;
mod health;
mod inner;
mod measure;
mod mesh;
mod peers;
mod polled;
mod scale;
mod thread_time;

use std::process::ExitCode;

use measure::{Report, Settings};

#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let settings = match Settings::from_args(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!(
                "{message}\nusage: tower-mesh-bench [--json FILE] [--only NAME,…] [--threads N] [--endpoints N] [--calls N] [--rounds N]"
            );
            return ExitCode::from(2);
        }
    };
    let mut report = Report::default();
    for &threads in &settings.threads {
        for &endpoints in &settings.endpoints {
            report.add(&settings, threads, endpoints);
        }
    }
    if settings.wants(measure::UPDATES) {
        report.add_updates(&settings, 10_000);
    }
    if settings.wants(measure::HEALTH) {
        report.add_health();
    }
    if settings.wants(measure::SCALE) {
        report.add_scale();
    }
    report.print();
    match &settings.json {
        Some(path) => match report.write_json(path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot write {}: {error}", path.display());
                ExitCode::FAILURE
            }
        },
        None => ExitCode::SUCCESS,
    }
}
