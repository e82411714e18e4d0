//! Timing, counting and reporting.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use stats_alloc::Region;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use tower_mesh_discovery::Algorithm;
use tower_service::Service;

use crate::floor::Floor;
use crate::inner::Request;
use crate::{ALLOCATOR, health, mesh, peers, polled, scale};

/// What the command line says.
pub(crate) struct Settings {
    pub(crate) json: Option<PathBuf>,
    /// Measure these alone.
    only: Vec<String>,
    pub(crate) threads: Vec<usize>,
    pub(crate) endpoints: Vec<usize>,
    calls: u64,
    rounds: usize,
}

impl Settings {
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self {
            json: None,
            only: Vec::new(),
            threads: vec![1, 2],
            endpoints: vec![10, 10_000],
            calls: 200_000,
            rounds: 9,
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or(format!("{flag} needs a value"));
            let flag = flag.as_str();
            match flag {
                "--json" => settings.json = Some(value()?.into()),
                "--only" => settings.only.extend(value()?.split(',').map(str::to_owned)),
                "--threads" => settings.threads = vec![number(flag, &value()?)?],
                "--endpoints" => settings.endpoints = vec![number(flag, &value()?)?],
                "--calls" => settings.calls = number(flag, &value()?)? as u64,
                "--rounds" => settings.rounds = number(flag, &value()?)?,
                _ => return Err(format!("unknown argument {flag}")),
            }
        }
        if let Some(unknown) = settings
            .only
            .iter()
            .find(|name| !is_stack(name) && ![UPDATES, HEALTH, SCALE].contains(&name.as_str()))
        {
            let known = STACKS.join(", ");
            return Err(format!(
                "nothing is called {unknown:?}; there are {known}, {UPDATES}, {HEALTH} and {SCALE}"
            ));
        }
        Ok(settings)
    }

    /// Whether a stack or a section is to be measured. Ratios need the floor, whatever else is.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let named = |wanted: &String| wanted == name || (name == "floor" && is_stack(wanted));
        self.only.is_empty() || self.only.iter().any(named)
    }
}

/// The sections beside the stacks: what an update costs, and what checking the health of endpoints costs.
pub(crate) const UPDATES: &str = "updates";
pub(crate) const HEALTH: &str = "health";
pub(crate) const SCALE: &str = "scale";

fn is_stack(name: &str) -> bool {
    STACKS.contains(&name)
}

fn number(flag: &str, value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{flag} takes a number of at least 1, not {value:?}"))
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    threads: usize,
    endpoints: usize,
    /// Nanoseconds a call, as each thread sees it: the median over the rounds.
    ns: f64,
    /// Times the floor of the same round: the median over the rounds.
    vs_floor: f64,
    /// Times tower's stack of the same round, if that was measured: the median over the rounds.
    vs_tower: Option<f64>,
    /// Allocations a call, counted in a round of their own.
    allocs: f64,
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Report {
    stacks: Vec<Row>,
    updates: Vec<mesh::Update>,
    health: Vec<health::Row>,
    scale: Vec<scale::Row>,
    polled: Vec<polled::Row>,
}

/// What one kind of stack does in one round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ns: f64,
    allocs: f64,
}

type Bench = Box<dyn Fn() -> Sample>;

impl Report {
    /// Measures every stack with `threads` threads calling and `endpoints` endpoints.
    pub(crate) fn add(&mut self, settings: &Settings, threads: usize, endpoints: usize) {
        let runtime = runtime(threads);
        let benches = benches(&runtime, settings, threads, endpoints);
        for (_, bench) in &benches {
            bench(); // warms up, and lets drivers and tower's readiness queue settle
        }
        let mut rounds: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
        for _ in 0..settings.rounds {
            for (name, bench) in &benches {
                rounds.entry(name).or_default().push(bench());
            }
        }
        for (name, _) in &benches {
            let own = &rounds[name];
            let ratio_to =
                |other: &[Sample]| median(own.iter().zip(other).map(|(own, other)| own.ns / other.ns));
            self.stacks.push(Row {
                name,
                threads,
                endpoints,
                ns: median(own.iter().map(|sample| sample.ns)),
                vs_floor: ratio_to(&rounds["floor"]),
                vs_tower: rounds.get("tower").map(|tower| ratio_to(tower)),
                allocs: median(own.iter().map(|sample| sample.allocs)),
            });
        }
    }

    pub(crate) fn print(&self) {
        if !self.stacks.is_empty() {
            self.print_stacks();
        }
        if !self.updates.is_empty() {
            self.print_updates();
        }
        if !self.health.is_empty() {
            self.print_health();
        }
        if !self.scale.is_empty() {
            self.print_scale();
        }
        if !self.polled.is_empty() {
            self.print_polled();
        }
    }

    fn print_scale(&self) {
        println!(
            "\n{:<9} {:>9} {:>9} {:>11} {:>9} {:>10} {:>12} {:>11} {:>11} {:>12} {:>14}",
            "services",
            "endpoints",
            "build ms",
            "connect ms",
            "start ms",
            "status ms",
            "reload: same",
            "one change",
            "all change",
            "shutdown ms",
            "bytes/endpoint"
        );
        for row in &self.scale {
            println!(
                "{:<9} {:>9} {:>9.1} {:>11.1} {:>9.1} {:>10.1} {:>12.1} {:>11.1} {:>11.1} {:>12.1} {:>14}",
                row.services,
                row.endpoints,
                row.build_ms,
                row.connect_ms,
                row.start_ms,
                row.status_ms,
                row.reload_same_ms,
                row.reload_one_ms,
                row.reload_all_ms,
                row.shutdown_ms,
                row.bytes_per_endpoint
            );
        }
    }

    fn print_polled(&self) {
        println!(
            "\n{:<9} {:>9} {:>9} {:>9} {:>12} {:>8} {:>13}   {:<24} {:<15}",
            "services",
            "endpoints",
            "statuses",
            "ns/call",
            "while polled",
            "x alone",
            "x other mesh",
            "longest us: a / o / p",
            "sleeps: a / o / p"
        );
        for row in &self.polled {
            println!(
                "{:<9} {:>9} {:>9} {:>9.1} {:>12.1} {:>8.3} {:>13.3}   {:<24} {:<15}",
                row.services,
                row.endpoints,
                row.polls,
                row.ns,
                row.polled_ns,
                row.vs_alone,
                row.vs_other,
                row.longest_us.map(|us| format!("{us:.0}")).join(" / "),
                row.sleeps.map(|sleeps| sleeps.to_string()).join(" / ")
            );
        }
        println!(
            "a: nobody looks; o: somebody looks at another mesh of that size; p: polled, somebody looks at this one"
        );
    }

    /// Measures large meshes.
    pub(crate) fn add_scale(&mut self) {
        let runtime = runtime(2);
        self.scale = runtime.block_on(scale::rows());
        self.polled = [(1, 10_000), (100, 10_000)]
            .map(|(services, endpoints)| polled::row(&runtime, services, endpoints))
            .into();
    }

    fn print_health(&self) {
        println!(
            "\n{:<10} {:>9} {:>11} {:>7} {:>9} {:>9} {:>11} {:>11}",
            "probe",
            "endpoints",
            "interval ms",
            "probes",
            "us/probe",
            "% of core",
            "mean /10ms",
            "peak /10ms"
        );
        let or_unknown = |figure: Option<f64>| figure.map_or("?".to_owned(), |figure| format!("{figure:.2}"));
        for row in &self.health {
            println!(
                "{:<10} {:>9} {:>11} {:>7} {:>9} {:>9} {:>11.1} {:>11}",
                row.probe,
                row.endpoints,
                row.interval_ms,
                row.probes,
                or_unknown(row.us_per_probe),
                or_unknown(row.cpu_percent),
                row.mean_per_10ms,
                row.peak_per_10ms
            );
        }
    }

    fn print_stacks(&self) {
        println!(
            "{:<18} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8}",
            "stack", "threads", "endpoints", "ns/call", "x floor", "x tower", "allocs"
        );
        for row in &self.stacks {
            println!(
                "{:<18} {:>7} {:>9} {:>9.1} {:>9.2} {:>9.3} {:>8.2}",
                row.name,
                row.threads,
                row.endpoints,
                row.ns,
                row.vs_floor,
                row.vs_tower.unwrap_or(f64::NAN),
                row.allocs
            );
        }
    }

    fn print_updates(&self) {
        println!(
            "\n{:<18} {:>9} {:>12} {:>16} {:>14}",
            "one change", "endpoints", "us/update", "longest call us", "bytes/endpoint"
        );
        for row in &self.updates {
            println!(
                "{:<18} {:>9} {:>12.0} {:>16.1} {:>14}",
                row.algorithm, row.endpoints, row.us, row.longest_call_us, row.bytes
            );
        }
    }

    /// Measures what checking costs.
    pub(crate) fn add_health(&mut self) {
        self.health = health::rows(Duration::from_secs(5));
    }

    /// Measures what an update of `endpoints` endpoints with one change costs, by algorithm.
    pub(crate) fn add_updates(&mut self, settings: &Settings, endpoints: usize) {
        let runtime = runtime(1);
        let _inside = runtime.enter();
        for algorithm in Algorithm::ALL {
            self.updates.push(mesh::update(endpoints, algorithm, settings.rounds.max(5)));
        }
    }

    pub(crate) fn write_json(&self, path: &std::path::Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(&self.stacks)?)
    }
}

/// Names the stacks once: for the command line, and to make those that are asked for.
macro_rules! stacks {
    ($($name:literal => $make:expr,)*) => {
        const STACKS: &[&str] = &[$($name),*];

        fn benches(
            runtime: &Runtime,
            settings: &Settings,
            threads: usize,
            endpoints: usize,
        ) -> Vec<(&'static str, Bench)> {
            let _inside = runtime.enter();
            let calls = settings.calls;
            let mut benches = Vec::new();
            $(if settings.wants($name) {
                let (handle, service) = (runtime.handle().clone(), $make(endpoints));
                benches.push(($name, Box::new(move || run(&handle, &service, calls, threads)) as Bench));
            })*
            benches
        }
    };
}

stacks! {
    "floor" => Floor::new,
    "tower" => peers::tower_stack,
    "balance" => mesh::balance,
    "least-request" => |endpoints| mesh::balance_by(endpoints, Algorithm::P2cLeastRequest),
    "round-robin" => |endpoints| mesh::balance_by(endpoints, Algorithm::RoundRobin),
    "random" => |endpoints| mesh::balance_by(endpoints, Algorithm::Random),
    "ring-hash" => |endpoints| mesh::balance_by(endpoints, Algorithm::RingHash),
    "maglev" => |endpoints| mesh::balance_by(endpoints, Algorithm::Maglev),
    "two levels" => mesh::balance_in_levels,
    "tower-balance" => peers::tower_balance,
    "balance+breaker" => mesh::balance_and_breaker,
    "whole" => mesh::whole,
    "mesh" => mesh::mesh,
}

/// `calls` calls on each of `threads` tasks of a runtime with as many workers.
fn run<S>(runtime: &tokio::runtime::Handle, service: &S, calls: u64, threads: usize) -> Sample
where
    S: Service<Request, Response = u64, Future: Send> + Clone + Send + 'static,
    S::Error: std::fmt::Debug,
{
    let region = Region::new(ALLOCATOR);
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let mut service = service.clone();
            runtime.spawn(async move {
                let started = tokio::time::Instant::now();
                for i in 0..calls {
                    let response =
                        service.ready().await.expect("ready").call(Request(i)).await.expect("an answer");
                    std::hint::black_box(response);
                }
                started.elapsed()
            })
        })
        .collect();
    let spent: Duration = futures_util::future::join_all(tasks)
        .block_on_with(runtime)
        .into_iter()
        .map(|spent| spent.expect("a task does not panic"))
        .sum();
    let total = (calls * threads as u64) as f64;
    Sample { ns: spent.as_nanos() as f64 / total, allocs: region.change().allocations as f64 / total }
}

trait BlockOn: Future + Sized {
    fn block_on_with(self, runtime: &tokio::runtime::Handle) -> Self::Output {
        runtime.block_on(self)
    }
}

impl<F: Future> BlockOn for F {}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
