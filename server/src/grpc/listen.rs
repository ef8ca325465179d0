//! Connections: accepted, bounded, served as HTTP/2, drained.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::FrontEnd;
use crate::service::Service;

/// Large tensors need windows far above the protocol's 64 KiB (dependencies.md, "Front-end floor").
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A message of up to this size may arrive in one frame and is then not copied.
const FRAME: u32 = 1 << 20;
/// A peer that does not answer a ping within the timeout is gone.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Waits before accepting again after a failure that the next attempt would only repeat, such as no free
/// file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then lets the connections finish what they have.
///
/// At the limit of connections a further one is closed at once, so that its client knows. Dropping the future
/// closes every connection.
pub(super) async fn listen(
    front: FrontEnd,
    listener: TcpListener,
    stopping: CancellationToken,
    shutdown: impl Future<Output = ()>,
) {
    let max = front.service.limits().max_connections;
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Every branch is cancel-safe: an accepted socket is returned or still queued.
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        // A place that is free already counts as free.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if connections.len() < max => {
                connections.spawn(connection(stream, front.clone(), stopping.clone()));
            }
            Ok((stream, peer)) => {
                drop(stream);
                debug!(%peer, max, "connection closed: too many connections");
            }
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.cancel();
    while connections.join_next().await.is_some() {}
}

/// Counts a connection while it lives.
struct Counted(Arc<Service>);

impl Counted {
    fn new(service: &Arc<Service>) -> Self {
        service.count_connection(1.0);
        Self(service.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count_connection(-1.0);
    }
}

async fn connection(stream: TcpStream, front: FrontEnd, stopping: CancellationToken) {
    let _counted = Counted::new(&front.service);
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "setting TCP_NODELAY failed");
    }
    // A client that says nothing does not keep its place.
    let first_byte = timeout(front.service.limits().header_timeout, stream.readable());
    tokio::select! {
        () = stopping.cancelled() => return,
        first = first_byte => if first.is_err() { return },
    }
    let limits = front.service.limits();
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
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), front));
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
