use super::*;

fn source(parameters: &[(&str, &str)], accelerators: Vec<Accelerator>) -> ModelSource {
    ModelSource {
        parameters: map(parameters),
        accelerators,
        ..ModelSource::default()
    }
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    entries.iter().map(entry).collect()
}

fn accelerator(name: &str, gpu: bool, parameters: &[(&str, &str)]) -> Accelerator {
    Accelerator {
        name: name.to_owned(),
        gpu,
        parameters: map(parameters),
    }
}

fn provider(kind: Kind, options: &[(&str, &str)]) -> Provider {
    Provider {
        kind,
        options: map(options),
    }
}

#[track_caller]
fn check(source: &ModelSource, device: Device, expected: &[Provider]) {
    assert_eq!(plan(source, device).unwrap().providers, expected);
}

#[track_caller]
fn check_error(source: &ModelSource, device: Device, expected: &str) {
    let error = plan(source, device).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

const PLAIN: [(&str, &str); 4] = [
    ("device_id", "1"),
    ("arena_extend_strategy", "kSameAsRequested"),
    ("cudnn_conv_algo_search", "HEURISTIC"),
    ("use_tf32", "0"),
];

#[test]
fn the_cpu_needs_no_provider_and_a_gpu_has_cuda_with_our_defaults() {
    check(&source(&[], vec![]), Device::Cpu, &[]);
    check(
        &source(&[], vec![]),
        Device::Cuda(1),
        &[provider(Kind::Cuda, &PLAIN)],
    );
}

#[test]
fn parameters_change_options_of_the_cuda_provider() {
    let parameters = [
        ("gpu_mem_limit", "2147483648"),
        ("arena_extend_strategy", "0"),
        ("cuda.cudnn_conv_algo_search", "EXHAUSTIVE"),
        ("cuda.enable_cudnn", "0"),
        ("session.set_denormal_as_zero", "1"),
    ];
    let options = [
        ("device_id", "0"),
        ("arena_extend_strategy", "kNextPowerOfTwo"),
        ("cudnn_conv_algo_search", "EXHAUSTIVE"),
        ("enable_cudnn", "0"),
        ("gpu_mem_limit", "2147483648"),
        ("use_tf32", "0"),
    ];
    check(
        &source(&parameters, vec![]),
        Device::Cuda(0),
        &[provider(Kind::Cuda, &options)],
    );
    // They are for GPUs; a model that falls back to the CPU keeps them.
    check(&source(&parameters, vec![]), Device::Cpu, &[]);
}

#[test]
fn tensorrt_comes_before_cuda_and_takes_tritons_names() {
    let asked = accelerator(
        "tensorrt",
        true,
        &[
            ("precision_mode", "FP16"),
            ("max_workspace_size_bytes", "1073741824"),
            ("trt_engine_cache_enable", "1"),
        ],
    );
    let options = [
        ("device_id", "1"),
        ("trt_engine_cache_enable", "1"),
        ("trt_fp16_enable", "1"),
        ("trt_max_workspace_size", "1073741824"),
    ];
    check(
        &source(&[], vec![asked]),
        Device::Cuda(1),
        &[provider(Kind::TensorRt, &options), provider(Kind::Cuda, &PLAIN)],
    );
}

#[test]
fn openvino_is_for_the_cpu() {
    let asked = || accelerator("openvino", false, &[("num_of_threads", "2")]);
    let parameters = [("openvino.device_type", "CPU")];
    check(
        &source(&parameters, vec![asked()]),
        Device::Cpu,
        &[provider(
            Kind::OpenVino,
            &[("device_type", "CPU"), ("num_of_threads", "2")],
        )],
    );
    check(
        &source(&[], vec![asked()]),
        Device::Cuda(1),
        &[provider(Kind::Cuda, &PLAIN)],
    );
}

#[test]
fn cuda_graphs_are_asked_for_by_the_options_own_name() {
    let graphs = |parameters: &[(&str, &str)]| plan(&source(parameters, vec![]), Device::Cuda(0));
    assert!(!graphs(&[]).unwrap().graphs);
    assert!(!graphs(&[("cuda.enable_cuda_graph", "0")]).unwrap().graphs);
    assert!(graphs(&[("cuda.enable_cuda_graph", "1")]).unwrap().graphs);
    assert!(graphs(&[("cuda.enable_cuda_graph", "yes")]).is_err());
    let both = [("cuda.enable_cuda_graph", "1"), ("tensorrt.trt_fp16_enable", "1")];
    let refused = |parameters: &[(&str, &str)], part: &str| {
        let error = graphs(parameters).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&both, "not with TensorRT");
    refused(&[("tensorrt.trt_cuda_graph_enable", "1")], "no account of shapes");
    assert!(graphs(&[("tensorrt.trt_cuda_graph_enable", "0")]).is_ok());
}

#[test]
fn what_cannot_be_is_named_with_what_can() {
    let gpu = Device::Cuda(0);
    for (name, on_gpu) in [
        ("openvino", true),
        ("tensorrt", false),
        ("auto_mixed_precision", true),
    ] {
        let asked = accelerator(name, on_gpu, &[]);
        check_error(&source(&[], vec![asked]), gpu, name);
    }
    for (key, value, expected) in [
        ("gpu_mem_limit", "2GiB", "no number of bytes"),
        ("gpu_mem_limit", "0", "no number of bytes"),
        ("arena_extend_strategy", "2", "kSameAsRequested"),
        ("cuda.cudnn_conv_algo_search", "FAST", "HEURISTIC"),
        ("cuda.device_id", "1", "instance_group.gpus"),
        ("cuda.user_compute_stream", "1", "the server sets it"),
        ("tensorrt.precision_mode", "FP8", "none of FP32"),
        ("tensorrt.fp16", "1", "begins with trt_"),
        ("cuda.", "1", "has a name"),
    ] {
        check_error(&source(&[(key, value)], vec![]), gpu, expected);
        check_error(&source(&[(key, value)], vec![]), Device::Cpu, key);
    }
}

#[test]
fn options_are_told_from_other_parameters() {
    for (key, option) in [
        ("cuda.use_tf32", true),
        ("gpu_mem_limit", true),
        ("openvino.device_type", true),
        ("session.x", false),
        ("rocm.x", false),
        ("cuda", false),
    ] {
        assert_eq!(is_option(key), option, "{key}");
    }
}
