use loom::thread;

use super::*;
use crate::classify::Outcome;

fn beside<R: Send + 'static>(
    handle: &EndpointHandle,
    run: impl FnOnce(EndpointHandle) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let handle = handle.clone();
    thread::spawn(move || run(handle))
}

#[test]
fn loom_no_layer_loses_its_reason_to_another_and_one_of_two_hears_of_the_change() {
    loom::model(|| {
        let handle = EndpointHandle::new("a:1".parse().unwrap());
        handle.set(Reason::Ejected);
        let other = beside(&handle, |handle| {
            handle.clear(Reason::Ejected);
            u32::from(handle.set(Reason::ProbeDown))
        });
        let now = Tick::of(std::time::Instant::now());
        handle.open_circuit(now, None, true);
        let own = u32::from(handle.set(Reason::ProbeDown));
        assert_eq!(own + other.join().unwrap(), 1);
        let expected = [Reason::ProbeDown, Reason::CircuitOpen];
        assert_eq!(handle.availability(), expected.into_iter().collect());
    });
}

#[test]
fn loom_calls_in_flight_are_never_negative_and_come_to_nothing() {
    loom::model(|| {
        let handle = EndpointHandle::new("a:1".parse().unwrap());
        let other = beside(&handle, |handle| {
            handle.started();
            handle.finished(CallEnd::Abandoned);
        });
        handle.started();
        let counts = handle.counts();
        assert!((1..=2).contains(&counts.in_flight()), "{counts:?}");
        handle.finished(CallEnd::Answered(Outcome::Success));
        other.join().unwrap();
        assert_eq!(handle.counts().in_flight(), 0);
    });
}
