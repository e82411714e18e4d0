//! What a client's error means.

use std::error::Error;
use std::io;

use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::find_in;

/// The verdict on `error`, wherever in its chain the cause lies.
///
/// | cause | counts as | may be sent again |
/// |---|---|---|
/// | hyper-util's client or tonic's channel could not connect; connection refused; hyper gave the request back unsent | failure, local | certainly not processed |
/// | HTTP/2 (feature `http2`): the stream was refused, or lies beyond a GOAWAY | failure, local | certainly not processed |
/// | the caller's own body failed (seen in HTTP/2 with the feature `http2` only), or the request cannot be sent by this client | ignored | never |
/// | anything else | failure, local | if idempotent |
pub fn verdict(error: &(dyn Error + 'static)) -> Verdict {
    if was_not_processed(error) {
        Verdict::failure(Origin::Local, Retry::NotProcessed)
    } else if find_in::<hyper::Error>(error).is_some_and(hyper::Error::is_user)
        || was_reset_by_the_caller(error)
        || was_never_a_request(error)
    {
        Verdict::IGNORED
    } else {
        Verdict::failure(Origin::Local, Retry::IfIdempotent)
    }
}

fn was_not_processed(error: &(dyn Error + 'static)) -> bool {
    use hyper_util::client::legacy;

    find_in::<legacy::Error>(error).is_some_and(legacy::Error::is_connect)
        || find_in::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled)
        || was_connection_refused(error)
        || was_refused_by_http2(error)
        || was_not_connected(error)
}

/// tonic's channel had no connection, or TLS was not agreed on.
#[cfg(feature = "tonic")]
fn was_not_connected(error: &(dyn Error + 'static)) -> bool {
    find_in::<tonic::ConnectError>(error).is_some()
}

#[cfg(not(feature = "tonic"))]
fn was_not_connected(_error: &(dyn Error + 'static)) -> bool {
    false
}

/// Connection refused can only come from connecting, so nothing was sent. I/O errors wrap one another; each is looked at.
fn was_connection_refused(error: &(dyn Error + 'static)) -> bool {
    let mut next = find_in::<io::Error>(error);
    while let Some(io) = next {
        if io.kind() == io::ErrorKind::ConnectionRefused {
            return true;
        }
        next = io.get_ref().and_then(|inner| find_in(inner));
    }
    false
}

#[cfg(feature = "http2")]
fn was_refused_by_http2(error: &(dyn Error + 'static)) -> bool {
    // RFC 9113 §8.7: REFUSED_STREAM, and any stream above the last one that a GOAWAY names, was not processed. h2 ends exactly those
    // streams with the peer's GOAWAY; the ones below go on or end with an I/O error.
    find_in::<h2::Error>(error).is_some_and(|h2| {
        h2.is_remote()
            && (h2.is_go_away() || h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// hyper resets a stream whose request body fails, and says no more of it. A reset by the program itself is told by what it is not.
#[cfg(feature = "http2")]
fn was_reset_by_the_caller(error: &(dyn Error + 'static)) -> bool {
    find_in::<h2::Error>(error).is_some_and(|h2| h2.is_reset() && !h2.is_remote() && !h2.is_library())
}

#[cfg(not(feature = "http2"))]
fn was_reset_by_the_caller(_error: &(dyn Error + 'static)) -> bool {
    false
}

/// What reqwest could not even begin to send.
#[cfg(feature = "reqwest")]
fn was_never_a_request(error: &(dyn Error + 'static)) -> bool {
    find_in::<reqwest::Error>(error).is_some_and(reqwest::Error::is_builder)
}

#[cfg(not(feature = "reqwest"))]
fn was_never_a_request(_error: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(not(feature = "http2"))]
fn was_refused_by_http2(_error: &(dyn Error + 'static)) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_was_not_processed_and_a_reset_may_have_been() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let nested = io::Error::other(io::Error::other(refused));
        assert_eq!(verdict(&nested), Verdict::failure(Origin::Local, Retry::NotProcessed));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(verdict(&reset), Verdict::failure(Origin::Local, Retry::IfIdempotent));
    }

    #[cfg(feature = "http2")]
    #[test]
    fn only_the_peer_can_say_that_it_did_not_process() {
        let ours = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert_eq!(verdict(&ours).retry, Retry::IfIdempotent);
    }
}
