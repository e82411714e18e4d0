use std::time::Duration;

use super::*;
use crate::classify::{Origin, Outcome};
use crate::ewma::Decay;
use crate::tick::Tick;

fn tau() -> Decay {
    Decay::new(Duration::from_secs(10))
}

fn handle() -> (EndpointHandle, Tick) {
    (EndpointHandle::new("a:1".parse().unwrap()), Tick::of(std::time::Instant::now()))
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_key_has_a_name_for_as_long_as_its_record_lives() {
    let (handle, _) = handle();
    let key = handle.key();
    assert_eq!(EndpointHandle::id_of(key).as_ref(), Some(handle.id()));
    drop(handle);
    assert_eq!(EndpointHandle::id_of(key), None);
}

#[test]
fn each_layer_owns_its_own_reason() {
    let (handle, _) = handle();
    assert!(handle.set(Reason::ProbeDown) && !handle.set(Reason::ProbeDown));
    handle.set(Reason::CircuitOpen);
    assert!(handle.clear(Reason::ProbeDown));
    assert_eq!(handle.availability(), [Reason::CircuitOpen].into_iter().collect());
}

#[test]
fn an_open_circuit_wants_a_trial_when_its_wait_is_over_unless_something_else_blocks() {
    let (handle, now) = handle();
    let due = now + seconds(5);
    handle.open_circuit(now, Some(due), true);
    assert!(!handle.is_pickable(now) && handle.is_pickable(due));
    handle.set(Reason::ProbeDown);
    assert!(!handle.is_pickable(due));
    handle.clear(Reason::ProbeDown);
    handle.half_open_circuit();
    assert!(handle.is_pickable(now));
}

#[test]
fn only_a_probe_that_began_after_the_trip_brings_the_trial_forward() {
    let (handle, now) = handle();
    let at = |n| now + seconds(n);
    handle.open_circuit(at(1), Some(at(60)), true);
    assert!(!handle.hint_recovery(now));
    assert!(!handle.is_pickable(at(2)));
    assert!(handle.hint_recovery(at(2)));
    assert!(handle.is_pickable(at(2)));
    handle.open_circuit(at(1), Some(at(60)), false);
    assert!(!handle.hint_recovery(at(3)), "a circuit that stopped believing probes waits for its time");
    handle.open_circuit(now, None, true);
    assert!(!handle.is_pickable(at(1000)), "forced open: no time is set");
}

#[test]
fn counts_balance_and_late_latency_is_ignored() {
    let (handle, now) = handle();
    handle.started();
    handle.started();
    let old = handle.latency_epoch();
    handle.finished(CallEnd::Answered(Outcome::Failure(Origin::Remote)));
    handle.observe_latency(old, now, 5_000_000_000, tau());
    assert!(handle.load(now, tau()) > 0.0);
    handle.forget_latency();
    handle.finished(CallEnd::Abandoned);
    handle.observe_latency(old, now, 5_000_000_000, tau());
    assert_eq!(handle.latency(now, tau()), None);
    let counts = handle.counts();
    assert_eq!((counts.started, counts.failed, counts.abandoned, counts.in_flight()), (2, 1, 1, 0));
}

#[test]
fn calls_from_before_the_trip_do_not_keep_the_trial_call_away() {
    let (handle, now) = handle();
    handle.started();
    handle.observe_latency(handle.latency_epoch(), now, 5_000_000_000, tau());
    handle.started();
    handle.open_circuit(now, Some(now), false);
    assert_eq!(handle.load(now, tau()), 0.0, "two are out, and may be for hours");
    handle.half_open_circuit();
    handle.started();
    handle.observe_latency(handle.latency_epoch(), now, 5_000_000_000, tau());
    assert_eq!(handle.load(now, tau()), 0.0, "one trial call is back, others are wanted");
    handle.close_circuit();
    assert!(handle.load(now, tau()) > 1e9, "closed, it is one of many");
}

#[test]
fn a_passing_probe_takes_back_what_a_failure_weighs_and_nothing_else() {
    let (handle, now) = handle();
    let epoch = handle.latency_epoch();
    handle.observe_latency(epoch, now, 4_000_000, tau());
    handle.hint_recovery(now + seconds(1));
    assert!(handle.latency(now, tau()).is_some(), "slow is not failed");
    handle.observe_failure(epoch, now, 5_000_000_000, tau());
    assert!(handle.load(now, tau()) > 1e9);
    assert_eq!(handle.availability(), Availability::FULL, "a weight is no reason");
    handle.hint_recovery(now + seconds(1));
    assert_eq!(handle.load(now, tau()), 0.0);
}

#[test]
fn who_listens_is_told_as_long_as_it_is_there_and_may_use_the_record() {
    let (handle, _) = handle();
    let told = Arc::new(AtomicU32::new(0));
    let listener = |told: &Arc<AtomicU32>| -> Arc<DownListener> {
        let (told, of) = (told.clone(), handle.downgrade());
        Arc::new(move || {
            // Were it told under the lock of the record, this would hang.
            of.upgrade().unwrap().endpoint();
            told.fetch_add(1, Ordering::Relaxed);
        })
    };
    let (first, second) = (listener(&told), listener(&told));
    handle.on_down(&first);
    handle.on_down(&second);
    handle.tell_down();
    assert_eq!(told.load(Ordering::Relaxed), 2);
    drop(first);
    handle.tell_down();
    assert_eq!(told.load(Ordering::Relaxed), 3);
    for _ in 0..100 {
        handle.on_down(&listener(&told));
    }
    let kept = handle.cold().attached.as_ref().unwrap().down_listeners.len();
    assert!(kept <= 2, "{kept}: who is gone is forgotten");
}

#[test]
fn weight_shares_the_load_and_an_update_keeps_what_was_learned() {
    let (handle, now) = handle();
    handle.observe_latency(handle.latency_epoch(), now, 4_000_000, tau());
    let before = handle.load(now, tau());
    let weight = std::num::NonZeroU32::new(4).unwrap();
    handle.update(handle.endpoint().as_ref().clone().with_weight(weight));
    assert_eq!(handle.load(now, tau()), before / 4.0);
}

#[test]
fn what_is_attached_goes_with_the_record_and_may_use_it_no_more() {
    struct Attachment {
        of: WeakEndpoint,
        next: EndpointHandle,
        gone: Arc<AtomicU32>,
    }
    impl Drop for Attachment {
        fn drop(&mut self) {
            let alone = self.of.upgrade().is_none();
            self.gone.fetch_add(u32::from(alone), Ordering::Relaxed);
            // Were it dropped under the lock of a record, one that reaches back would hang here.
            self.next.attach(self.gone.clone());
        }
    }
    let ((a, _), (b, _)) = (handle(), handle());
    let gone = Arc::new(AtomicU32::new(0));
    for _ in 0..2 {
        a.attach(Arc::new(Attachment { of: a.downgrade(), next: b.clone(), gone: gone.clone() }));
    }
    let (weak, clone) = (a.downgrade(), a.clone());
    a.update("a:2".parse().unwrap());
    drop(a);
    assert_eq!((gone.load(Ordering::Relaxed), weak.upgrade().unwrap().key()), (0, clone.key()));
    drop(clone);
    assert_eq!(gone.load(Ordering::Relaxed), 2);
    assert_eq!(Arc::strong_count(&gone), 3, "attached to the other endpoint");
    drop(b);
    assert_eq!(Arc::strong_count(&gone), 1);
}

#[test]
fn a_record_keeps_to_two_cache_lines_and_what_calls_touch_to_one() {
    assert_eq!(size_of::<Hot>(), 64);
    // Elsewhere a mutex may be larger.
    if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
        assert_eq!(size_of::<Record>(), 128);
    }
}
