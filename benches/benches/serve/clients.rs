//! Closed-loop clients of both protocols: enough to keep a server busy, no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossfade_proto::inference::ModelInferRequest;
use crossfade_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use crossfade_proto::inference::model_infer_request::InferInputTensor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one round gave.
pub(crate) struct Load {
    pub(crate) requests: usize,
    /// Microseconds.
    pub(crate) p50: f64,
    /// Microseconds.
    pub(crate) p99: f64,
}

/// A client and the one request that it sends.
pub(crate) enum Client {
    Grpc {
        address: String,
        request: Box<ModelInferRequest>,
    },
    Http {
        address: String,
        request: Arc<[u8]>,
    },
}

impl Client {
    /// Sends `x`, FP32 `[1, width]`, as raw contents.
    pub(crate) fn grpc(address: &str, width: usize) -> Self {
        let input = InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, i64::try_from(width).expect("a small width")],
            ..InferInputTensor::default()
        };
        let request = ModelInferRequest {
            model_name: "identity".into(),
            inputs: vec![input],
            raw_input_contents: vec![vec![0; width * 4].into()],
            ..ModelInferRequest::default()
        };
        Client::Grpc {
            address: address.into(),
            request: Box::new(request),
        }
    }

    /// The same over HTTP with the binary extension.
    pub(crate) fn http(address: &str, width: usize) -> Self {
        let size = width * 4;
        let json = format!(
            "{{\"inputs\":[{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,{width}],\"parameters\":{{\"binary_data_size\":{size}}}}}],\
             \"parameters\":{{\"binary_data_output\":true}}}}"
        );
        let mut request = format!(
            "POST /v2/models/identity/infer HTTP/1.1\r\nhost: bench\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n{json}",
            json.len(),
            json.len() + size,
        )
        .into_bytes();
        request.resize(request.len() + size, 0);
        Client::Http {
            address: address.into(),
            request: request.into(),
        }
    }

    /// Keeps `in_flight` requests going for `time`.
    pub(crate) async fn closed_loop(&self, in_flight: usize, time: Duration) -> Result<Load> {
        let end = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        match self {
            Client::Grpc { address, request } => {
                // A few connections, as real clients have them.
                let mut channels = Vec::new();
                for _ in 0..in_flight.min(4) {
                    channels.push(GrpcInferenceServiceClient::connect(format!("http://{address}")).await?);
                }
                for k in 0..in_flight {
                    let (mut client, request) = (channels[k % channels.len()].clone(), request.clone());
                    tasks.spawn(async move {
                        let mut times = Vec::new();
                        while Instant::now() < end {
                            let start = Instant::now();
                            let answer = client.model_infer((*request).clone()).await?.into_inner();
                            ensure!(answer.raw_output_contents.len() == 1, "one output");
                            times.push(start.elapsed());
                        }
                        Ok(times)
                    });
                }
            }
            Client::Http { address, request } => {
                for _ in 0..in_flight {
                    let mut stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    let request = request.clone();
                    tasks.spawn(async move {
                        let mut times = Vec::new();
                        let mut buffer = vec![0; 64 * 1024];
                        while Instant::now() < end {
                            let start = Instant::now();
                            stream.write_all(&request).await?;
                            answer(&mut stream, &mut buffer).await?;
                            times.push(start.elapsed());
                        }
                        Ok(times)
                    });
                }
            }
        }
        let mut times = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let ended: Result<Vec<Duration>> = ended?;
            times.extend(ended?);
        }
        times.sort();
        let micros = |rank: usize| Some(times.get(rank)?.as_secs_f64() * 1e6);
        Ok(Load {
            requests: times.len(),
            p50: micros(times.len() / 2).context("no request was answered")?,
            p99: micros(times.len() * 99 / 100).context("no request was answered")?,
        })
    }
}

/// Reads one answer with a content length to its end; it must be a 200.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).await?;
        ensure!(read > 0, "the server closed the connection");
        have += read;
        let Some(end) = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "{head}");
        let length = head
            .split("content-length:")
            .nth(1)
            .context("no content length")?;
        let length: usize = length.split("\r\n").next().unwrap_or_default().trim().parse()?;
        while have < end + 4 + length {
            let read = stream.read(&mut buffer[have..]).await?;
            ensure!(read > 0, "the server closed the connection");
            have += read;
        }
        return Ok(());
    }
}

/// Waits until the server at `address` (HTTP) is ready.
pub(crate) async fn ready(address: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /v2/health/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            .await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        if text.starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the server was not ready within a minute")
}
