//! The laws that every layer keeps, one file a law, on every layer alone and on all of them together.
//!
//! The number in each file's name is the law's in the design. `together` has what only several layers can show, `mesh` what the integrator owes, and
//! `peers` shows, where tower has the same thing, that it does otherwise.
#![allow(clippy::unwrap_used, reason = "tests")]

mod discovery_cache;
mod discovery_rest;
mod law_01_readiness;
mod law_02_picking;
mod law_03_bounded_waits;
mod law_04_background;
mod law_05_cancellation;
mod law_06_late_answers;
mod law_07_half_open_ends;
mod law_08_telling;
mod law_09_failure_is_not_speed;
mod law_10_body_end;
mod law_11_another_attempt;
mod law_12_waking;
mod law_13_bounded_state;
mod law_15_ready_costs_nothing;
mod mesh;
mod peers;
mod policy_in_tower;
mod together;
