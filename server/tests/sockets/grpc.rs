//! What only gRPC has: metadata, streams, compression, message limits, health, reflection, draining.

use std::time::Duration;

use bytes::Bytes;
use crossfade_proto::inference as wire;
use crossfade_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1, v1alpha};
use wire::infer_parameter::ParameterChoice;

use crate::harness::{ADD_ONE, Repository, Server};

/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(30);

async fn serving_add() -> Server {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    Server::start(repository).await
}

async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.app.grpc)).unwrap();
    endpoint.connect().await.unwrap()
}

/// A request of `values.len() / 2` rows.
fn request(model: &str, id: &str, values: &[f32]) -> wire::ModelInferRequest {
    wire::ModelInferRequest {
        model_name: model.into(),
        id: id.into(),
        inputs: vec![wire::model_infer_request::InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![i64::try_from(values.len() / 2).unwrap(), 2],
            ..Default::default()
        }],
        raw_input_contents: vec![bytes_of(values).into()],
        ..Default::default()
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn parameter<'a>(response: &'a wire::ModelInferResponse, key: &str) -> Option<&'a ParameterChoice> {
    response.parameters.get(key)?.parameter_choice.as_ref()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_and_an_inference_its_version() {
    let server = serving_add().await;
    let mut client = server.grpc().await;
    let mut ids = Vec::new();

    let answer = client
        .model_infer(request("add", "mine", &[1.0, 2.0]))
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("x-model-version").unwrap(), "1");
    ids.push(answer.metadata().get("x-request-id").unwrap().clone());
    assert_eq!(answer.get_ref().id, "mine");
    assert_eq!(answer.get_ref().raw_output_contents[0], bytes_of(&[2.0, 3.0]));

    let refusal = client
        .model_infer(request("none", "", &[1.0, 2.0]))
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound);
    ids.push(refusal.metadata().get("x-request-id").unwrap().clone());

    let live = client.server_live(wire::ServerLiveRequest {}).await.unwrap();
    ids.push(live.metadata().get("x-request-id").unwrap().clone());

    let mut late = Request::new(request("add", "", &[1.0, 2.0]));
    late.metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let refusal = client.model_infer(late).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    ids.push(refusal.metadata().get("x-request-id").unwrap().clone());

    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
    server.stop().await;
}

/// Sends ModelInfer without a gRPC library, which would act on the headers itself; returns the answer's headers.
async fn raw_call(server: &Server, headers: &[(&str, &str)], body: Vec<u8>) -> HeaderMap {
    raw(server, "ModelInfer", headers, body).await.0
}

/// As [`raw_call`], for any method; returns headers, data and trailers of the answer.
async fn raw(
    server: &Server,
    method: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (HeaderMap, Bytes, HeaderMap) {
    let stream = TcpStream::connect(server.app.grpc).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://test/inference.GRPCInferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(body));
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let headers = answer.headers().clone();
    let whole = answer.into_body().collect().await.unwrap();
    let trailers = whole.trailers().cloned().unwrap_or_default();
    drop(sender);
    driver.await.unwrap().unwrap();
    (headers, whole.to_bytes(), trailers)
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_a_message_that_does_not_decompress_but_not_one_too_large() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let server = Server::start_with(repository, |config| config.limits.max_request_bytes = 10_000).await;
    server.wait_ready().await;
    let good = framed(0, &request("add", "good", &[1.0, 2.0]).encode_to_vec());
    let gzip: &[(&str, &str)] = &[("grpc-encoding", "gzip")];
    let body = [framed(1, b"no gzip"), good.clone()].concat();
    let (_, mut data, trailers) = raw(&server, "ModelStreamInfer", gzip, body).await;
    assert_eq!(trailers["grpc-status"], "0");
    let mut answers = Vec::new();
    while !data.is_empty() {
        let length = u32::from_be_bytes(data[1..5].try_into().unwrap());
        let message = data.split_to(5 + usize::try_from(length).unwrap()).slice(5..);
        answers.push(wire::ModelStreamInferResponse::decode(message).unwrap());
    }
    assert_eq!(answers.len(), 2);
    assert!(
        answers[0].error_message.contains("not a valid gzip stream"),
        "{answers:?}"
    );
    assert_eq!(answers[1].infer_response.as_ref().unwrap().id, "good");

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, &[0; 20_000]).unwrap();
    let body = [framed(1, &encoder.finish().unwrap()), good].concat();
    let (headers, data, trailers) = raw(&server, "ModelStreamInfer", gzip, body).await;
    assert_eq!((headers.get("grpc-status"), data.len()), (None, 0));
    let exhausted = (Code::ResourceExhausted as i32).to_string();
    assert_eq!(trailers["grpc-status"], exhausted.as_str());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_before_the_message_is_decoded_are_whole_answers() {
    let server = serving_add().await;
    let message = request("add", "", &[1.0, 2.0]).encode_to_vec();
    let good = framed(0, &message);
    let none: &[(&str, &str)] = &[];
    for (headers, body, code) in [
        (
            &[("grpc-timeout", "0n")][..],
            good.clone(),
            Code::DeadlineExceeded,
        ),
        (&[("grpc-encoding", "snappy")], good.clone(), Code::Unimplemented),
        (none, framed(0, b"no protobuf"), Code::InvalidArgument),
        (none, framed(1, &message), Code::InvalidArgument),
        (none, good[..good.len() - 1].to_vec(), Code::InvalidArgument),
        (none, [good.clone(), good.clone()].concat(), Code::InvalidArgument),
        (none, vec![], Code::InvalidArgument),
        (none, vec![0, 255, 255, 255, 255], Code::ResourceExhausted),
    ] {
        let answer = raw_call(&server, headers, body).await;
        let status = answer["grpc-status"].to_str().unwrap().parse::<i32>().unwrap();
        assert_eq!(Code::from_i32(status), code, "{answer:?}");
        assert!(
            !answer["grpc-message"].is_empty() && answer.contains_key("x-request-id"),
            "{answer:?}"
        );
        assert_eq!(
            answer.contains_key("grpc-accept-encoding"),
            code == Code::Unimplemented
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_answer_in_order_and_outlive_a_refusal() {
    let server = serving_add().await;
    let mut client = server.grpc().await;
    let mut requests: Vec<_> = (0..200u16)
        .map(|k| {
            request(
                if k == 7 { "none" } else { "add" },
                &k.to_string(),
                &[k.into(), 0.0],
            )
        })
        .collect();
    let marker = wire::InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(true)),
    };
    requests[9]
        .parameters
        .insert("triton_enable_empty_final_response".into(), marker);
    let answers = client
        .model_stream_infer(tokio_stream::iter(requests))
        .await
        .unwrap();
    assert!(answers.metadata().contains_key("x-request-id"));
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers.len(), 200);
    for (k, answer) in (0u16..).zip(answers) {
        let answer = answer.unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, k.to_string());
        assert!(matches!(
            parameter(&response, "x-request-id"),
            Some(ParameterChoice::StringParam(_))
        ));
        let last = (k == 9).then_some(ParameterChoice::BoolParam(true));
        assert_eq!(parameter(&response, "triton_final_response"), last.as_ref());
        if k == 7 {
            assert!(answer.error_message.contains("none"), "{}", answer.error_message);
            continue;
        }
        assert_eq!(answer.error_message, "");
        let version = ParameterChoice::StringParam("1".into());
        assert_eq!(parameter(&response, "x-model-version"), Some(&version));
        assert_eq!(
            response.raw_output_contents[0],
            bytes_of(&[f32::from(k) + 1.0, 1.0])
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_asks_for_it_ends_with_its_first_error() {
    let server = serving_add().await;
    let requests = ["add", "none", "add"].map(|model| request(model, "", &[1.0, 2.0]));
    let mut call = Request::new(tokio_stream::iter(requests));
    call.metadata_mut()
        .insert("triton_grpc_error", "true".parse().unwrap());
    let mut answers = server
        .grpc()
        .await
        .model_stream_infer(call)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap().error_message, "");
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::NotFound);
    assert!(answers.next().await.is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_goes_both_ways_and_only_when_the_request_has_it() {
    let server = serving_add().await;
    let values: Vec<f32> = (0..20_000u16).map(f32::from).collect();
    let expected = bytes_of(&values.iter().map(|value| value + 1.0).collect::<Vec<_>>());
    let both = [CompressionEncoding::Gzip, CompressionEncoding::Deflate];
    let cases = [
        (None, None),
        (Some(both[0]), Some("gzip")),
        (Some(both[1]), Some("deflate")),
    ];
    for (send, received) in cases {
        let mut client = GrpcInferenceServiceClient::new(channel(&server).await)
            .accept_compressed(both[0])
            .accept_compressed(both[1]);
        if let Some(encoding) = send {
            client = client.send_compressed(encoding);
        }
        let answer = client.model_infer(request("add", "", &values)).await.unwrap();
        let encoding = answer
            .metadata()
            .get("grpc-encoding")
            .map(|value| value.to_str().unwrap());
        assert_eq!(encoding, received);
        assert_eq!(answer.into_inner().raw_output_contents[0], expected);

        let stream = tokio_stream::iter([request("add", "", &values)]);
        let answers = client.model_stream_infer(stream).await.unwrap();
        let encoding = answers
            .metadata()
            .get("grpc-encoding")
            .map(|value| value.to_str().unwrap());
        assert_eq!(encoding, received);
        let answer = answers.into_inner().next().await.unwrap().unwrap();
        assert_eq!(answer.infer_response.unwrap().raw_output_contents[0], expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_librarys_default_pass_and_those_beyond_ours_do_not() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let server = Server::start_with(repository, |config| config.limits.max_request_bytes = 9 << 20).await;
    server.wait_ready().await;
    let mut client = server.grpc().await.max_decoding_message_size(64 << 20);
    let fits = vec![1.0; 2 << 20];
    let answer = client.model_infer(request("add", "", &fits)).await.unwrap();
    assert_eq!(
        answer.into_inner().raw_output_contents[0],
        bytes_of(&vec![2.0; 2 << 20])
    );
    let refusal = client
        .model_infer(request("add", "", &vec![1.0; 3 << 20]))
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().contains("max_request_bytes"), "{refusal}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_is_not_offered_and_unknown_models_are_not_ready() {
    let server = serving_add().await;
    let mut client = server.grpc().await;
    let status = client
        .system_shared_memory_status(wire::SystemSharedMemoryStatusRequest::default())
        .await;
    assert!(status.unwrap().into_inner().regions.is_empty());
    let status = client
        .cuda_shared_memory_status(wire::CudaSharedMemoryStatusRequest::default())
        .await;
    assert!(status.unwrap().into_inner().regions.is_empty());
    let register = client
        .system_shared_memory_register(wire::SystemSharedMemoryRegisterRequest::default())
        .await;
    assert_eq!(register.unwrap_err().code(), Code::Unimplemented);
    let register = client
        .cuda_shared_memory_register(wire::CudaSharedMemoryRegisterRequest::default())
        .await;
    assert_eq!(register.unwrap_err().code(), Code::Unimplemented);
    client
        .system_shared_memory_unregister(wire::SystemSharedMemoryUnregisterRequest::default())
        .await
        .unwrap();
    client
        .cuda_shared_memory_unregister(wire::CudaSharedMemoryUnregisterRequest::default())
        .await
        .unwrap();

    for (name, ready) in [("add", true), ("none", false)] {
        let request = wire::ModelReadyRequest {
            name: name.into(),
            version: String::new(),
        };
        assert_eq!(
            client.model_ready(request).await.unwrap().into_inner().ready,
            ready
        );
    }
    server.stop().await;
}

fn serving(response: HealthCheckResponse) -> ServingStatus {
    response.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness() {
    let server = serving_add().await;
    let mut health = HealthClient::new(channel(&server).await);
    let of = |service: &str| HealthCheckRequest {
        service: service.into(),
    };
    for service in ["", "inference.GRPCInferenceService"] {
        let checked = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(serving(checked), ServingStatus::Serving);
    }
    assert_eq!(
        health.check(of("other")).await.unwrap_err().code(),
        Code::NotFound
    );

    let mut unknown = health.watch(of("other")).await.unwrap().into_inner();
    assert_eq!(
        serving(unknown.next().await.unwrap().unwrap()),
        ServingStatus::ServiceUnknown
    );
    let mut watch = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(
        serving(watch.next().await.unwrap().unwrap()),
        ServingStatus::Serving
    );
    // The watches do not hold up the drain, and their last word is that it is not ready.
    let (told, ()) = tokio::join!(async { watch.collect::<Vec<_>>().await }, server.stop());
    let told: Vec<_> = told.into_iter().map(|told| serving(told.unwrap())).collect();
    assert_eq!(told, [ServingStatus::NotServing]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_in_both_versions() {
    let server = serving_add().await;
    let channel = channel(&server).await;
    let list = tokio_stream::once(v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    });
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answer = client
        .server_reflection_info(list)
        .await
        .unwrap()
        .into_inner()
        .next()
        .await
        .unwrap()
        .unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(listed)) =
        answer.message_response
    else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }

    let symbol = "inference.ModelConfig".to_owned();
    let find = tokio_stream::once(v1alpha::ServerReflectionRequest {
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol),
        ),
        ..Default::default()
    });
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answer = client
        .server_reflection_info(find)
        .await
        .unwrap()
        .into_inner()
        .next()
        .await
        .unwrap()
        .unwrap();
    use v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse;
    assert!(
        matches!(answer.message_response, Some(FileDescriptorResponse(_))),
        "{answer:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_is_closed_at_once() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let server = Server::start_with(repository, |config| config.limits.max_connections = 1).await;
    server.wait_ready().await;
    let mut client = server.grpc().await;
    client.model_infer(request("add", "", &[1.0, 2.0])).await.unwrap();
    let mut second = TcpStream::connect(server.app.grpc).await.unwrap();
    let mut nothing = [0; 1];
    assert!(matches!(second.read(&mut nothing).await, Ok(0) | Err(_)));
    client.model_infer(request("add", "", &[1.0, 2.0])).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_is_told_that_the_server_drains() {
    let server = serving_add().await;
    let (requests, queue) = tokio::sync::mpsc::channel(1);
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    requests.send(request("add", "last", &[1.0, 2.0])).await.unwrap();
    let mut answers = server
        .grpc()
        .await
        .model_stream_infer(queue)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    assert_eq!(answer.infer_response.unwrap().id, "last");
    let (end, ()) = tokio::join!(answers.next(), server.stop());
    assert_eq!(end.unwrap().unwrap_err().code(), Code::Unavailable);
    drop(requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_becomes_one_is_closed() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let short = Duration::from_millis(1);
    let server = Server::start_with(repository, |config| config.limits.header_timeout = short).await;
    for said in ["", "P", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(server.app.grpc).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "still open after {said:?}");
    }
    server.stop().await;
}

/// A client may take its time to read; what the server holds for it meanwhile is the answers, not the permits.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_holds_no_permits() {
    const REQUESTS: usize = 5;
    let server = serving_add().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.app.grpc)).unwrap();
    // Room for less than one answer.
    let channel = endpoint.initial_stream_window_size(1).connect().await.unwrap();
    let requests = (0..REQUESTS).map(|index| request("add", &index.to_string(), &[1.0, 2.0]));
    let (queue, waiting) = tokio::sync::mpsc::channel(REQUESTS);
    for request in requests {
        queue.send(request).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(waiting);
    let mut answers = GrpcInferenceServiceClient::new(channel)
        .model_stream_infer(stream)
        .await
        .unwrap()
        .into_inner();
    let all_answered = async {
        loop {
            let statistics = server.get("/v2/models/add/stats").await.json();
            let done = &statistics["model_stats"][0]["inference_stats"]["success"]["count"];
            if done.as_u64() == Some(REQUESTS as u64) && server.app.service.permits().requests() == 0 {
                break;
            }
        }
    };
    let answered = tokio::time::timeout(PATIENCE, all_answered).await;
    assert!(
        answered.is_ok(),
        "{} permits held",
        server.app.service.permits().requests()
    );
    drop(queue);
    for index in 0..REQUESTS {
        let answer = answers.next().await.unwrap().unwrap().infer_response.unwrap();
        assert_eq!(answer.id, index.to_string());
    }
    server.stop().await;
}
