//! What the word says to a call: the low bits are the phase, the rest the generation.

use crate::policy::machine::State;

pub(super) const COUNTED: u64 = 0;
pub(super) const UNCOUNTED: u64 = 1;
pub(super) const ASK: u64 = 2;
const BITS: u32 = 2;

pub(super) fn of(state: State, generation: u64) -> u64 {
    let phase = match state {
        State::Closed | State::MetricsOnly => COUNTED,
        State::Disabled => UNCOUNTED,
        State::Open | State::HalfOpen | State::ForcedOpen => ASK,
    };
    (generation << BITS) | phase
}

pub(super) fn phase(word: u64) -> u64 {
    word & ((1 << BITS) - 1)
}

pub(super) fn generation(word: u64) -> u64 {
    word >> BITS
}
