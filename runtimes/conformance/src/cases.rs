//! What every runtime does the same way, case by case.

#![expect(
    clippy::unwrap_used,
    reason = "cases are test code: a panic is how a case tells what went wrong"
)]

mod failures;
mod values;

pub use failures::{
    a_failed_run_leaves_the_instance_usable, a_missing_input_is_the_callers_mistake,
    a_wrongly_foretold_shape_is_an_error_or_corrected,
    broken_empty_and_missing_files_are_load_errors_without_paths,
    datatypes_outside_the_protocol_are_refused_by_name,
    external_data_is_found_beside_the_model_and_missed_by_name, inputs_without_a_shape_are_refused_by_name,
    sequence_outputs_are_refused_by_name,
};
pub use values::{
    every_datatype_passes_through_unchanged, foretold_and_unknown_output_shapes_give_the_same_values,
    inputs_and_outputs_keep_the_order_of_the_model, instances_run_in_parallel_with_identical_results,
    merged_rows_equal_rows_alone, models_without_inputs_run,
    named_unnamed_and_fixed_batches_run_at_every_size, scalars_go_in_and_out,
    shapes_known_only_after_the_run_are_returned, strings_keep_nul_and_invalid_utf8,
    sums_are_within_the_stated_tolerance, tensors_without_elements_go_in_and_out,
    the_signature_tells_names_order_and_dimensions, unaligned_inputs_are_read_rightly,
    unwanted_outputs_are_left_out,
};
