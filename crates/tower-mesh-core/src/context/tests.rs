use super::*;

#[test]
fn scopes_nest_and_what_inner_layers_write_flows_back() {
    let mut outer = CallContext::new().with_hash_key(1);
    let mut inner = CallContext::new().with_hash_key(2);
    outer.lend(|| {
        inner.lend(|| CallContext::with(CallContext::keep_deadline));
        assert_eq!(CallContext::with(|call| call.hash_key()), Some(Some(1)));
    });
    assert!(inner.take_deadline_kept() && !outer.take_deadline_kept());
    assert_eq!((outer.hash_key(), inner.hash_key()), (Some(1), Some(2)));
}

#[test]
fn calls_made_by_one_piece_of_work_share_its_deadline_and_nothing_else() {
    let deadline = instant();
    let mut work = CallContext::around_calls().with_deadline(deadline);
    work.lend(|| {
        assert!(CallContext::with(|_| ()).is_none());
        let before = CallContext::attempt_started(instant);
        for _ in 0..2 {
            let mut call = CallScope::join();
            assert!(call.own().is_some());
            assert_eq!(
                call.with(|call| (call.deadline(), call.tried().is_empty())),
                Some((Some(deadline), true))
            );
            let started = call.run(|| CallContext::attempt_started(|| before + Duration::from_nanos(1)));
            assert!(started > before, "no reading is left from another call");
            call.with(|call| call.add_tried(1));
        }
    });
    assert_eq!((work.started(), work.gave_up()), (None, false));
    work.lend(|| CallContext::inherit().lend(|| CallContext::new().lend(CallContext::tell_gave_up)));
    assert!(work.gave_up(), "through every context between");
    CallContext::tell_gave_up();
    assert!(!CallContext::inherit().gave_up());
}

#[test]
fn a_panic_inside_gives_the_context_back() {
    let mut call = CallContext::new().with_hash_key(1);
    let lent = std::panic::AssertUnwindSafe(|| call.lend(|| panic!("inner")));
    assert!(std::panic::catch_unwind(lent).is_err());
    assert_eq!(call.hash_key(), Some(1));
    assert!(CallContext::with(|_| ()).is_none());
}

#[test]
fn guards_learn_why_they_are_dropped() {
    struct Tell<'a>(Tick, &'a mut Option<DropReason>);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            *self.1 = Some(CallContext::drop_reason_of(self.0));
        }
    }
    let mut seen = None;
    let mut call = CallContext::new();
    let now = call.lend(|| CallContext::attempt_started(instant));
    drop(Tell(now, &mut seen));
    assert_eq!(seen, Some(DropReason::CallerGone));
    call.drop_for(DropReason::AttemptTimeout, Tell(now, &mut seen));
    assert_eq!(seen, Some(DropReason::AttemptTimeout));
    call.drop_for(DropReason::AttemptTimeout, Tell(now + Duration::from_nanos(1), &mut seen));
    assert_eq!(seen, Some(DropReason::CallerGone), "the guard belongs to another attempt");
}

#[test]
fn one_reading_serves_all_layers_of_one_attempt_and_no_other() {
    let mut call = CallContext::new();
    let started = call.lend(|| CallContext::attempt_started(instant));
    call.lend(|| {
        assert_eq!(CallContext::attempt_started(|| unreachable!("read already")), started);
        let ended = CallContext::attempt_ended(started, instant);
        assert_eq!(CallContext::attempt_ended(started, || unreachable!("read already")), ended);
        let other = started + Duration::from_secs(9);
        assert_eq!(CallContext::attempt_ended(other, || other), other);
    });
    call.next_attempt();
    assert_eq!((call.started(), call.ended()), (None, None));
}

#[expect(clippy::disallowed_methods, reason = "stands for the clock that a shell supplies")]
fn instant() -> Tick {
    Tick::of(std::time::Instant::now())
}

#[test]
fn the_oldest_pick_is_forgotten_first() {
    let mut tried = Tried::default();
    (1..=6).for_each(|key| tried.add(key));
    assert_eq!(tried.keys(), [3, 4, 5, 6]);
    let call = CallContext::new();
    (1..=6).for_each(|key| call.add_tried(key));
    assert_eq!((call.sends(), call.beside().sends()), (6, 6), "all are counted");
}
