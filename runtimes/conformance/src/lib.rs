//! The one suite that every runtime passes, and the small ONNX models it is made of.
//!
//! A runtime says what it cannot do ([`Capabilities`]); each such thing is then asserted to be refused at load
//! with a reason, never skipped. [`onnx::ModelBuilder`] writes the models, so no model file is checked in.
//!
//! [`suite!`] makes one test per case. Cases panic where a runtime does not conform, as tests do.

pub mod cases;
mod harness;
pub mod onnx;
pub mod tensors;

use crossfade_runtimes_core::{Datatype, Runtime};

/// What a runtime can do; the rest is asserted to be refused.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Datatypes that pass through a model unchanged.
    pub datatypes: Vec<Datatype>,
    /// Datatypes it multiplies matrices in.
    pub arithmetic: Vec<Datatype>,
    /// Outputs whose shape depends on the values of the inputs.
    pub shapes_from_values: bool,
    /// Inputs and outputs with a dimension of size 0.
    pub empty_tensors: bool,
}

impl Capabilities {
    /// Everything the suite asks for.
    pub fn all() -> Self {
        Self {
            datatypes: Datatype::ALL.to_vec(),
            arithmetic: vec![Datatype::Fp16, Datatype::Fp32, Datatype::Fp64],
            shapes_from_values: true,
            empty_tensors: true,
        }
    }
}

/// A runtime under test.
pub struct Subject<'a> {
    /// The runtime.
    pub runtime: &'a dyn Runtime,
    /// What it says it can do.
    pub capabilities: Capabilities,
}

/// How far a computed value may be from the exact one, as `absolute + relative × |exact|`.
///
/// Source: unit roundoff of the datatype (2⁻¹¹, 2⁻⁸, 2⁻²⁴, 2⁻⁵³) times the 16 terms of the suite's longest sum,
/// rounded up. Never widened to pass.
pub fn tolerance(datatype: Datatype) -> (f64, f64) {
    match datatype {
        Datatype::Fp16 => (1e-2, 1e-2),
        Datatype::Bf16 => (8e-2, 8e-2),
        Datatype::Fp32 => (1e-6, 1e-6),
        Datatype::Fp64 => (2e-15, 2e-15),
        // Integers, booleans and bytes are exact.
        _ => (0.0, 0.0),
    }
}

/// Makes one test per case of the suite; `$subject` is an expression of type [`Subject`].
#[macro_export]
macro_rules! suite {
    ($subject:expr) => {
        $crate::suite!(@cases $subject;
            every_datatype_passes_through_unchanged,
            unaligned_inputs_are_read_rightly,
            strings_keep_nul_and_invalid_utf8,
            the_signature_tells_names_order_and_dimensions,
            named_unnamed_and_fixed_batches_run_at_every_size,
            scalars_go_in_and_out,
            tensors_without_elements_go_in_and_out,
            shapes_known_only_after_the_run_are_returned,
            inputs_and_outputs_keep_the_order_of_the_model,
            unwanted_outputs_are_left_out,
            models_without_inputs_run,
            foretold_and_unknown_output_shapes_give_the_same_values,
            a_wrongly_foretold_shape_is_an_error_or_corrected,
            sums_are_within_the_stated_tolerance,
            merged_rows_equal_rows_alone,
            a_missing_input_is_the_callers_mistake,
            a_failed_run_leaves_the_instance_usable,
            instances_run_in_parallel_with_identical_results,
            sequence_outputs_are_refused_by_name,
            datatypes_outside_the_protocol_are_refused_by_name,
            inputs_without_a_shape_are_refused_by_name,
            broken_empty_and_missing_files_are_load_errors_without_paths,
            external_data_is_found_beside_the_model_and_missed_by_name,
        );
    };
    (@cases $subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::cases::$case(&$subject);
            }
        )*
    };
}
