//! The gRPC front end: inference in front, everything else through the library's router.
//!
//! ModelInfer is framed, decoded and encoded here, because a request has its scope from its head on and is
//! recorded after its answer is encoded; the library decodes before and encodes after a handler. Nothing below
//! this module sees a protobuf type.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crossfade_proto::FILE_DESCRIPTOR_SET;
use crossfade_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::Service as _;

use self::control::ControlPlane;
use self::health::ServerHealth;
use self::reply::{ReplyBody, identify};
use crate::listener;
use crate::scope::RequestId;
use crate::service::Service;

pub(crate) mod admin;
mod control;
pub mod decode;
mod encode;
pub(crate) mod framing;
mod head;
mod health;
mod listen;
pub(crate) mod reply;
mod stream;
mod unary;

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const MODEL_STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Serves gRPC on `listener` until `shutdown`, then until the requests in flight are answered.
///
/// Streams end with UNAVAILABLE after their outstanding answers. The caller bounds the time: dropping the
/// future closes what is still open.
pub async fn serve(service: Arc<Service>, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
    let stopping = CancellationToken::new();
    let front = FrontEnd {
        routes: routes(&service, &stopping),
        service: service.clone(),
        stopping: stopping.clone(),
        peer: None,
    };
    listener::listen(service, front, listener, stopping, shutdown).await;
}

/// Everything but inference.
fn routes(service: &Arc<Service>, stopping: &CancellationToken) -> Routes {
    let max_bytes = service.limits().max_request_bytes;
    let control = GrpcInferenceServiceServer::new(ControlPlane::new(service.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(max_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let ours = "the descriptors were made when this program was built";
    Routes::new(control)
        .add_service(HealthServer::new(ServerHealth::new(
            service.clone(),
            stopping.clone(),
        )))
        .add_service(reflection().build_v1().expect(ours))
        .add_service(reflection().build_v1alpha().expect(ours))
        .prepare()
}

/// What a connection calls with each request.
#[derive(Clone)]
struct FrontEnd {
    service: Arc<Service>,
    routes: Routes,
    stopping: CancellationToken,
    /// Of this connection.
    peer: Option<SocketAddr>,
}

/// Who sent a request, for the calls that are recorded.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

impl hyper::service::Service<http::Request<Incoming>> for FrontEnd {
    type Response = http::Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let arrived = Instant::now();
        match request.uri().path() {
            MODEL_INFER => {
                let service = self.service.clone();
                let (head, body) = request.into_parts();
                let answer = unary::model_infer(service, head, body, arrived);
                Box::pin(async move { Ok(answer.await) })
            }
            MODEL_STREAM_INFER => {
                let (service, stopping) = (self.service.clone(), self.stopping.clone());
                let (head, body) = request.into_parts();
                let response = stream::model_stream_infer(service, &head, body, arrived, stopping);
                Box::pin(ready(Ok(response)))
            }
            _ => {
                let mut routes = self.routes.clone();
                if let Some(peer) = self.peer {
                    request.extensions_mut().insert(Peer(peer));
                }
                Box::pin(through_library(request, async move |request| {
                    let Ok(response) = routes.call(request).await;
                    response
                }))
            }
        }
    }
}

/// Answers with the library, with our rule of compression and a request id.
async fn through_library<F>(
    mut request: http::Request<Incoming>,
    answer: impl FnOnce(http::Request<Incoming>) -> F,
) -> Result<http::Response<ReplyBody>, Infallible>
where
    F: Future<Output = http::Response<tonic::body::Body>>,
{
    framing::narrow(request.headers_mut());
    let mut response = answer(request).await.map(ReplyBody::Library);
    identify(response.headers_mut(), RequestId::new());
    Ok(response)
}
