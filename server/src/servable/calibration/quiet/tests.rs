//! What counts as disturbed, and that both ways are run.

use crossfade_runtimes_core::{Datatype, Dim, ShapeSpec, TensorSpec};
use crossfade_runtimes_fake::FakeModel;

use super::*;

#[test]
fn a_slice_whose_thread_waited_for_a_core_is_disturbed() {
    let ms = Duration::from_millis;
    for (before, after, expected) in [
        (Some(ms(7)), Some(ms(7)), true),
        (Some(ms(7)), Some(ms(11)), true),
        (Some(ms(7)), Some(ms(12)), false),
        (None, Some(ms(40)), true),
    ] {
        assert_eq!(
            undisturbed(before, after, ms(40)),
            expected,
            "{before:?} {after:?}"
        );
    }
}

#[test]
fn the_wait_is_the_second_number() {
    assert_eq!(
        parse("84003872 43174351 144\n"),
        Some(Duration::from_nanos(43_174_351))
    );
    for broken in ["", "12", "1 -2 3", "1 x 3"] {
        assert_eq!(parse(broken), None, "{broken}");
    }
}

#[test]
fn both_ways_are_measured_until_the_version_is_gone() {
    let spec = |name| {
        let shape = ShapeSpec(vec![Dim::Any, Dim::Fixed(4)]);
        TensorSpec::new(name, Datatype::Fp32, shape)
    };
    let signature = ModelSignature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        max_rows: None,
        ..Default::default()
    };
    let model = FakeModel::identity(signature.clone());
    let mut shared = [model.instance()];
    let mut single = [model.instance(), model.instance()];
    let judged = measure(Way::Shared, &signature, &mut shared, &mut single, 8, &|| true).unwrap();
    // Which of the two depends on what else this machine does.
    assert_ne!(judged, Judgement::More);
    let sizes = model.probe().batch_rows();
    assert!(sizes.contains(&1) && sizes.contains(&8));
    let gone = measure(Way::Shared, &signature, &mut shared, &mut single, 8, &|| false);
    assert_eq!(gone.unwrap_err(), "it was unloaded");
}
