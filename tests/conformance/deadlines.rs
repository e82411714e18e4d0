//! Deadlines on the wire, on `http`.

use std::time::Duration;

use tower_mesh_http::policy::timeout;

use crate::case::{Case, Outcome, same};

pub(crate) fn grpc_timeout_decode(case: &Case) -> Outcome {
    let found = timeout::from_grpc(case.given.text("value")?.as_bytes());
    let found = found.map(|timeout| timeout.as_nanos() as u64);
    same("nanoseconds", &found, &case.expect.whole_or_null("nanos")?)
}

pub(crate) fn grpc_timeout_encode_truncate(case: &Case) -> Outcome {
    let value = timeout::grpc(Duration::from_nanos(case.given.whole("nanos")?));
    same("value", &value.to_str().map_err(|error| error.to_string())?, &case.expect.text("value")?)
}
