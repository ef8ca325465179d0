//! Connections: served as HTTP/2.

use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::FrontEnd;
use crate::listener::{Connections, without_delay};

/// Large tensors need windows far above the protocol's 64 KiB (dependencies.md, "Front-end floor").
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A message of up to this size may arrive in one frame and is then not copied.
const FRAME: u32 = 1 << 20;
/// A peer that does not answer a ping within the timeout is gone.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of HTTP/2's preface (RFC 9113 §3.4), for which the library would wait without end.
const PREFACE: usize = 24;
/// Between two looks at a preface that is not complete yet.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Waits until the preface is there, or can come no more; takes nothing from the connection.
async fn opened(stream: &TcpStream) {
    let mut preface = [0; PREFACE];
    while matches!(stream.peek(&mut preface).await, Ok(1..PREFACE)) {
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

impl Connections for FrontEnd {
    async fn serve(mut self, stream: TcpStream, stopping: CancellationToken) {
        self.peer = stream.peer_addr().ok();
        let limits = self.service.limits();
        without_delay(&stream);
        // A client that says nothing does not keep its place.
        tokio::select! {
            () = stopping.cancelled() => return,
            opened = timeout(limits.header_timeout, opened(&stream)) => if opened.is_err() { return },
        }
        let streams = u32::try_from(limits.max_in_flight).unwrap_or(u32::MAX);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(streams)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), self));
        let served = tokio::select! {
            served = &mut connection => served,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            debug!(%error, "connection failed");
        }
    }

    /// A connection that closes is UNAVAILABLE to every gRPC client; there is nothing else to say before a call.
    async fn refuse(self, stream: TcpStream) {
        drop(stream);
    }
}
