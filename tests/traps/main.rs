//! The traps that peers were seen to fall into, T1 to T14: one check each, generic over who is checked. Every check passes on our layer, and catches a
//! minimal implementation that is wrong in the way the peer was; where tower itself is, it is caught too.
//!
//! A check gives `Err` with what it saw. What a peer has and we have not (a coalescing or reconnecting layer) is checked as the same law on a layer of ours.
#![allow(clippy::unwrap_used, reason = "tests")]

mod balancer;
mod circuit;
mod health;
mod retry;
mod waiting;

/// What a check saw.
type Seen = Result<(), String>;

/// `Err` with `seen` unless `right`.
fn ensure(right: bool, seen: impl FnOnce() -> String) -> Seen {
    if right { Ok(()) } else { Err(seen()) }
}

/// Passes on ours, and catches the wrong one for what is wrong with it.
#[track_caller]
fn assert_told_apart(ours: &Seen, wrong: &Seen, what_is_wrong: &str) {
    assert_eq!(*ours, Ok(()));
    assert_caught(wrong, what_is_wrong);
}

/// Catches it for what is wrong with it.
#[track_caller]
fn assert_caught(wrong: &Seen, what_is_wrong: &str) {
    match wrong {
        Ok(()) => panic!("the check does not catch what is wrong"),
        Err(seen) => assert!(seen.contains(what_is_wrong), "caught for another reason: {seen}"),
    }
}
