//! A listener: accepts connections, counts and bounds them, and drains them at shutdown.

pub(crate) mod reader;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::service::Service;

/// Waits before accepting again after a failure that the next attempt would only repeat, such as no free
/// file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are told so at the same time, and for how long; further ones are only closed.
const REFUSING: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);

/// What a protocol does with a connection.
pub(crate) trait Connections: Clone + Send + Sync + 'static {
    /// Serves one connection to its end; once `stopping` is cancelled, only what it has begun.
    fn serve(self, stream: TcpStream, stopping: CancellationToken) -> impl Future<Output = ()> + Send;

    /// Tells a client that there are too many connections; the caller bounds the time.
    fn refuse(self, stream: TcpStream) -> impl Future<Output = ()> + Send;
}

/// Serves until `shutdown`, then cancels `stopping` and lets the connections finish what they have.
///
/// At the limit of connections a further one is refused and closed at once, so that its client knows. Dropping the
/// future closes every connection.
pub(crate) async fn listen(
    service: Arc<Service>,
    connections: impl Connections,
    listener: TcpListener,
    stopping: CancellationToken,
    shutdown: impl Future<Output = ()>,
) {
    let max = service.limits().max_connections;
    let mut open = JoinSet::new();
    let mut refused = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Every branch is cancel-safe: an accepted socket is returned or still queued.
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_ended) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        // A place that is free already counts as free.
        while open.try_join_next().is_some() {}
        while refused.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if open.len() < max => {
                let counted = Counted::new(&service);
                let served = connections.clone().serve(stream, stopping.clone());
                open.spawn(async move {
                    let _counted = counted;
                    served.await;
                });
            }
            Ok((stream, peer)) => {
                debug!(%peer, max, "connection refused: too many connections");
                if refused.len() < REFUSING {
                    refused.spawn(tokio::time::timeout(REFUSAL, connections.clone().refuse(stream)));
                }
            }
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.cancel();
    while open.join_next().await.is_some() {}
}

/// Answers small messages at once instead of waiting for more to send.
pub(crate) fn without_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "setting TCP_NODELAY failed");
    }
}

/// Counts a connection for as long as it is open.
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
