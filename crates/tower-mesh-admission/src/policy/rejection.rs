//! How likely a call is refused while too few succeed: Envoy's admission control, which is Google's client-side throttling with a threshold and an exponent.

use tower_mesh_core::Priority;

/// The probability with which to refuse, after `total` calls of which `succeeded` did: `((total - succeeded / threshold) / (total + 1)) ^ (1 / aggression)`, not below
/// 0, and at most `max`.
pub fn rejection_probability(total: u64, succeeded: u64, threshold: f64, aggression: f64, max: f64) -> f64 {
    let missing = total as f64 - succeeded as f64 / threshold;
    let share = missing / (total as f64 + 1.0);
    if share <= 0.0 { 0.0 } else { share.powf(1.0 / aggression).min(max) }
}

/// The same for a call of `priority`, where that of normal ones is `probability`: its root for those to be shed first, its square for critical ones. None is more than
/// `max`.
pub fn with_priority(probability: f64, priority: Priority, max: f64) -> f64 {
    match priority {
        Priority::Sheddable => probability.sqrt().min(max),
        Priority::Normal => probability,
        Priority::Critical => probability * probability,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_successes_never_mean_fewer_refusals_and_lower_priorities_go_first() {
        let mut before = 0.0;
        for succeeded in (0..=1000).rev() {
            let normal = rejection_probability(1000, succeeded, 0.95, 1.0, 0.8);
            assert!((before..=0.8).contains(&normal), "{succeeded}: {normal}");
            before = normal;
            let by = |priority| with_priority(normal, priority, 0.8);
            assert!(by(Priority::Critical) <= normal && normal <= by(Priority::Sheddable));
            assert!(by(Priority::Sheddable) <= 0.8);
        }
        assert_eq!(before, 0.8);
        assert_eq!(rejection_probability(0, 0, 0.95, 1.0, 0.8), 0.0);
    }
}
