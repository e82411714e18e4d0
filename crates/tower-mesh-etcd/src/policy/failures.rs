//! How long to wait before keys are listed, or put, again.

use std::time::Duration;

use tower_mesh_core::backoff::Chance;

use crate::config::EtcdConfig;

/// How often in a row it failed to list or to register, or for that to last. That a watch began, or that a key was put, says nothing: only what lasted as long as the longest wait ends the row.
#[derive(Debug, Default)]
pub(crate) struct Failures(u32);

impl Failures {
    /// Another one. `lasted`: how long the watch or the registration lasted that ended, if there was one.
    pub(crate) fn failed(&mut self, lasted: Option<Duration>, config: &EtcdConfig) {
        self.0 = self.after(lasted, config).saturating_add(1);
    }

    /// Nothing failed, but what is known is not whole: one list does not follow the other without a pause.
    pub(crate) fn pause(&mut self, lasted: Option<Duration>, config: &EtcdConfig) {
        self.0 = self.after(lasted, config).max(1);
    }

    fn after(&self, lasted: Option<Duration>, config: &EtcdConfig) -> u32 {
        let long = lasted.is_some_and(|lasted| lasted >= config.max_retry_delay());
        if long { 0 } else { self.0 }
    }

    /// How long to wait now, if at all.
    pub(crate) fn wait(&self, config: &EtcdConfig, chance: Chance) -> Option<Duration> {
        (self.0 > 0).then(|| config.backoff().delay(self.0, Duration::ZERO, chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_a_watch_has_lasted() {
        let seconds = Duration::from_secs;
        let config = EtcdConfig::builder().servers(["http://a:1"]).retry_delay(seconds(1)).build().unwrap();
        let mut failures = Failures::default();
        let longest = |failures: &Failures| failures.wait(&config, Chance::Uniform(1.0)).unwrap().as_secs();
        assert_eq!(failures.wait(&config, Chance::Uniform(1.0)), None);
        let mut waits = Vec::new();
        for watched in [None, Some(seconds(0)), Some(seconds(29)), None, Some(seconds(1)), None, None] {
            failures.failed(watched, &config);
            waits.push(longest(&failures));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        failures.pause(Some(seconds(29)), &config);
        assert_eq!(longest(&failures), 30, "neither better nor worse");
        failures.failed(Some(seconds(30)), &config);
        assert_eq!(longest(&failures), 1);
        assert_eq!(failures.wait(&config, Chance::Uniform(0.0)), Some(seconds(0)), "any part of it");
        failures.failed(None, &config);
        for watched in [30, 0, 0] {
            failures.pause(Some(seconds(watched)), &config);
            assert_eq!(longest(&failures), 1);
        }
    }
}
