//! Runs every case of every kind of vector that is adopted, straight through the policies. `vectors/README.md` says which those are, and is kept true
//! by this.
//!
//! `MESH_VECTORS` names another directory of the same format. There not every file need be, but something must run; a kind that is neither adopted nor
//! listed as not adopted fails, and so does a case of an adopted kind that is not understood.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod backoff;
mod balance;
mod case;
mod circuit;
mod deadlines;
mod discovery;
mod ewma;
mod health;
mod hedging;
mod outlier;
mod pick;
mod pushback;
mod retry;
mod throttle;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use case::{Case, Outcome};

/// A kind of case, where its rule is run, and what runs it.
type Adopted = (&'static str, &'static str, fn(&Case) -> Outcome);

macro_rules! adopted {
    ($($topic:ident: $($kind:ident),+;)+) => {
        [$($((stringify!($kind), concat!(stringify!($topic), "::", stringify!($kind)), $topic::$kind)),+),+]
    };
}

#[rustfmt::skip]
const ADOPTED: &[Adopted] = &adopted! {
    admission: aimd, gradient2_step, envoy_admission, sre_throttle;
    backoff: full_jitter_mod, lower_bound_jitter, exponential, decorrelated_step, equal_jitter_step, polly_delay_max, aws_upper_bounds, linear, grpc_retry_delay, linkerd_backoff, polly_delay, randomized_bounds;
    balance: edf_sequence, hash_combine, lr_weight, maglev_table, panic_single, priority_load, ring_build, ring_counts, ring_pick, slow_start_factor, subset, zone_aware;
    circuit: cb_trace, cb_count_window, cb_threshold, consecutive_accrual, linkerd_unified_rule;
    deadlines: grpc_timeout_decode, grpc_timeout_encode_truncate;
    discovery: stabilize, envoy_matrix, eureka_eviction;
    ewma: ema, ewma_linkerd, peak_ewma_load, peak_ewma_trace, peak_ewma_property, load_bias;
    health: hc_trace, hc_jitter, grpc_health_watch;
    outlier: sr_threshold, sweep, ejection_cap, consecutive, ejection_timeline, ejection_durations, ejection_jitter, grpc_ejection_duration, hc_unejects_outlier;
    hedging: hedge_timeline;
    pick: p2c_distinct;
    pushback: envoy_reset_delay, linkerd_hint;
    retry: envoy_retry_budget, finagle_budget_frozen, finagle_budget_deposits, finagle_budget_validation, finagle_budget_params, leaky_bucket_trace, grpc_retry_unary, per_try_effective;
    throttle: grpc_throttle_ops, grpc_throttle_rpc_trace, grpc_throttle_validation, hedge_throttled;
    windows: time_window, count_window, ring_ratio;
};

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// The directory to run. One given as a relative path is looked for from here and from the workspace's root.
fn directory() -> PathBuf {
    let Some(given) = std::env::var_os("MESH_VECTORS") else {
        return own();
    };
    let given = PathBuf::from(given);
    if given.exists() { given } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(given) }
}

/// The rows of a table in the README: the first cell, which is a kind, and the second.
fn table(readme: &str, heading: &str) -> BTreeMap<String, String> {
    let section = readme.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("vectors/README.md has no section {heading:?}"));
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
    })
    .collect()
}

fn not_adopted() -> BTreeMap<String, String> {
    table(include_str!("../vectors/README.md"), "Not adopted")
}

#[test]
fn every_case_of_every_adopted_kind() {
    let (directory, not_adopted) = (directory(), not_adopted());
    let (mut ran, mut left, mut failures) = (0, BTreeMap::<_, u32>::new(), Vec::new());
    for case in case::read(&directory).unwrap_or_else(|error| panic!("{error}")) {
        let kind = case.kind();
        match ADOPTED.iter().find(|(adopted, ..)| *adopted == kind) {
            Some((_, _, check)) => {
                ran += 1;
                if let Err(error) = case.run(*check) {
                    failures.push(format!("{case}: {error}"));
                }
            }
            None if not_adopted.contains_key(kind) => *left.entry(kind.to_owned()).or_default() += 1,
            None => failures.push(format!("{case}: neither adopted nor listed as not adopted")),
        }
    }
    let kinds = left.len();
    println!(
        "{}: {ran} cases ran, {} failed; {} cases of {kinds} kinds that are not adopted",
        directory.display(),
        failures.len(),
        left.values().sum::<u32>()
    );
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 0, "nothing ran in {}", directory.display());
}

#[test]
fn the_readme_says_what_is_adopted() {
    let readme = table(include_str!("../vectors/README.md"), "Adopted");
    let adopted = ADOPTED.iter().map(|&(kind, function, _)| (kind.to_owned(), function.to_owned()));
    assert_eq!(readme, adopted.collect());
    for (kind, reason) in not_adopted() {
        assert!(!readme.contains_key(&kind), "{kind} is in both tables");
        assert!(!reason.is_empty(), "{kind}: no reason");
    }
}

#[test]
fn the_projects_own_vectors_are_all_accounted_for() {
    let cases = case::read(&own()).unwrap();
    let there: BTreeSet<_> = cases.iter().map(|case| case.kind().to_owned()).collect();
    let adopted = ADOPTED.iter().map(|(kind, ..)| (*kind).to_owned());
    let listed: BTreeSet<_> = adopted.chain(not_adopted().into_keys()).collect();
    assert_eq!(there, listed, "a kind without a case, or a case without a kind");
}

/// What is not understood fails: the runner is only worth what it refuses.
#[test]
fn what_is_not_understood_is_a_failure() {
    let run = |case: &str| {
        let case = Case::parse("test.json", &serde_json::from_str(case).unwrap()).unwrap();
        let (.., check) = ADOPTED.iter().find(|(kind, ..)| *kind == case.kind()).unwrap();
        case.run(*check)
    };
    let with = |given: &str, expect: &str| {
        run(&format!(r#"{{"id": "x", "kind": "lower_bound_jitter", "given": {given}, "expect": {expect}}}"#))
    };
    assert_eq!(with(r#"{"min_ms": 500, "random": 22}"#, r#"{"delay_ms": 522}"#), Ok(()));
    for (given, expect) in [
        (r#"{"min_ms": 500, "random": 22}"#, r#"{"delay_ms": 523}"#),
        (r#"{"min_ms": 500, "random": 22, "cap_ms": 510}"#, r#"{"delay_ms": 522}"#),
        (r#"{"min_ms": 500, "random": 22}"#, r#"{"delay_ms": 522, "attempts": 1}"#),
        (r#"{"min_ms": "soon", "random": 22}"#, r#"{"delay_ms": 522}"#),
        (r#"{"random": 22}"#, r#"{"delay_ms": 522}"#),
    ] {
        assert!(with(given, expect).is_err(), "{given} {expect}");
    }
    let trace = r#"{"id": "x", "kind": "time_window", "given": {"buckets": 5, "bucket_ms": 1000,
        "aligned_to_epoch_second": true, "ops": [["E"], ["rewind", 100]]},
        "expect": {"total_after_each_record": [1], "failed_after_each_record": [1]}}"#;
    assert!(run(trace).is_err(), "an operation nobody knows");
}
