//! What an HTTP status means.

use std::time::Duration;

use http::StatusCode;
use tower_mesh_core::classify::{Origin, Outcome, Retry, Verdict};

/// The verdict on `status`; `wait` is what its `Retry-After` asked for, see [`may_ask_to_wait`].
///
/// | status | counts as | may be sent again | because |
/// |---|---|---|---|
/// | 1xx, 2xx, 3xx | success | never | |
/// | 408 Request Timeout | failure, remote | if idempotent | the server gave up on this connection (RFC 9110 §15.5.9) |
/// | 425 Too Early | ignored | certainly not processed | the server only refuses what might be replayed (RFC 8470 §5.2) |
/// | 429 Too Many Requests | failure, overload | if idempotent | it asks for less (RFC 6585 §4); nothing says how far it got |
/// | other 4xx | success | never | the caller's own trouble: the endpoint did its work |
/// | 501, 505 | failure, remote | never | every endpoint of the service would say the same of this method or version |
/// | other 5xx, and what is no known class | failure, remote | if idempotent | |
///
/// That any 5xx is a failure is what Envoy (`consecutive_5xx`) and Linkerd go by.
pub fn verdict(status: StatusCode, wait: Option<Duration>) -> Verdict {
    match status.as_u16() {
        408 => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
        425 => Verdict { outcome: Outcome::Ignored, retry: Retry::NotProcessed, wait: None },
        429 => Verdict::failure(Origin::Overload, Retry::IfIdempotent).with_wait(wait),
        100..=499 => Verdict::SUCCESS,
        501 | 505 => Verdict::failure(Origin::Remote, Retry::Never),
        503 => Verdict::failure(Origin::Remote, Retry::IfIdempotent).with_wait(wait),
        _ => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
    }
}

/// Whether a `Retry-After` beside `status` is a wish of the server to be left alone: 429 and 503. Elsewhere (redirects, 413) it means
/// something else.
pub fn may_ask_to_wait(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_falls_where_the_table_says() {
        use Outcome::{Failure, Ignored, Success};
        let table = [
            (101, Success, Retry::Never),
            (200, Success, Retry::Never),
            (304, Success, Retry::Never),
            (404, Success, Retry::Never),
            (409, Success, Retry::Never),
            (408, Failure(Origin::Remote), Retry::IfIdempotent),
            (425, Ignored, Retry::NotProcessed),
            (429, Failure(Origin::Overload), Retry::IfIdempotent),
            (500, Failure(Origin::Remote), Retry::IfIdempotent),
            (501, Failure(Origin::Remote), Retry::Never),
            (502, Failure(Origin::Remote), Retry::IfIdempotent),
            (503, Failure(Origin::Remote), Retry::IfIdempotent),
            (504, Failure(Origin::Remote), Retry::IfIdempotent),
            (505, Failure(Origin::Remote), Retry::Never),
            (599, Failure(Origin::Remote), Retry::IfIdempotent),
            (999, Failure(Origin::Remote), Retry::IfIdempotent),
        ];
        for (code, outcome, retry) in table {
            let status = StatusCode::from_u16(code).unwrap();
            let found = verdict(status, None);
            assert_eq!((found.outcome, found.retry), (outcome, retry), "{code}");
        }
    }

    #[test]
    fn only_429_and_503_can_ask_to_wait() {
        let wait = Some(Duration::from_secs(7));
        for code in 100..600 {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(verdict(status, wait).wait.is_some(), may_ask_to_wait(status), "{code}");
        }
    }
}
