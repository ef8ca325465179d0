//! Control calls as the protocol's gRPC methods.

use anyhow::{Context as _, Result};
use crossfade_proto::FILE_DESCRIPTOR_SET;
use crossfade_proto::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelRepositoryParameter, ModelStatisticsRequest, ModelStatisticsResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
    ServerMetadataRequest, ServerMetadataResponse, StatisticDuration,
    model_repository_parameter::ParameterChoice,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use super::{Parameters, Spell, Statistics};
use crate::payload::{Input, Signature};
use crate::target::Target;
use crate::wire::grpc;

/// One unary call on a connection of its own.
async fn call<T: Message + Default>(target: &Target, method: &str, request: &impl Message) -> Result<T> {
    let send = grpc::connect(target).await.map_err(|_| {
        anyhow::anyhow!(
            "cannot connect to {}: does a gRPC server listen there?",
            target.url
        )
    })?;
    let head = grpc::head(target, &format!("/inference.GRPCInferenceService/{method}"), None);
    let (_, message) = grpc::call(send, head, request.encode_to_vec().into())
        .await
        .map_err(|failure| anyhow::anyhow!("{method}: {}", failure.name()))?;
    T::decode(message).with_context(|| format!("{method}: not the answer that the protocol has there"))
}

pub(super) async fn server(target: &Target) -> Result<(String, String)> {
    let metadata: ServerMetadataResponse = call(target, "ServerMetadata", &ServerMetadataRequest {}).await?;
    Ok((metadata.name, metadata.version))
}

pub(super) async fn signature(target: &Target, model: &str, version: Option<&str>) -> Result<Signature> {
    let request = ModelMetadataRequest {
        name: model.to_owned(),
        version: version.unwrap_or_default().to_owned(),
    };
    let metadata: ModelMetadataResponse = call(target, "ModelMetadata", &request).await?;
    let inputs = metadata.inputs.into_iter();
    let inputs = inputs.map(|input| Input {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
    });
    Ok(Signature {
        inputs: inputs.collect(),
    })
}

pub(super) async fn statistics(target: &Target, model: &str) -> Result<Vec<Statistics>> {
    let request = ModelStatisticsRequest {
        name: model.to_owned(),
        version: String::new(),
    };
    let all: ModelStatisticsResponse = call(target, "ModelStatistics", &request).await?;
    let spell = |duration: Option<StatisticDuration>| {
        duration.map_or_else(Spell::default, |duration| Spell {
            count: duration.count,
            ns: duration.ns,
        })
    };
    let convert = |one: crossfade_proto::inference::ModelStatistics| {
        let stats = one.inference_stats.unwrap_or_default();
        Statistics {
            model: one.name,
            version: one.version,
            executions: one.execution_count,
            success: spell(stats.success),
            queue: spell(stats.queue),
            compute_input: spell(stats.compute_input),
            compute_infer: spell(stats.compute_infer),
            compute_output: spell(stats.compute_output),
            batches: one
                .batch_stats
                .into_iter()
                .map(|batch| (batch.batch_size, spell(batch.compute_infer).count))
                .collect(),
        }
    };
    Ok(all.model_stats.into_iter().map(convert).collect())
}

pub(super) async fn config(target: &Target, model: &str) -> Result<Value> {
    let request = ModelConfigRequest {
        name: model.to_owned(),
        version: String::new(),
    };
    let response: ModelConfigResponse = call(target, "ModelConfig", &request).await?;
    let config = response
        .config
        .context("ModelConfig: the answer holds no configuration")?;
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).context("the protocol's own descriptors")?;
    let descriptor = pool
        .get_message_by_name("inference.ModelConfig")
        .context("the protocol's own descriptors have no ModelConfig")?;
    let message = DynamicMessage::decode(descriptor, config.encode_to_vec().as_slice())?;
    Ok(serde_json::to_value(&message)?)
}

pub(super) async fn load(target: &Target, model: &str, parameters: &Parameters) -> Result<()> {
    let parameter = |text: &String| ModelRepositoryParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.clone())),
    };
    let request = RepositoryModelLoadRequest {
        repository_name: String::new(),
        model_name: model.to_owned(),
        parameters: parameters
            .iter()
            .map(|(name, text)| (name.clone(), parameter(text)))
            .collect(),
    };
    call::<RepositoryModelLoadResponse>(target, "RepositoryModelLoad", &request)
        .await
        .map(drop)
}

pub(super) async fn unload(target: &Target, model: &str) -> Result<()> {
    let request = RepositoryModelUnloadRequest {
        model_name: model.to_owned(),
        ..RepositoryModelUnloadRequest::default()
    };
    call::<RepositoryModelUnloadResponse>(target, "RepositoryModelUnload", &request)
        .await
        .map(drop)
}
