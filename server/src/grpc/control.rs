//! Every RPC but inference: protobuf in, [`crate::control`] in the middle, protobuf out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_proto::inference as pb;
use crossfade_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use pb::model_repository_parameter::ParameterChoice as LoadChoice;
use pb::{log_settings_request, log_settings_response};
use tonic::{Request, Response};

use super::Peer;
use super::reply::{clip, status};
use crate::audit::{Action, Call, Listener};
use crate::control::{
    BatchStatistics, IndexEntry, LoadParameters, ModelMetadata, ModelStatistics, Settings, StatisticDuration,
    TensorMetadata, object,
};
use crate::infer::Parameter;
use crate::service::Service;
use crate::status::{Refusal, Status};

mod model_config;

/// The service as the library routes to it; ModelInfer and ModelStreamInfer are answered in front of it.
pub(super) struct ControlPlane {
    service: Arc<Service>,
}

impl ControlPlane {
    /// Answers from `service`.
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

type Answer<T> = Result<Response<T>, tonic::Status>;

fn answer<T>(result: Result<T, Refusal>) -> Answer<T> {
    result.map(Response::new).map_err(status)
}

/// Who calls, as records say it.
fn call<T>(request: &Request<T>) -> Call {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    Call::anonymous(Listener::Grpc, peer)
}

fn no_shared_memory<T>() -> Answer<T> {
    answer(Err(Refusal::new(
        Status::Unsupported,
        "shared memory is not offered; send tensors in the request",
    )))
}

#[tonic::async_trait]
impl GrpcInferenceService for ControlPlane {
    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Answer<pb::ServerLiveResponse> {
        answer(Ok(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<pb::ServerReadyRequest>) -> Answer<pb::ServerReadyResponse> {
        let ready = self.service.ready();
        answer(Ok(pb::ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<pb::ModelReadyRequest>) -> Answer<pb::ModelReadyResponse> {
        let request = request.into_inner();
        let ready = match self.service.model_ready(&request.name, &request.version) {
            Err(refusal) if refusal.status == Status::NotFound => Ok(false),
            ready => ready,
        };
        answer(ready.map(|ready| pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Answer<pb::ServerMetadataResponse> {
        let metadata = self.service.server_metadata();
        answer(Ok(pb::ServerMetadataResponse {
            name: metadata.name.to_owned(),
            version: metadata.version.to_owned(),
            extensions: metadata.extensions.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Answer<pb::ModelMetadataResponse> {
        let request = request.into_inner();
        let metadata = self.service.model_metadata(&request.name, &request.version);
        answer(metadata.map(model_metadata))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Answer<pb::ModelConfigResponse> {
        let request = request.into_inner();
        let config = self.service.model_config(&request.name, &request.version);
        let config = config.and_then(model_config::from_json);
        answer(config.map(|config| pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Answer<pb::ModelStatisticsResponse> {
        let request = request.into_inner();
        let statistics = self.service.statistics(&request.name, &request.version);
        answer(statistics.map(|statistics| pb::ModelStatisticsResponse {
            model_stats: statistics.into_iter().map(model_statistics).collect(),
        }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Answer<pb::RepositoryIndexResponse> {
        let request = request.into_inner();
        let entries = self.service.index(&request.repository_name, request.ready).await;
        answer(entries.map(|entries| pb::RepositoryIndexResponse {
            models: entries.into_iter().map(index_entry).collect(),
        }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Answer<pb::RepositoryModelLoadResponse> {
        let call = call(&request);
        let request = request.into_inner();
        let (repository, model) = (&request.repository_name, &request.model_name);
        let loaded = match load_parameters(request.parameters) {
            Ok(parameters) => self.service.load(call, repository, model, parameters).await,
            Err(refusal) => {
                let object = object(repository, model);
                let refused = self.service.refuse_change(call, Action::Load, &object, refusal);
                Err(refused.await)
            }
        };
        answer(loaded.map(|()| pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Answer<pb::RepositoryModelUnloadResponse> {
        let call = call(&request);
        let request = request.into_inner();
        let unloaded = self
            .service
            .unload(call, &request.repository_name, &request.model_name)
            .await;
        answer(unloaded.map(|()| pb::RepositoryModelUnloadResponse {}))
    }

    async fn trace_setting(
        &self,
        request: Request<pb::TraceSettingRequest>,
    ) -> Answer<pb::TraceSettingResponse> {
        let call = call(&request);
        let request = request.into_inner();
        let changes = request
            .settings
            .into_iter()
            .map(|(key, setting)| (key, setting.value))
            .collect();
        let settings = self
            .service
            .trace_settings(call, &request.model_name, changes)
            .await;
        answer(settings.map(|settings| {
            pb::TraceSettingResponse {
                settings: settings
                    .into_iter()
                    .map(|(key, value)| (key, pb::trace_setting_response::SettingValue { value }))
                    .collect(),
            }
        }))
    }

    async fn log_settings(
        &self,
        request: Request<pb::LogSettingsRequest>,
    ) -> Answer<pb::LogSettingsResponse> {
        let call = call(&request);
        let settings = match log_changes(request.into_inner().settings) {
            Ok(changes) => self.service.log_settings(call, changes).await,
            Err(refusal) => {
                let refused = self
                    .service
                    .refuse_change(call, Action::LogSettings, "log", refusal);
                Err(refused.await)
            }
        };
        answer(settings.map(|settings| {
            pb::LogSettingsResponse {
                settings: settings
                    .into_iter()
                    .map(|(key, value)| (key, log_setting(value)))
                    .collect(),
            }
        }))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<pb::SystemSharedMemoryStatusRequest>,
    ) -> Answer<pb::SystemSharedMemoryStatusResponse> {
        answer(Ok(pb::SystemSharedMemoryStatusResponse::default()))
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<pb::SystemSharedMemoryRegisterRequest>,
    ) -> Answer<pb::SystemSharedMemoryRegisterResponse> {
        no_shared_memory()
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<pb::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<pb::SystemSharedMemoryUnregisterResponse> {
        answer(Ok(pb::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<pb::CudaSharedMemoryStatusRequest>,
    ) -> Answer<pb::CudaSharedMemoryStatusResponse> {
        answer(Ok(pb::CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<pb::CudaSharedMemoryRegisterRequest>,
    ) -> Answer<pb::CudaSharedMemoryRegisterResponse> {
        no_shared_memory()
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<pb::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<pb::CudaSharedMemoryUnregisterResponse> {
        answer(Ok(pb::CudaSharedMemoryUnregisterResponse {}))
    }
}

fn model_metadata(metadata: ModelMetadata) -> pb::ModelMetadataResponse {
    pb::ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions.iter().map(u64::to_string).collect(),
        platform: metadata.platform,
        inputs: metadata.inputs.into_iter().map(tensor_metadata).collect(),
        outputs: metadata.outputs.into_iter().map(tensor_metadata).collect(),
        properties: BTreeMap::new(),
    }
}

fn tensor_metadata(tensor: TensorMetadata) -> pb::model_metadata_response::TensorMetadata {
    pb::model_metadata_response::TensorMetadata {
        name: tensor.name,
        datatype: tensor.datatype.to_owned(),
        shape: tensor.shape,
    }
}

fn index_entry(entry: IndexEntry) -> pb::repository_index_response::ModelIndex {
    pb::repository_index_response::ModelIndex {
        name: entry.name,
        version: entry
            .version
            .map(|version| version.to_string())
            .unwrap_or_default(),
        state: entry.state.to_owned(),
        reason: entry.reason,
    }
}

fn duration(duration: StatisticDuration) -> Option<pb::StatisticDuration> {
    let StatisticDuration { count, ns } = duration;
    Some(pb::StatisticDuration { count, ns })
}

fn model_statistics(statistics: ModelStatistics) -> pb::ModelStatistics {
    let no_cache = || duration(StatisticDuration::default());
    pb::ModelStatistics {
        name: statistics.name,
        version: statistics.version.to_string(),
        last_inference: statistics.last_inference,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(pb::InferStatistics {
            success: duration(statistics.success),
            fail: duration(statistics.fail),
            queue: duration(statistics.queue),
            compute_input: duration(statistics.compute_input),
            compute_infer: duration(statistics.compute_infer),
            compute_output: duration(statistics.compute_output),
            cache_hit: no_cache(),
            cache_miss: no_cache(),
        }),
        batch_stats: statistics.batches.into_iter().map(batch_statistics).collect(),
        memory_usage: statistics
            .memory
            .into_iter()
            .map(|(kind, id, byte_size)| pb::MemoryUsage {
                r#type: kind.to_owned(),
                id,
                byte_size,
            })
            .collect(),
        response_stats: BTreeMap::new(),
    }
}

fn batch_statistics(batch: BatchStatistics) -> pb::InferBatchStatistics {
    pb::InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    }
}

/// `config` and `labels` are strings, `file:…` are bytes; anything else is refused by name.
fn load_parameters(
    parameters: BTreeMap<String, pb::ModelRepositoryParameter>,
) -> Result<LoadParameters, Refusal> {
    let mut load = LoadParameters::default();
    for (key, parameter) in parameters {
        match (key.as_str(), parameter.parameter_choice) {
            ("config", Some(LoadChoice::StringParam(text))) => load.config = Some(text),
            ("labels", Some(LoadChoice::StringParam(text))) => load.labels = Some(text),
            ("config" | "labels", _) => {
                return Err(Refusal::invalid(format!(
                    "load parameter `{key}` must be a string_param"
                )));
            }
            (key, choice) => {
                let Some(name) = key.strip_prefix("file:") else {
                    let key = clip(key.to_owned());
                    let message = format!(
                        "unknown load parameter `{key}`; known: config, labels, file:<version>/<name>"
                    );
                    return Err(Refusal::invalid(message));
                };
                let Some(LoadChoice::BytesParam(content)) = choice else {
                    let key = clip(key.to_owned());
                    return Err(Refusal::invalid(format!(
                        "load parameter `{key}` must be a bytes_param"
                    )));
                };
                load.files.insert(name.to_owned(), content.into());
            }
        }
    }
    Ok(load)
}

fn log_changes(settings: BTreeMap<String, log_settings_request::SettingValue>) -> Result<Settings, Refusal> {
    use log_settings_request::setting_value::ParameterChoice as Choice;
    settings
        .into_iter()
        .map(|(key, setting)| match setting.parameter_choice {
            Some(Choice::BoolParam(value)) => Ok((key, Parameter::Bool(value))),
            Some(Choice::Uint32Param(value)) => Ok((key, Parameter::Uint(value.into()))),
            Some(Choice::StringParam(value)) => Ok((key, Parameter::String(value))),
            None => Err(Refusal::invalid(format!(
                "log setting `{}` has no value",
                clip(key)
            ))),
        })
        .collect()
}

/// The wire has bools, u32 and strings; a number that is none of these becomes text.
fn log_setting(value: Parameter) -> log_settings_response::SettingValue {
    use log_settings_response::setting_value::ParameterChoice as Choice;
    let number =
        |number: Option<u32>, text: String| number.map_or(Choice::StringParam(text), Choice::Uint32Param);
    let choice = match value {
        Parameter::Bool(value) => Choice::BoolParam(value),
        Parameter::Int(value) => number(value.try_into().ok(), value.to_string()),
        Parameter::Uint(value) => number(value.try_into().ok(), value.to_string()),
        Parameter::Double(value) => Choice::StringParam(value.to_string()),
        Parameter::String(value) => Choice::StringParam(value),
    };
    log_settings_response::SettingValue {
        parameter_choice: Some(choice),
    }
}

#[cfg(test)]
mod tests;
