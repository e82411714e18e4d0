//! Envoy's trace of thresholds and intervals (`health_checker_impl_test.cc`, HealthCheckIntervals), through the pure policy.

use std::num::NonZeroU32;
use std::time::Duration;

use tower_mesh_health::policy::{Cadence, HealthState, Machine, Sample, lengthen};

#[test]
fn thresholds_edges_and_intervals_follow_the_trace() {
    let ms = Duration::from_millis;
    let cadence = Cadence {
        interval: ms(1000),
        unhealthy_interval: ms(2000),
        unhealthy_edge_interval: ms(3000),
        healthy_edge_interval: ms(4000),
        no_traffic_interval: ms(5000),
        unknown_interval: Duration::from_secs(1),
    };
    let three = NonZeroU32::new(3).unwrap();
    let mut machine = Machine::starting(HealthState::Healthy);
    let steps = [
        ("200", false, "unchanged", 5000),
        ("200", true, "unchanged", 1000),
        ("503", true, "changed", 2000),
        ("503", true, "unchanged", 2000),
        ("200", true, "pending", 4000),
        ("200", true, "pending", 4000),
        ("200", true, "changed", 1000),
        ("timeout", true, "pending", 3000),
        ("timeout", true, "pending", 3000),
        ("timeout", true, "changed", 2000),
        ("timeout", true, "unchanged", 2000),
        ("200", true, "pending", 4000),
        ("200", true, "pending", 4000),
        ("200", true, "changed", 1000),
        ("200", true, "unchanged", 1000),
    ];
    for (i, (result, traffic, transition, next)) in steps.into_iter().enumerate() {
        let sample = match result {
            "200" => Sample::Passed,
            "503" => Sample::Refused,
            _ => Sample::Unreachable,
        };
        let step = machine.record(sample, three, three);
        let found = match (step.is_change(), step.pending) {
            (true, _) => "changed",
            (false, true) => "pending",
            (false, false) => "unchanged",
        };
        assert_eq!(found, transition, "step {i}");
        assert_eq!(cadence.after(step, traffic), ms(next), "step {i}");
    }
}

#[test]
fn the_same_draw_gives_the_same_jitter() {
    let ms = Duration::from_millis;
    for (random, expected) in [(0, 5000), (999, 5999), (1000, 5000), (25, 5025)] {
        assert_eq!(lengthen(ms(5000), ms(1000), random), ms(expected));
    }
    for (random, expected) in [(0, 1000), (399, 1399), (400, 1000), (25, 1025)] {
        assert_eq!(lengthen(ms(1000), ms(1000) * 40 / 100, random), ms(expected));
    }
}
