//! How tonic's channel gets its connection: the one that readiness has made.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_mesh_core::BoxError;
use tower_service::Service;

use super::link::{Access, Link};

pub(super) struct Connector(pub(super) Arc<Link>);

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Connection, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let link = self.0.clone();
        Box::pin(async move {
            if let Some(connection) = take(&link) {
                return Ok(connection);
            }
            // It broke between readiness and the call, or the channel has given it up.
            link.lost();
            match link.access() {
                Access::Refused(error) => return Err(error.into()),
                Access::Wait(connecting) => {
                    connecting.await.map_err(|error| link.failure(error))?;
                }
                Access::Open => {}
            }
            let closed = || link.failure(Arc::new(io::ErrorKind::NotConnected.into())).into();
            take(&link).ok_or_else(closed)
        })
    }
}

fn take(link: &Arc<Link>) -> Option<Connection> {
    let (stream, generation) = link.take()?;
    Some(Connection { stream: TokioIo::new(stream), link: link.clone(), generation })
}

/// A connection that tells of its end.
pub(super) struct Connection {
    stream: TokioIo<TcpStream>,
    link: Arc<Link>,
    generation: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.closed(self.generation);
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }
}
