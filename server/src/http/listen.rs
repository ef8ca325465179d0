//! Connections: told apart by their first bytes, served as HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Front, bare};
use crate::listener::reader::HangUp;
use crate::listener::{Connections, without_delay};

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Large tensors need windows far above the protocol's 64 KiB (dependencies.md, "Front-end floor").
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Requests in flight on one h2c connection.
const STREAMS: u32 = 256;
/// A peer that does not answer a ping within the timeout is gone.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What a connection beyond the limit is told, as of any other overload (protocols.md §6).
const TOO_MANY: &str = r#"{"error":"too many connections are open already; retry later"}"#;

impl Connections for Arc<Front> {
    async fn serve(self, mut stream: TcpStream, stopping: CancellationToken) {
        let limits = self.service.limits().clone();
        without_delay(&stream);
        let peer = stream.peer_addr().ok();
        let opening = tokio::select! {
            () = stopping.cancelled() => return,
            opening = tokio::time::timeout(limits.header_timeout, Opening::read(&mut stream)) => opening,
        };
        let Ok(Ok(opening)) = opening else { return };
        let mut builder = match opening.is_http2() {
            true => Builder::new(TokioExecutor::new()).http2_only(),
            false => Builder::new(TokioExecutor::new()).http1_only(),
        };
        // Not `pipeline_flush`: with it the library closes a connection that broke the protocol without having sent
        // its answer, if bytes are left unread.
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let hang_up = HangUp::default();
        let service = service_fn(|request| {
            let answer = super::answer(self.clone(), peer, &hang_up, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let io = TokioIo::new(Opened {
            opening,
            stream,
            instead: None,
        });
        let mut connection = pin!(builder.serve_connection(io, service));
        let served = tokio::select! {
            served = &mut connection => served,
            () = hang_up.told() => return,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection => served,
                    () = hang_up.told() => return,
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection failed");
        }
    }

    async fn refuse(self, mut stream: TcpStream) {
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{TOO_MANY}",
            TOO_MANY.len()
        );
        let told = stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok();
        // Closing with bytes unread would reset the connection before the client has read why.
        let mut rest = [0; 1024];
        while told && matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}

/// The first bytes of a connection, as many as it takes to tell HTTP/2 from HTTP/1.
#[derive(Debug, Default)]
struct Opening {
    bytes: [u8; PREFACE.len()],
    len: usize,
    /// How many of them were read again.
    replayed: usize,
}

impl Opening {
    /// Reads until the preface is complete or broken; the caller bounds the time.
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut opening = Self::default();
        while opening.len < PREFACE.len() && opening.seen() == &PREFACE[..opening.len] {
            let read = stream.read(&mut opening.bytes[opening.len..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            opening.len += read;
        }
        Ok(opening)
    }

    fn seen(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn is_http2(&self) -> bool {
        self.seen() == PREFACE
    }
}

/// A connection whose first bytes are read once more.
struct Opened {
    opening: Opening,
    stream: TcpStream,
    /// An answer that is sent in place of the library's own, which ends the connection.
    instead: Option<Vec<u8>>,
}

impl Opened {
    /// Sends what is left of the answer in place of the library's own.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(answer) = self.instead.as_mut().filter(|answer| !answer.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, answer))?;
            answer.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Opening { len, replayed, .. } = self.opening;
        if replayed == len {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let end = len.min(replayed + out.remaining());
        out.put_slice(&self.opening.bytes[replayed..end]);
        self.opening.replayed = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = bare::explained(bytes);
        }
        if self.instead.is_some() {
            return self.poll_instead(cx).map_ok(|()| bytes.len());
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head alone comes in one slice.
        if let [bytes] = slices {
            return self.poll_write(cx, bytes);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_bytes_tell_the_protocol() {
        for (bytes, expected) in [
            (&PREFACE[..], Some(true)),
            (b"POST /v2 HTTP/1.1\r\n", Some(false)),
            (b"PRI /v2 HTTP/1.1\r\n", Some(false)),
            (b"G", Some(false)),
            (b"PRI * HT", None),
            (b"", None),
        ] {
            let opening = Opening::read(&mut &bytes[..]).await;
            assert_eq!(
                opening.ok().map(|opening| opening.is_http2()),
                expected,
                "{bytes:?}"
            );
        }
    }
}
