//! What a gRPC answer means.
//!
//! Its HTTP status is 200 whatever happened; the outcome is the `grpc-status` in the trailers, or in the head when there is no message at
//! all ("trailers-only").

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use tower_mesh_core::classify::{Origin, Retry, Verdict};

const GRPC: &[u8] = b"application/grpc";

/// Whether the answer with these `headers` carries its status in trailers: content type `application/grpc`, with any suffix or
/// parameter. Not gRPC-Web, which carries it in the body.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    let (Some(start), rest) = (kind.get(..GRPC.len()), kind.get(GRPC.len())) else {
        return false;
    };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest, None | Some(b'+' | b';' | b' '))
}

/// The verdict that `fields` (trailers, or the head of a trailers-only answer) carry; none if they hold no `grpc-status`.
pub fn verdict_in(fields: &HeaderMap) -> Option<Verdict> {
    Some(verdict(code_in(fields)?, pushback(fields)))
}

/// The code that `fields` carry; what is no number is an unknown error: code 2.
pub(crate) fn code_in(fields: &HeaderMap) -> Option<u32> {
    let code = fields.get("grpc-status")?;
    Some(code.to_str().ok().and_then(|code| code.trim().parse().ok()).unwrap_or(2))
}

/// The verdict on an answer that ended without any `grpc-status`: it broke off.
pub const MISSING: Verdict = Verdict::failure(Origin::Remote, Retry::IfIdempotent);

/// The verdict on a gRPC status code.
///
/// | code | counts as | may be sent again |
/// |---|---|---|
/// | 0 `OK` | success | never |
/// | 1 `CANCELLED` | ignored | never |
/// | 8 `RESOURCE_EXHAUSTED` | failure, overload | if idempotent |
/// | 14 `UNAVAILABLE` | failure, remote | if idempotent |
/// | 2 `UNKNOWN`, 13 `INTERNAL` | failure, remote | if idempotent |
/// | 4 `DEADLINE_EXCEEDED`, 15 `DATA_LOSS` | failure, remote | never |
/// | 17 and above | as 2 | |
/// | the others | success: the caller's own trouble | never |
///
/// A server's pushback (`grpc-retry-pushback-ms`, gRFC A6) is the exact wait before a failure is sent again, or forbids that.
pub fn verdict(code: u32, pushback: Pushback) -> Verdict {
    let verdict = match code {
        0 | 3 | 5..=7 | 9..=12 | 16 => return Verdict::SUCCESS,
        1 => return Verdict::IGNORED,
        8 => Verdict::failure(Origin::Overload, Retry::IfIdempotent),
        4 | 15 => Verdict::failure(Origin::Remote, Retry::Never),
        _ => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
    };
    heard(verdict, pushback)
}

/// `verdict` with what the server says about sending again.
pub(crate) fn heard(verdict: Verdict, pushback: Pushback) -> Verdict {
    if !verdict.is_failure() {
        return verdict;
    }
    match pushback {
        Pushback::None => verdict,
        Pushback::After(wait) => verdict.with_wait(Some(wait)),
        Pushback::DoNotRetry if verdict.is_final() => verdict,
        Pushback::DoNotRetry => Verdict { retry: Retry::Forbidden, ..verdict },
    }
}

/// What a server says about sending the same call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// After this time, exactly.
    After(Duration),
    /// Not at all.
    DoNotRetry,
}

/// What the `grpc-retry-pushback-ms` in `fields` says. Negative, repeated or not a number means not at all (gRFC A6).
pub fn pushback(fields: &HeaderMap) -> Pushback {
    let mut values = fields.get_all("grpc-retry-pushback-ms").iter();
    match (values.next(), values.next()) {
        (None, _) => Pushback::None,
        (Some(value), None) => match milliseconds(value) {
            Some(wait) => Pushback::After(wait),
            None => Pushback::DoNotRetry,
        },
        (Some(_), Some(_)) => Pushback::DoNotRetry,
    }
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    let value: u32 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_millis(u64::from(value)))
}

/// What a stream that has ended counts as: the verdict in `trailers`, or [`MISSING`].
pub(crate) fn at_end(trailers: Option<&HeaderMap>) -> Verdict {
    trailers.and_then(verdict_in).unwrap_or(MISSING)
}

/// Whether a gRPC verdict can already be told from the head: it is there, or the transport itself failed.
pub(crate) fn at_head(status: http::StatusCode, headers: &HeaderMap) -> Option<Verdict> {
    match verdict_in(headers) {
        Some(verdict) => Some(verdict),
        None if status.is_success() => Some(Verdict::UNDECIDED),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_mesh_core::classify::Outcome;

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for &(name, value) in list {
            map.append(name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn grpc_is_told_from_its_relatives() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("app", false),
        ] {
            assert_eq!(is_grpc(&fields(&[("content-type", kind)])), is, "{kind}");
        }
        assert!(!is_grpc(&fields(&[])));
    }

    #[test]
    fn every_code_falls_where_the_table_says() {
        for code in 0..=20 {
            let found = verdict(code, Pushback::None);
            let expected = match code {
                1 => Outcome::Ignored,
                8 => Outcome::Failure(Origin::Overload),
                2 | 4 | 13 | 14 | 15 | 17.. => Outcome::Failure(Origin::Remote),
                _ => Outcome::Success,
            };
            assert_eq!(found.outcome, expected, "{code}");
            let again = matches!(code, 2 | 8 | 13 | 14 | 17..);
            assert_eq!(found.retry == Retry::IfIdempotent, again, "{code}");
        }
        assert!(verdict_in(&fields(&[("grpc-status", "fourteen")])).unwrap().is_failure());
        assert_eq!(verdict_in(&fields(&[("other", "0")])), None);
    }

    #[test]
    fn pushback_gives_the_wait_or_forbids() {
        let unavailable = |pushback: &[&'static str]| {
            let list: Vec<_> = pushback
                .iter()
                .map(|&value| ("grpc-retry-pushback-ms", value))
                .chain([("grpc-status", "14")])
                .collect();
            verdict_in(&fields(&list)).unwrap()
        };
        assert_eq!(unavailable(&[]).wait, None);
        assert_eq!(unavailable(&["200"]).wait, Some(Duration::from_millis(200)));
        assert_eq!(unavailable(&[" 5000 "]).wait, Some(Duration::from_secs(5)));
        assert_eq!(unavailable(&["0"]).wait, Some(Duration::ZERO));
        for forbidden in [&["-1"][..], &["abc"], &["1", "2"], &[""]] {
            let verdict = unavailable(forbidden);
            assert_eq!((verdict.retry, verdict.wait), (Retry::Forbidden, None), "{forbidden:?}");
            assert!(verdict.is_failure());
        }
        let fine = fields(&[("grpc-status", "0"), ("grpc-retry-pushback-ms", "-1")]);
        assert_eq!(verdict_in(&fine), Some(Verdict::SUCCESS));
    }
}
