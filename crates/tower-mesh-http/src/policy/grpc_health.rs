//! gRPC's health protocol, `grpc.health.v1`: its two messages, and what its answers mean.
//!
//! | answer | says |
//! |---|---|
//! | `SERVING` | healthy |
//! | `NOT_SERVING`, `SERVICE_UNKNOWN`, `UNKNOWN` | unhealthy |
//! | status `UNIMPLEMENTED` (12) | healthy: the server does not speak the protocol, and works |
//! | status `UNAVAILABLE` (14) | unreachable |
//! | another status, no gRPC at all | unhealthy |

use http::{HeaderMap, StatusCode};
use tower_mesh_core::probe::{ProbeFailure, Probed};

use super::grpc;

/// The longest message that is taken for an answer, in bytes: it is one number.
pub const MAX_ANSWER: usize = 1024;

/// A `HealthCheckRequest` for `service`, in its frame.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 11);
    if !service.is_empty() {
        message.push(0x0a); // Field 1, a text.
        let mut length = service.len();
        while length > 0x7f {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0]; // Not compressed.
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.append(&mut message);
    frame
}

/// Takes the next whole frame out of what has come so far; none if it is not there yet.
///
/// # Errors
/// When it can be no answer: too long, or compressed, which was not asked for.
pub fn next_message(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ProbeFailure> {
    let Some((&[compressed, a, b, c, d], rest)) = received.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > MAX_ANSWER {
        return Err(ProbeFailure::unhealthy("it answers, but not in gRPC's health protocol"));
    }
    let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else {
        return Ok(None);
    };
    received.drain(..5 + length);
    Ok(Some(message))
}

/// What a `HealthCheckResponse` says.
///
/// # Errors
/// When it says anything but `SERVING`, or is no such message.
pub fn answer(message: &[u8]) -> Result<Probed, ProbeFailure> {
    match serving_status(message) {
        Some(1) => Ok(Probed::Healthy),
        Some(2) => Err(ProbeFailure::unhealthy("NOT_SERVING")),
        Some(3) => Err(ProbeFailure::unhealthy("SERVICE_UNKNOWN")),
        Some(_) => Err(ProbeFailure::unhealthy("UNKNOWN")),
        None => Err(ProbeFailure::unhealthy("it answers, but not in gRPC's health protocol")),
    }
}

/// What the end of an answer without a message says, by its `grpc-status`, be it in the head or in the trailers.
///
/// # Errors
/// When it is any other than `UNIMPLEMENTED`.
pub fn ended(http: StatusCode, fields: &HeaderMap) -> Result<Probed, ProbeFailure> {
    let status =
        fields.get("grpc-status").and_then(|status| status.to_str().ok()?.trim().parse::<u32>().ok());
    match status {
        Some(12) => Ok(Probed::Healthy),
        Some(14) => Err(ProbeFailure::unreachable("gRPC status 14")),
        Some(0) => Err(ProbeFailure::unhealthy("no answer before the end")),
        Some(status) => Err(ProbeFailure::unhealthy(format!("gRPC status {status}"))),
        None if !http.is_success() || !grpc::is_grpc(fields) => {
            Err(ProbeFailure::unhealthy(format!("status {}, and no gRPC", http.as_u16())))
        }
        None => Err(ProbeFailure::unreachable("the answer broke off")),
    }
}

/// Field 1 of the message, an enumeration; 0 if it is not there. None if it is no message at all.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_framed_with_both_lengths() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0b1010_1100, 0b10]);
        assert_eq!(long.len(), 308);
    }

    #[test]
    fn messages_come_in_any_pieces_and_never_too_long() {
        let stream = [0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 8, 2];
        for size in 1..=stream.len() {
            let (mut received, mut found) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                received.extend_from_slice(piece);
                while let Some(message) = next_message(&mut received).unwrap() {
                    found.push(answer(&message).is_ok());
                }
            }
            assert_eq!((found, received.len()), (vec![true, false, false], 0), "pieces of {size}");
        }
        assert!(next_message(&mut vec![0, 0, 1, 0, 0]).is_err(), "65536 bytes");
        assert!(next_message(&mut vec![1, 0, 0, 0, 1, 0]).is_err(), "compressed");
        assert_eq!(next_message(&mut vec![0, 0, 0]), Ok(None));
    }

    #[test]
    fn unknown_fields_are_passed_over_and_what_is_no_message_is_told() {
        let well = [0x12, 3, b'a', b'b', b'c', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 1];
        assert_eq!(answer(&well), Ok(Probed::Healthy));
        assert_eq!(answer(&[]), Err(ProbeFailure::unhealthy("UNKNOWN")));
        for no_message in [&[0x08][..], &[0x08, 0x80], &[0x12, 200, 1], &[0x0b], &[0x80; 12]] {
            assert!(answer(no_message).unwrap_err().reason().contains("health protocol"), "{no_message:?}");
        }
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..random.usize(0..24)).map(|_| random.u8(..)).collect();
            let _ = (answer(&bytes), next_message(&mut bytes.clone()));
        }
    }

    #[test]
    fn an_end_without_a_message_is_judged_by_its_status() {
        let fields = |status: Option<&str>| {
            let mut fields = HeaderMap::new();
            fields.insert("content-type", "application/grpc".parse().unwrap());
            status.map(|status| fields.insert("grpc-status", status.parse().unwrap()));
            fields
        };
        let of = |status| ended(StatusCode::OK, &fields(status));
        assert_eq!(of(Some("12")), Ok(Probed::Healthy));
        assert!(!of(Some("14")).unwrap_err().is_answer());
        assert!(of(Some("5")).unwrap_err().is_answer() && of(Some("0")).unwrap_err().is_answer());
        assert!(!of(None).unwrap_err().is_answer());
        let page = ended(StatusCode::NOT_FOUND, &HeaderMap::new()).unwrap_err();
        assert_eq!((page.is_answer(), page.reason()), (true, "status 404, and no gRPC"));
    }
}
