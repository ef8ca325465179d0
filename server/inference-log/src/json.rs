//! Records as JSON lines.

use std::io::Write;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_json::{LineDelimitedWriter, WriterBuilder};
use arrow_schema::{DataType, Field, Schema};
use uuid::Uuid;

use crate::error::LogError;

/// Columns that are ids as people write them.
const IDS: [&str; 3] = ["request_id", "shadow_of", "segment_id"];

/// Writes a line per record; ids have dashes, other bytes are hexadecimal, what is not there is left out.
///
/// Errors: those of `to`.
pub fn write_lines(table: &RecordBatch, to: &mut impl Write) -> Result<(), LogError> {
    let table = readable(table)?;
    let mut writer: LineDelimitedWriter<_> = WriterBuilder::new().build(to);
    writer.write(&table)?;
    writer.finish()?;
    Ok(())
}

/// The same table with ids as texts.
fn readable(table: &RecordBatch) -> Result<RecordBatch, LogError> {
    let schema = table.schema();
    let columns = schema.fields().iter().zip(table.columns());
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns
        .map(|(field, column)| match column.as_fixed_size_binary_opt() {
            Some(ids) if IDS.contains(&field.name().as_str()) => {
                let texts = (0..ids.len()).map(|row| {
                    let bytes = ids.is_valid(row).then(|| ids.value(row));
                    Some(Uuid::from_slice(bytes?).ok()?.to_string())
                });
                let texts: ArrayRef = Arc::new(texts.collect::<StringArray>());
                (Field::new(field.name(), DataType::Utf8, true), texts)
            }
            // By its name a timezone needs a table of all of them.
            _ => match column.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(times) => {
                    let times: ArrayRef = Arc::new(times.clone().with_timezone("+00:00"));
                    (Field::new(field.name(), times.data_type().clone(), true), times)
                }
                None => (field.as_ref().clone(), column.clone()),
            },
        })
        .unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
