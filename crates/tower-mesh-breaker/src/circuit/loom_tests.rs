use loom::thread;
use std::time::Duration;

use tower_mesh_core::classify::{Origin, Outcome};

use super::*;

const FAILURE: Outcome = Outcome::Failure(Origin::Remote);

fn circuit(permits: u32) -> (Circuit, Tick) {
    let config = BreakerConfig::builder().consecutive_failures(2).half_open_permits(permits).build();
    let now = crate::service::clock();
    (Circuit::new(config.unwrap(), now), now)
}

fn both(circuit: &Circuit, run: impl Fn(Circuit) -> u32 + Copy + Send + 'static) -> u32 {
    let other = circuit.clone();
    let thread = thread::spawn(move || run(other));
    run(circuit.clone()) + thread.join().unwrap()
}

#[test]
fn loom_failures_in_a_row_trip_it_once_however_they_meet() {
    loom::model(|| {
        let (circuit, now) = circuit(1);
        both(&circuit, move |circuit| {
            if let Ok(permit) = circuit.acquire(now) {
                permit.finish(FAILURE, Duration::ZERO, now);
            }
            0
        });
        let snapshot = circuit.snapshot(now);
        assert_eq!((snapshot.state, snapshot.generation, snapshot.late), (State::Open, 1, 0));
    });
}

#[test]
fn loom_one_lease_goes_to_one_and_comes_back() {
    loom::model(|| {
        let (circuit, now) = circuit(1);
        circuit.trip(now);
        let due = now + Duration::from_secs(5);
        let admitted = both(&circuit, move |circuit| match circuit.acquire(due) {
            Ok(permit) => {
                // It shows nothing and goes back, perhaps before the other asks.
                permit.finish(Outcome::Ignored, Duration::ZERO, due);
                1
            }
            Err(_) => 0,
        });
        assert!(admitted >= 1);
        assert_eq!(circuit.snapshot(due).generation, 2, "it became half-open once");
        circuit.acquire(due).unwrap().finish(Outcome::Success, Duration::ZERO, due);
        assert_eq!(circuit.state(), State::Closed);
    });
}

#[test]
fn loom_a_trial_that_decides_meets_one_who_asks() {
    loom::model(|| {
        let (circuit, now) = circuit(1);
        circuit.trip(now);
        let due = now + Duration::from_secs(5);
        let trial = circuit.acquire(due).unwrap();
        let other = circuit.clone();
        let thread = thread::spawn(move || other.acquire(due).is_ok());
        trial.finish(Outcome::Success, Duration::ZERO, due);
        let admitted = thread.join().unwrap();
        assert_eq!(circuit.state(), State::Closed);
        assert_eq!(circuit.snapshot(due).refused, u64::from(!admitted));
    });
}

#[test]
fn loom_what_a_state_admitted_counts_for_it_or_is_late_never_both() {
    loom::model(|| {
        let (circuit, now) = circuit(1);
        let permit = circuit.acquire(now).unwrap();
        let other = circuit.clone();
        let thread = thread::spawn(move || {
            other.force_open(now);
            other.close(now);
        });
        permit.finish(FAILURE, Duration::ZERO, now);
        thread.join().unwrap();
        let snapshot = circuit.snapshot(now);
        assert_eq!((snapshot.state, snapshot.generation), (State::Closed, 2));
        // It may be counted by the state that follows, if that began between its look and its count; in that case it is not late.
        assert!(snapshot.late + snapshot.counts.total <= 1);
        assert!(snapshot.consecutive_failures <= 1);
    });
}
