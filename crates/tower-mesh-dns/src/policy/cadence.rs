//! When to ask again.

use std::time::Duration;

use crate::config::DnsConfig;

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something that holds for so long.
    Answer { ttl: Duration },
    /// That there is nothing; the server may have said for how long that holds.
    Nothing { ttl: Option<Duration> },
    /// No answer.
    Failure,
}

/// What a server that says nothing of it is taken to mean by "there is nothing".
const UNSAID: Duration = Duration::from_secs(10);

/// How often nobody answered in a row decides how long to wait.
#[derive(Debug, Default)]
pub(crate) struct Cadence {
    failures: u32,
}

impl Cadence {
    /// How long to wait; `draw` is from 0 to 1. An answer is never asked for again before its time is over, but always within `max_interval`.
    pub(crate) fn wait(&mut self, heard: Heard, config: &DnsConfig, draw: f64) -> Duration {
        let (ttl, most) = match heard {
            Heard::Answer { ttl } => (ttl, config.max_interval()),
            Heard::Nothing { ttl } => (ttl.unwrap_or(UNSAID), config.max_negative_interval()),
            Heard::Failure => {
                let doubled = config.retry_delay().saturating_mul(1 << self.failures.min(20));
                self.failures = self.failures.saturating_add(1);
                // Between half of it and all of it.
                return doubled.min(config.max_retry_delay()).mul_f64(0.5 + 0.5 * draw);
            }
        };
        self.failures = 0;
        let interval = ttl.min(most).max(config.min_interval());
        interval.mul_f64(1.0 + config.jitter() * draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_ttl_is_kept_within_floor_and_ceiling_and_only_ever_lengthened_by_jitter() {
        let config = DnsConfig::builder()
            .min_interval(seconds(5))
            .max_interval(seconds(60))
            .jitter(0.1)
            .build()
            .unwrap();
        let mut cadence = Cadence::default();
        for (ttl, expected) in [(0, 5), (1, 5), (30, 30), (60, 60), (86_400, 60)] {
            let mut wait = |draw| cadence.wait(Heard::Answer { ttl: seconds(ttl) }, &config, draw);
            assert_eq!(wait(0.0), seconds(expected));
            let longest = wait(1.0);
            assert!(
                longest > seconds(expected) && longest <= seconds(expected).mul_f64(1.1 + 1e-9),
                "{longest:?}"
            );
        }
    }

    #[test]
    fn that_there_is_nothing_is_believed_for_a_shorter_time() {
        let config = DnsConfig::default();
        let mut cadence = Cadence::default();
        let mut wait =
            |ttl: Option<u64>| cadence.wait(Heard::Nothing { ttl: ttl.map(seconds) }, &config, 0.0);
        assert_eq!([wait(Some(3600)), wait(Some(7)), wait(None)], [seconds(30), seconds(7), seconds(10)]);
    }

    #[test]
    fn failures_back_off_to_a_ceiling_and_one_answer_ends_that() {
        let config = DnsConfig::default();
        let mut cadence = Cadence::default();
        let waits: Vec<_> = (0..40).map(|_| cadence.wait(Heard::Failure, &config, 1.0).as_secs()).collect();
        assert_eq!(waits[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(waits[39], 30);
        cadence.wait(Heard::Answer { ttl: seconds(1) }, &config, 0.0);
        assert_eq!(cadence.wait(Heard::Failure, &config, 0.0), Duration::from_millis(500));
    }
}
