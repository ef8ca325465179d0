//! `grpc.health.v1.Health`: the server and its one service follow readiness.

use std::future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::service::Service;

/// The services whose health is known; empty is the whole server.
const KNOWN: [&str; 2] = ["", "inference.GRPCInferenceService"];

/// Answers health calls from the readiness of `service`.
pub(super) struct ServerHealth {
    service: Arc<Service>,
    stopping: CancellationToken,
}

impl ServerHealth {
    /// `stopping` ends the watches, so that they do not hold up a drain.
    pub(super) fn new(service: Arc<Service>, stopping: CancellationToken) -> Self {
        Self { service, stopping }
    }
}

fn serving(ready: bool) -> ServingStatus {
    if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for ServerHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if KNOWN.contains(&request.get_ref().service.as_str()) {
            Ok(Response::new(response(serving(self.service.ready()))))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = KNOWN.contains(&request.get_ref().service.as_str());
        let watch = Watch {
            told: None,
            readiness: known.then(|| self.service.watch_ready()),
            stopping: self.stopping.clone(),
        };
        let stream = futures_util::stream::unfold(watch, Watch::next);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// One watch: the status now, then each change.
struct Watch {
    told: Option<ServingStatus>,
    /// `None` for an unknown service, whose status never changes.
    readiness: Option<watch::Receiver<bool>>,
    stopping: CancellationToken,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            let now = match &mut self.readiness {
                Some(readiness) => serving(*readiness.borrow_and_update()),
                None => ServingStatus::ServiceUnknown,
            };
            if self.told != Some(now) {
                self.told = Some(now);
                return Some((Ok(response(now)), self));
            }
            let changed = async {
                match &mut self.readiness {
                    Some(readiness) => readiness.changed().await.is_ok(),
                    None => future::pending().await,
                }
            };
            // Both branches are cancel-safe. A change comes first: the last word before a drain is NOT_SERVING.
            tokio::select! {
                biased;
                alive = changed => if !alive { return None },
                () = self.stopping.cancelled() => return None,
            }
        }
    }
}
