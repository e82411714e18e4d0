//! How much time is left, as it is told from one process to the next.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::grpc;

/// The header of gRPC: up to eight digits and a unit.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The header that other HTTP carries the time left in, unless another name is chosen: whole milliseconds.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-mesh-timeout-ms");

const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
const MAX_DIGITS: usize = 8;

/// `left` as a `grpc-timeout`: the finest unit that eight digits are enough for, what does not fit a whole one cut off, so that nobody's deadline is
/// extended. At least a nanosecond, at most 99 999 999 hours.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_http::policy::timeout;
/// assert_eq!(timeout::grpc(Duration::from_millis(1500)), "1500000u");
/// ```
pub fn grpc(left: Duration) -> HeaderValue {
    const BOUND: u64 = 100_000_000;
    let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1);
    let (mut amount, mut unit) = (BOUND - 1, b'H');
    for (name, length) in UNITS {
        if nanos / length < BOUND {
            (amount, unit) = (nanos / length, name);
            break;
        }
    }
    let mut text = [0; MAX_DIGITS + 1];
    let mut start = MAX_DIGITS;
    text[start] = unit;
    loop {
        start -= 1;
        text[start] = b'0' + (amount % 10) as u8;
        amount /= 10;
        if amount == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[start..]).unwrap_or_else(|_| HeaderValue::from_static("1n"))
}

/// The time that a `grpc-timeout` of `value` gives, at most 2⁶³ − 1 nanoseconds. None if it is not one to eight digits and a unit.
pub fn from_grpc(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    let &(_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    if !(1..=MAX_DIGITS).contains(&digits.len()) {
        return None;
    }
    let nanos = whole(digits)?.saturating_mul(length).min(i64::MAX as u64);
    Some(Duration::from_nanos(nanos))
}

/// The time that `value`, whole milliseconds of at most 15 digits, gives.
fn from_milliseconds(value: &[u8]) -> Option<Duration> {
    let value = value.trim_ascii();
    (1..=15).contains(&value.len()).then(|| whole(value)).flatten().map(Duration::from_millis)
}

fn whole(digits: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// The time that a request with these `headers` gives: by `grpc-timeout` if it is gRPC, by the header `name` otherwise. None if there is none that can be read,
/// or several.
pub fn of_request(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let is_grpc = grpc::is_grpc(headers);
    let of_grpc = GRPC_TIMEOUT;
    let mut values = headers.get_all(if is_grpc { &of_grpc } else { name }).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    if is_grpc { from_grpc(value.as_bytes()) } else { from_milliseconds(value.as_bytes()) }
}

/// Writes that `left` is left into the `headers` of a request, where they do not give less already.
pub(crate) fn write(headers: &mut HeaderMap, name: &HeaderName, left: Duration) {
    if of_request(headers, name).is_some_and(|given| given <= left) {
        return;
    }
    if grpc::is_grpc(headers) {
        headers.insert(GRPC_TIMEOUT, grpc(left));
    } else {
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(name.clone(), HeaderValue::from(milliseconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_never_more_than_what_is_left() {
        let mut nanos = 1_u64;
        while nanos < u64::MAX / 2 {
            let left = Duration::from_nanos(nanos);
            let told = from_grpc(grpc(left).as_bytes()).unwrap();
            assert!(told <= left && told >= left - left / 1_000, "{left:?} {told:?}");
            nanos += nanos / 3 + 1;
        }
        assert_eq!(grpc(Duration::ZERO), "1n");
        assert_eq!(grpc(Duration::MAX), "5124095H");
    }

    #[test]
    fn only_one_readable_header_counts_and_a_smaller_one_stays() {
        let name = &TIMEOUT_MS;
        let mut headers = HeaderMap::new();
        assert_eq!(of_request(&headers, name), None);
        write(&mut headers, name, Duration::from_micros(1_900));
        assert_eq!(headers[name], "1");
        write(&mut headers, name, Duration::from_millis(5));
        assert_eq!(headers[name], "1", "the caller wanted less");
        headers.append(name, "7".parse().unwrap());
        assert_eq!(of_request(&headers, name), None);
        for wrong in ["", "-1", "1.5", "soon", "1234567890123456"] {
            headers.insert(name, wrong.parse().unwrap());
            assert_eq!(of_request(&headers, name), None, "{wrong:?}");
        }
        headers.insert("content-type", "application/grpc".parse().unwrap());
        write(&mut headers, name, Duration::from_secs(1));
        assert_eq!(
            (&headers[GRPC_TIMEOUT], of_request(&headers, name)),
            (&"1000000u".parse().unwrap(), Some(Duration::from_secs(1)))
        );
    }
}
