//! One request and its answer, over a connection of its own.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tower_mesh_core::probe::ProbeFailure;

use super::connection::{failed, over};
use super::target::Secured;

/// Looks at the pieces of a body as they come.
pub(super) trait Reader {
    /// Whether the next piece is wanted.
    fn wants_more(&self) -> bool;
    /// Takes the next piece.
    fn take(&mut self, piece: &[u8]);
}

/// Sends `request` in HTTP/1.1, waits for the head of the answer, and reads of its body what `reader` wants.
pub(super) async fn http1(
    stream: Box<dyn Secured>,
    request: Request<()>,
    reader: &mut impl Reader,
) -> Result<Response<()>, ProbeFailure> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It is under way before the connection is looked at: a server may answer before it has read anything.
        let answer = sender.send_request(request.map(|()| NoBody));
        let work = async {
            let (head, body) = answer.await?.into_parts();
            let mut body = pin!(body);
            while reader.wants_more()
                && let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await
            {
                frame?.data_ref().into_iter().for_each(|piece| reader.take(piece));
            }
            Ok(Response::from_parts(head, ()))
        };
        over(connection, work).await
    };
    exchange.await.map_err(|error: hyper::Error| failed(&error))
}

/// The same in HTTP/2, without having asked the server whether it speaks it.
#[cfg(feature = "http2")]
pub(super) async fn http2(
    stream: Box<dyn Secured>,
    request: Request<()>,
    reader: &mut impl Reader,
) -> Result<Response<()>, ProbeFailure> {
    let exchange = async {
        let (sender, connection) = h2::client::handshake(stream).await?;
        let work = async {
            let (answer, _) = sender.ready().await?.send_request(request, true)?;
            let (head, mut body) = answer.await?.into_parts();
            while reader.wants_more()
                && let Some(piece) = body.data().await
            {
                let piece = piece?;
                reader.take(&piece);
                body.flow_control().release_capacity(piece.len())?;
            }
            Ok(Response::from_parts(head, ()))
        };
        over(connection, work).await
    };
    exchange.await.map_err(|error: h2::Error| failed(&error))
}

/// A request without a body.
struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
