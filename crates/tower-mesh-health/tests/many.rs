//! Ten thousand endpoints, under a paused clock.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_health::{HealthConfig, HealthConfigBuilder, HealthLayer};

const ENDPOINTS: u32 = 10_000;

/// Passes, and remembers who was asked in which ten milliseconds.
#[derive(Clone)]
struct Asked(Instant, Arc<Mutex<Vec<(u128, u32)>>>);

impl Probe for Asked {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let slot = self.0.elapsed().as_millis() / 10;
        self.1.lock().unwrap().push((slot, endpoint.key()));
        Ok(Probed::Healthy)
    }
}

/// Who was asked when, in twenty seconds, four intervals.
async fn asked(config: HealthConfigBuilder) -> Vec<(u128, u32)> {
    let asked = Asked(Instant::now(), Arc::default());
    let (health, prober) = HealthLayer::new(config.build().unwrap(), asked.clone());
    let fleet: Vec<_> =
        (0..ENDPOINTS).map(|i| EndpointHandle::new(format!("e:{i}").parse().unwrap())).collect();
    for endpoint in &fleet {
        health.watching(endpoint);
    }
    assert!(timeout(Duration::from_secs(20), prober).await.is_err(), "the prober has ended");
    let asked = asked.1.lock().unwrap();
    asked.clone()
}

fn peak(asked: &[(u128, u32)]) -> u32 {
    let mut slots = HashMap::<u128, u32>::new();
    asked.iter().for_each(|(slot, _)| *slots.entry(*slot).or_default() += 1);
    slots.into_values().max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn they_are_spread_in_time_and_each_keeps_its_pace() {
    let asked = asked(HealthConfig::builder().initial_spread(Duration::from_secs(5))).await;
    // 20 in ten milliseconds on average.
    assert!(peak(&asked) <= 60, "{} at once", peak(&asked));
    let mut times = HashMap::<u32, u32>::new();
    asked.iter().for_each(|(_, key)| *times.entry(*key).or_default() += 1);
    assert_eq!(times.len() as u32, ENDPOINTS);
    assert!(times.values().all(|times| (3..=4).contains(times)), "every 5 to 5.5 s");
}

#[tokio::test(start_paused = true)]
async fn without_a_spread_they_begin_together() {
    assert_eq!(peak(&asked(HealthConfig::builder()).await), ENDPOINTS);
}

/// Hangs if the endpoint's number is even, and remembers when the others were asked.
#[derive(Clone, Default)]
struct HalfHangs(Arc<Mutex<HashMap<u32, Vec<Instant>>>>);

impl Probe for HalfHangs {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let number: u32 = endpoint.id().as_str().split_once(':').unwrap().1.parse().unwrap();
        if number.is_multiple_of(2) {
            return std::future::pending().await;
        }
        self.0.lock().unwrap().entry(number).or_default().push(Instant::now());
        Ok(Probed::Healthy)
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_hang_those_that_answer_are_checked_in_time() {
    let probe = HalfHangs::default();
    // Not a part of the interval, or places would become free just when they are wanted.
    let limit = Duration::from_millis(700);
    let config = HealthConfig::builder().jitter(0.0).max_concurrent(8).timeout(limit).build().unwrap();
    let (health, mut prober) = HealthLayer::new(config, probe.clone());
    let fleet: Vec<_> = (0..400).map(|i| EndpointHandle::new(format!("e:{i}").parse().unwrap())).collect();
    for endpoint in &fleet {
        health.watching(endpoint);
    }
    // At first nobody knows who hangs.
    assert!(timeout(Duration::from_secs(60), &mut prober).await.is_err());
    probe.0.lock().unwrap().clear();
    assert!(timeout(Duration::from_secs(60), &mut prober).await.is_err());
    let asked = probe.0.lock().unwrap();
    assert_eq!(asked.len(), 200);
    let waits = asked.values().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0]));
    let longest = waits.max().unwrap();
    assert!(longest <= Duration::from_millis(5005), "not every 5 s, but after {longest:?}");
    let last: Vec<_> = health.status().iter().filter_map(|status| status.last_rtt()).collect();
    assert_eq!(last.iter().filter(|rtt| **rtt == limit).count(), 200, "and they are too");
}
