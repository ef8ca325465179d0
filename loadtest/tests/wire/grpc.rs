//! A scripted V2 server over gRPC: what it does depends on the model's name alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossfade_proto::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use crossfade_proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelStreamInferResponse, ServerMetadataRequest, ServerMetadataResponse,
    model_metadata_response::TensorMetadata,
};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug)]
struct Scripted {
    requests: AtomicU64,
    stall_at: u64,
    stall: Duration,
    stalled_until: Mutex<Option<Instant>>,
}

pub(crate) async fn serve() -> String {
    serve_with_stall(u64::MAX, Duration::ZERO).await
}

/// From inference `at` on, none is answered for `stall`.
pub(crate) async fn serve_with_stall(at: u64, stall: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has ports");
    let url = format!("http://{}", listener.local_addr().expect("it listens"));
    let scripted = Scripted {
        requests: AtomicU64::new(0),
        stall_at: at,
        stall,
        stalled_until: Mutex::new(None),
    };
    let service = GrpcInferenceServiceServer::from_arc(Arc::new(scripted));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .expect("it serves until the test ends");
    });
    url
}

/// The answer to a request, with the version in the message alone for `odd`, else in the metadata too.
fn answer(request: &ModelInferRequest) -> Result<ModelInferResponse, Status> {
    let (inputs, raw) = (&request.inputs, &request.raw_input_contents);
    if inputs.len() != 1 || inputs[0].shape != [1, 4] || raw.len() != 1 || raw[0].len() != 16 {
        return Err(Status::invalid_argument("not one row of four floats"));
    }
    match request.model_name.as_str() {
        "full" => Err(Status::resource_exhausted("as the script says")),
        name => Ok(ModelInferResponse {
            model_name: name.to_owned(),
            model_version: if name == "odd" { "1" } else { "2" }.to_owned(),
            id: request.id.clone(),
            ..ModelInferResponse::default()
        }),
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Scripted {
    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        let metadata = ServerMetadataResponse {
            name: "scripted".to_owned(),
            ..ServerMetadataResponse::default()
        };
        Ok(Response::new(metadata))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let input = TensorMetadata {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, 4],
        };
        let name = request.into_inner().name;
        Ok(Response::new(ModelMetadataResponse {
            name,
            inputs: vec![input],
            ..ModelMetadataResponse::default()
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let until = {
            let mut until = self.stalled_until.lock().expect("no test panics with it");
            if self.requests.fetch_add(1, Ordering::SeqCst) + 1 == self.stall_at {
                *until = Some(Instant::now() + self.stall);
            }
            *until
        };
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        let mut response = Response::new(answer(request.get_ref())?);
        if request.get_ref().model_name != "odd" {
            response.get_mut().model_version = String::new();
            response
                .metadata_mut()
                .insert("x-model-version", "2".parse().expect("a number is a value"));
        }
        Ok(response)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<BoxStream<ModelStreamInferResponse>>, Status> {
        let answers = request.into_inner().map(|request| {
            let request = request?;
            Ok(match answer(&request) {
                Ok(answer) => ModelStreamInferResponse {
                    error_message: String::new(),
                    infer_response: Some(answer),
                },
                Err(status) => ModelStreamInferResponse {
                    error_message: status.message().to_owned(),
                    infer_response: Some(ModelInferResponse {
                        id: request.id,
                        ..ModelInferResponse::default()
                    }),
                },
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
