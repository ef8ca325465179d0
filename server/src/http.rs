//! The HTTP front end: REST v2 over HTTP/1.1 and h2c (protocols.md §3–§5).
//!
//! Connections in `listen`, paths in `routes`; then `inference`, the one way to `infer()`, and `control`, for all
//! else. `text` is inference in the words of others. `admin` is what the admin listener takes beside them. `json` and `binary` are the codecs and know no HTTP.

mod admin;
mod bare;
pub mod binary;
mod body;
mod control;
mod encoding;
mod inference;
pub mod json;
mod listen;
mod reply;
mod routes;
pub(crate) mod text;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::Either;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::admin::events::READERS;
use self::inference::Ask;
use self::reply::{Failure, ReplyBody, identify, without_body};
use self::routes::{ModelRoute, NoRoute, Route};
use crate::admin::Admin;
use crate::audit::{Call, Listener};
use crate::grpc;
use crate::listener;
use crate::listener::reader::HangUp;
use crate::scope::{Protocol, RequestId, RequestScope};
use crate::service::Service;
use crate::status::Refusal;

/// What every connection shares.
struct Front {
    service: Arc<Service>,
    /// On the admin listener only.
    admin: Option<Arc<Admin>>,
    /// The same interface over gRPC.
    grpc: Option<Routes>,
    /// Places for readers of events.
    readers: Arc<Semaphore>,
    /// Cancelled when the listener closes: events would go on without end.
    stopping: CancellationToken,
}

/// Serves HTTP on `listener` until `shutdown`, then until the requests in flight are answered.
///
/// The caller bounds the time: dropping the future closes what is still open. A client that goes away, or resets its
/// stream, drops the future that answers it, which cancels the request.
pub async fn serve(service: Arc<Service>, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
    listen(service, None, listener, shutdown).await;
}

/// Serves the admin interface on `listener`, and the calls of the protocol that change something; as [`serve`].
pub(crate) async fn serve_admin(
    service: Arc<Service>,
    admin: Arc<Admin>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    listen(service, Some(admin), listener, shutdown).await;
}

async fn listen(
    service: Arc<Service>,
    admin: Option<Arc<Admin>>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    let stopping = CancellationToken::new();
    let readers = Arc::new(Semaphore::new(READERS));
    let grpc = admin.as_ref();
    let grpc = grpc.map(|admin| grpc::admin::routes(&service, admin, &readers, &stopping));
    let front = Arc::new(Front {
        service: service.clone(),
        admin,
        grpc,
        readers,
        stopping: stopping.clone(),
    });
    listener::listen(service, front, listener, stopping, shutdown).await;
}

/// Answers one request.
///
/// The scope of an inference opens with the call, not with the first poll: a request whose client is gone by then is
/// recorded too.
///
/// * `hang_up`: ends the connection that the request came on
fn answer(
    front: Arc<Front>,
    peer: Option<SocketAddr>,
    hang_up: &HangUp,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ReplyBody>> + Send + use<> {
    let arrived = Instant::now();
    if let Some(grpc) = front.grpc.clone().filter(|_| is_grpc(request.headers())) {
        let answer = admin::over_grpc(grpc, peer, hang_up.clone(), request);
        return Either::Left(Box::pin(answer) as Boxed);
    }
    let (head, body) = request.into_parts();
    if let Some(admin) = front.admin.clone() {
        // Boxed, so that the future of an inference is no larger for it.
        let answer = admin::answer(front, admin, peer, hang_up.clone(), head, body);
        return Either::Left(Box::pin(answer) as Boxed);
    }
    let route = match Route::of(head.uri.path()) {
        Ok(route) if route.allows(&head.method) => Ok(route),
        Ok(route) => Err(Failure::Method { allow: route.allow() }),
        Err(NoRoute::UnknownPath) => Err(Failure::UnknownPath),
        Err(NoRoute::Name(why)) => Err(Refusal::invalid(format!("a name in the path {why}")).into()),
    };
    let scope = match &route {
        Ok(Route::Model(_, ModelRoute::Infer)) => {
            Some(RequestScope::open(&front.service, Protocol::Http, arrived))
        }
        Ok(Route::Text(route)) => Some(RequestScope::open(&front.service, route.protocol(), arrived)),
        _ => None,
    };
    Either::Right(respond(front, peer, route, scope, head, body))
}

/// The answer of the admin listener.
type Boxed = Pin<Box<dyn Future<Output = Response<ReplyBody>> + Send>>;

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn respond(
    front: Arc<Front>,
    peer: Option<SocketAddr>,
    route: Result<Route, Failure>,
    scope: Option<RequestScope>,
    head: Parts,
    body: Incoming,
) -> Response<ReplyBody> {
    let mut response = match (route, scope) {
        (Ok(Route::Model(model, ModelRoute::Infer)), Some(scope)) => {
            return inference::answer(&front, scope, &head, body, &Ask::Model(model)).await;
        }
        (Ok(Route::Text(route)), Some(scope)) => {
            return inference::answer(&front, scope, &head, body, &Ask::Text(route)).await;
        }
        (Ok(route), _) => {
            let call = Call::anonymous(Listener::Http, peer);
            control::answer(&front, call, route, &head, body).await
        }
        (Err(failure), _) => inference::refuse(&failure, &head.headers, body).await,
    };
    identify(&mut response, RequestId::new());
    if head.method == Method::HEAD {
        without_body(response)
    } else {
        response
    }
}
