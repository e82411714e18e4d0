//! A connection that is driven by the check that uses it, and what its failures mean.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use tower_mesh_core::error;
use tower_mesh_core::probe::ProbeFailure;

/// Does `work` over `connection`, which is driven meanwhile, so that no task has to.
pub(super) async fn over<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut connection, mut work) = (pin!(connection), pin!(work));
    let (mut connected, mut broken) = (true, None);
    poll_fn(|cx| {
        if connected && let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            connected = false;
            broken = ended.err();
        }
        // A connection may end with the answer it brought, so the answer is looked at last; if there is none, the connection knows better why
        // than the request it left behind.
        work.as_mut().poll(cx).map_err(|error| broken.take().unwrap_or(error))
    })
    .await
}

/// "connection refused" rather than the whole chain, if the operating system said so.
pub(super) fn failed(cause: &(dyn std::error::Error + 'static)) -> ProbeFailure {
    match error::find_in::<io::Error>(cause) {
        Some(io) if is_ours(io) => ProbeFailure::inconclusive(io.to_string()),
        Some(io) if io.raw_os_error().is_some() => ProbeFailure::unreachable(io.kind().to_string()),
        Some(io) => ProbeFailure::unreachable(io.to_string()),
        None => ProbeFailure::unreachable(cause.to_string()),
    }
}

/// Whether the trouble is this process's: no file descriptors (23: in the system, 24: in the process), or no local ports.
fn is_ours(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || (cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_our_own_tells_nothing_of_the_endpoint() {
        let of = |code| failed(&io::Error::from_raw_os_error(code));
        assert!(!of(24).is_conclusive() && !of(23).is_conclusive());
        let refused = failed(&io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(refused.is_conclusive() && !refused.is_answer());
    }
}
