//! What a `Retry-After` header asks for (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

/// The longest wait told: a number with more digits than anybody means is taken for this one, 136 years, which still can be added to a
/// clock reading.
const LONGEST: u64 = u32::MAX as u64;

/// The wait that `value` asks for, seen at `now`: a number of seconds, or an HTTP date (the current form and both obsolete ones),
/// blanks around it aside. A date that has passed asks for no wait: zero. Anything else, a sign included, asks nothing.
///
/// It is told as it was asked; who acts on it decides how long is too long.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_mesh_http::policy::retry_after::parse;
/// let new_year = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
/// assert_eq!(parse(" 120 ", new_year), Some(Duration::from_secs(120)));
/// assert_eq!(parse("Wed, 01 Jan 2020 00:01:00 GMT", new_year), Some(Duration::from_secs(60)));
/// assert_eq!(parse("soon", new_year), None);
/// ```
pub fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that overflow still mean a long time; taking them for nothing would mean to come back at once.
        let seconds = value.parse().unwrap_or(LONGEST).min(LONGEST);
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The wait that a header value asks for; `clock` is read only if the value is not a plain number.
pub(crate) fn of_header(value: &http::HeaderValue, clock: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?;
    let is_number = value.trim().bytes().all(|byte| byte.is_ascii_digit());
    parse(value, if is_number { SystemTime::UNIX_EPOCH } else { clock() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 00:00:00 UTC.
    fn today() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_392_000)
    }

    #[test]
    fn seconds_are_trimmed_and_signs_words_and_fractions_ask_nothing() {
        let parse = |value| parse(value, today()).map(|wait| wait.as_secs());
        assert_eq!(parse("120"), Some(120));
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse(" 120"), Some(120));
        assert_eq!(parse("\t7 "), Some(7));
        for nothing in ["", " ", "-1", "+1", "1.5", "not-a-number", "1 2", "0x10"] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_number_too_long_to_hold_is_a_long_wait_and_can_be_added_to_a_clock() {
        let wait = parse("99999999999999999999999999", today()).unwrap();
        assert!(wait > Duration::from_secs(86_400 * 365 * 100));
        assert!(today().checked_add(wait).is_some());
    }

    #[test]
    fn dates_in_all_three_forms_are_measured_from_now_and_the_past_is_zero() {
        let in_an_hour = today() + Duration::from_secs(3600);
        let imf = httpdate::fmt_http_date(in_an_hour);
        for date in [imf.as_str(), "Monday, 23-Nov-26 01:00:00 GMT", "Mon Nov 23 01:00:00 2026"] {
            assert_eq!(parse(date, today()), Some(Duration::from_secs(3600)), "{date}");
        }
        assert_eq!(parse("Wed, 01 Jan 2020 00:00:00 GMT", today()), Some(Duration::ZERO));
    }

    #[test]
    fn the_clock_is_read_for_dates_only() {
        let number = http::HeaderValue::from_static("3");
        assert_eq!(
            of_header(&number, || unreachable!("a number needs no clock")),
            Some(Duration::from_secs(3))
        );
        let date = http::HeaderValue::from_static("Mon, 23 Nov 2026 00:00:09 GMT");
        assert_eq!(of_header(&date, today), Some(Duration::from_secs(9)));
    }
}
