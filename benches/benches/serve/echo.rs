//! The floor: bare tonic and bare hyper, echoing bodies of the same size.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use crossfade_proto::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use crossfade_proto::inference::model_infer_response::InferOutputTensor;
use crossfade_proto::inference::{ModelInferRequest, ModelInferResponse};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Where the parent reads the address.
#[expect(clippy::print_stderr, reason = "the parent process reads it")]
fn listening(key: &str, listener: &TcpListener) -> Result<()> {
    eprintln!("listening {key}={}", listener.local_addr()?);
    Ok(())
}

struct Echo;

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let outputs = request
            .inputs
            .into_iter()
            .map(|input| InferOutputTensor {
                name: input.name,
                datatype: input.datatype,
                shape: input.shape,
                ..InferOutputTensor::default()
            })
            .collect();
        Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".into(),
            outputs,
            raw_output_contents: request.raw_input_contents,
            ..ModelInferResponse::default()
        }))
    }
}

/// Echoes over gRPC until killed.
pub(crate) async fn grpc() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    listening("grpc", &listener)?;
    // The builder's own `tcp_nodelay` is for listeners that it opens itself.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_service(GrpcInferenceServiceServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Echoes over HTTP/1.1 until killed.
pub(crate) async fn http() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    listening("http", &listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let echo = service_fn(|request: hyper::Request<Incoming>| async move {
                let body = request
                    .into_body()
                    .collect()
                    .await
                    .map(|body| body.to_bytes())
                    .unwrap_or_default();
                Ok::<_, Infallible>(hyper::Response::new(Full::<Bytes>::new(body)))
            });
            // The connection ends with its client.
            let _ended = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), echo)
                .await;
        });
    }
}
