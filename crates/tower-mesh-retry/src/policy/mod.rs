//! What to do, apart from doing it: no clock, no lock, no allocation. Time and chance are arguments.

pub(crate) mod budget;
pub(crate) mod decision;
pub(crate) mod hedge;
pub(crate) mod latency;
pub(crate) mod limit;
pub(crate) mod reason;
pub(crate) mod throttle;
