//! Records of one version as an Arrow table: the columns that all have, then those of its tensors.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{FixedSizeBinaryBuilder, ListBuilder, StringBuilder};
use arrow_array::types::{Float32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{ArrowError, Field};
use uuid::Uuid;

use crate::columns::{Cells, columns};
use crate::gap::Gap;
use crate::record::{Batch, Origin, Record, STAGES, Side};
use crate::schema::{Column, NO_SCHEMA, Schema, Schemas};
use crate::seal::date;

/// The metadata of a column with what became of its values before they were written.
pub(crate) const POLICY: &str = "crossfade.policy";
/// In a field's metadata: the tensor that it is of, as its schema has it (JSON).
pub(crate) const TENSOR: &str = "crossfade.tensor";

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A record and its place.
pub(crate) struct Row<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) segment: Uuid,
    pub(crate) seq: u64,
    /// The number of its schema.
    pub(crate) schema: u16,
}

/// What a table is made of.
pub(crate) struct Rows<'a, 'r> {
    pub(crate) rows: &'r [Row<'a>],
    /// The schemas of the rows, by number; those of rows without tensors may be missing.
    pub(crate) schemas: &'r BTreeMap<u16, Schema>,
    /// The server that wrote them.
    pub(crate) replica: &'r str,
}

impl<'a> Rows<'a, '_> {
    /// A table without rows, of the columns that all records have.
    ///
    /// Errors: as [`table`](Self::table).
    pub(crate) fn none() -> Result<RecordBatch, ArrowError> {
        Rows {
            rows: &[],
            schemas: &BTreeMap::new(),
            replica: "",
        }
        .table()
    }

    /// The table.
    ///
    /// Errors: none, unless two columns do not fit together.
    pub(crate) fn table(&self) -> Result<RecordBatch, ArrowError> {
        let common = self.common().into_iter().map(|(name, array)| (name, array, None));
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = common
            .chain(self.tensors())
            .map(|(name, array, column)| {
                let field = Field::new(name, array.data_type().clone(), true);
                let about = column.map(about).unwrap_or_default();
                (field.with_metadata(about), array)
            })
            .unzip();
        RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields)), arrays)
    }

    /// inference-log.md §1.
    fn common(&self) -> Vec<(String, ArrayRef)> {
        let mut made: Vec<(&str, ArrayRef)> = vec![
            ("request_id", self.bytes(|row| Some(row.record.request_id))),
            ("client_request_id", self.text(|row| row.record.client_request_id)),
            ("ts", self.times()),
            (
                "ts_mono_ns",
                self.numbers::<Int64Type>(|row| Some(row.record.ts_mono_ns)),
            ),
            ("model", self.text(|row| Some(row.record.origin.model))),
            ("version", self.text(|row| Some(row.record.origin.version))),
            (
                "artifact_sha256",
                self.bytes(|row| row.record.origin.artifact_sha256),
            ),
            ("config_rev", self.bytes(|row| row.record.origin.config_rev)),
            ("release_id", self.text(|row| row.record.release_id)),
            ("stage", self.text(|row| Some(row.record.stage))),
            ("route_reason", self.text(|row| row.record.route_reason)),
            ("fallback_from", self.text(|_| None)),
            (
                "route_key_hash",
                self.numbers::<UInt64Type>(|row| row.record.route_key_hash),
            ),
            ("protocol", self.text(|row| Some(row.record.protocol))),
            ("outcome", self.text(|row| Some(row.record.outcome))),
            (
                "status_code",
                self.numbers::<UInt16Type>(|row| Some(row.record.status_code)),
            ),
            ("error", self.text(|row| row.record.error)),
            ("runtime", self.text(|row| row.record.origin.runtime)),
        ];
        let batch = |row: &Row<'_>| row.record.batch;
        made.extend([
            (
                "batch_id",
                self.numbers::<UInt64Type>(|row| batch(row).map(|Batch { id, .. }| id)),
            ),
            (
                "batch_size",
                self.numbers::<UInt16Type>(|row| batch(row).map(|Batch { rows, .. }| rows)),
            ),
            (
                "batch_index",
                self.numbers::<UInt16Type>(|row| batch(row).map(|Batch { index, .. }| index)),
            ),
            ("device", self.text(|row| row.record.origin.device)),
            (
                "replica",
                self.text(|_| Some(self.replica).filter(|name| !name.is_empty())),
            ),
            ("n_rows", self.numbers::<UInt32Type>(|row| Some(row.record.rows))),
            ("in_digest", self.bytes(|row| row.record.in_digest)),
            ("truncated", self.text(|row| row.record.truncated)),
            ("blob_ref", self.text(|row| row.record.blob_ref)),
            ("decision", self.text(|_| None)),
            ("score", self.numbers::<Float32Type>(|_| None)),
            ("violations", self.violations()),
            ("shadow_of", self.bytes(|row| row.record.shadow_of)),
            ("subject_key", self.bytes(|row| row.record.subject_key)),
            ("caller", self.text(|row| row.record.caller)),
            (
                "sampling_p",
                self.numbers::<Float32Type>(|row| Some(row.record.sampling_p)),
            ),
            ("trace_id", self.bytes(|row| row.record.trace_id)),
            ("segment_id", self.bytes(|row| Some(row.segment.into_bytes()))),
            ("seq", self.numbers::<UInt64Type>(|row| Some(row.seq))),
        ]);
        let times = STAGES.iter().enumerate().map(|(place, stage)| {
            let took = self.numbers::<UInt32Type>(|row| row.record.times_us.get(place).copied().flatten());
            (format!("{stage}_us"), took)
        });
        let made = made.into_iter().map(|(name, array)| (name.to_owned(), array));
        made.chain(times).collect()
    }

    /// The columns of every schema that a row has. Those of one name and kind are one column: versions of a model mostly have the
    /// same ones.
    fn tensors(&self) -> Vec<(String, ArrayRef, Option<&Column>)> {
        let mut wanted: Vec<(Side, &Column)> = Vec::new();
        for schema in self.schemas.values() {
            let inputs = schema.inputs.iter().map(|column| (Side::Input, column));
            let outputs = schema.outputs.iter().map(|column| (Side::Output, column));
            for one in inputs.chain(outputs) {
                if !wanted.contains(&one) {
                    wanted.push(one);
                }
            }
        }
        let mut made: Vec<(String, ArrayRef, Option<&Column>)> = Vec::new();
        for (side, column) in wanted {
            let Some(datatype) = column.datatype() else {
                continue;
            };
            let cells = self.cells(side, column);
            let prefix = if side == Side::Input { "in" } else { "out" };
            let new = columns(prefix, column, datatype, &cells);
            // Another version's tensor of the same name and another kind: the number of the kind tells all its columns apart.
            let suffixed = |kind: usize| {
                let named = new.iter().map(|(name, _)| match kind {
                    1 => name.clone(),
                    _ => format!("{name}#{kind}"),
                });
                named.collect::<Vec<_>>()
            };
            let is_free = |names: &Vec<String>| {
                names
                    .iter()
                    .all(|name| made.iter().all(|(other, ..)| other != name))
            };
            let names = (1..).map(suffixed).find(is_free).unwrap_or_default();
            let arrays = new.into_iter().map(|(_, array)| array);
            made.extend(
                names
                    .into_iter()
                    .zip(arrays)
                    .map(|(name, array)| (name, array, Some(column))),
            );
        }
        made
    }

    /// What each row has in a column.
    fn cells<'s>(&'s self, side: Side, column: &Column) -> Cells<'s> {
        // Its place in each schema, found once and not for each row.
        let places: BTreeMap<u16, usize> = self
            .schemas
            .iter()
            .filter_map(|(id, schema)| {
                let own = match side {
                    Side::Input => &schema.inputs,
                    Side::Output => &schema.outputs,
                };
                Some((*id, own.iter().position(|other| other == column)?))
            })
            .collect();
        let cell = |row: &'s Row<'a>| {
            let (place, tensors) = (*places.get(&row.schema)?, &row.record.tensors);
            let is = |tensor: &&crate::LoggedTensor<'_>| {
                tensor.side == side && usize::from(tensor.column) == place
            };
            // Mostly all inputs are there, in their order, and then all outputs.
            let first = match side {
                Side::Input => 0,
                Side::Output => self.schemas.get(&row.schema)?.inputs.len(),
            };
            let likely = tensors.get(first + place).filter(is);
            likely.or_else(|| tensors.iter().find(is))
        };
        self.rows.iter().map(cell).collect()
    }

    fn numbers<T: arrow_array::ArrowPrimitiveType>(
        &self,
        of: impl Fn(&Row<'a>) -> Option<T::Native>,
    ) -> ArrayRef {
        Arc::new(self.rows.iter().map(of).collect::<PrimitiveArray<T>>())
    }

    fn text<'s>(&'s self, of: impl Fn(&'s Row<'a>) -> Option<&'s str>) -> ArrayRef {
        Arc::new(self.rows.iter().map(of).collect::<StringArray>())
    }

    fn bytes<const N: usize>(&self, of: impl Fn(&Row<'a>) -> Option<[u8; N]>) -> ArrayRef {
        let mut column =
            FixedSizeBinaryBuilder::with_capacity(self.rows.len(), i32::try_from(N).unwrap_or(i32::MAX));
        for row in self.rows {
            match of(row) {
                // Its width is that of the column.
                Some(bytes) => drop(column.append_value(bytes)),
                None => column.append_null(),
            }
        }
        Arc::new(column.finish())
    }

    fn times(&self) -> ArrayRef {
        let times = self.rows.iter().map(|row| Some(row.record.ts_us));
        Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    }

    fn violations(&self) -> ArrayRef {
        let mut column = ListBuilder::new(StringBuilder::new());
        self.rows.iter().for_each(|_| column.append_null());
        Arc::new(column.finish())
    }
}

/// What a field says of the tensor that it is of.
fn about(column: &Column) -> HashMap<String, String> {
    let policy = column.policy.clone().map(|policy| (POLICY.to_owned(), policy));
    // Of numbers and texts.
    let tensor = serde_json::to_string(column).ok();
    let tensor = tensor.map(|tensor| (TENSOR.to_owned(), tensor));
    policy.into_iter().chain(tensor).collect()
}

/// The records of one model, version and day.
pub(crate) struct Group {
    pub(crate) model: String,
    pub(crate) version: String,
    /// UTC, as folders are named by it.
    pub(crate) date: String,
    /// In the order of time.
    pub(crate) table: RecordBatch,
}

/// Records as tables, in the order of models, versions and days.
///
/// Errors: as [`Rows::table`].
pub(crate) fn grouped(
    rows: Vec<Row<'_>>,
    schemas: &Schemas,
    replica: &str,
) -> Result<Vec<Group>, ArrowError> {
    let mut groups: BTreeMap<(&str, &str, i64), Vec<Row<'_>>> = BTreeMap::new();
    for row in rows {
        let Origin { model, version, .. } = row.record.origin;
        let day = row.record.ts_us.div_euclid(DAY_US);
        groups.entry((model, version, day)).or_default().push(row);
    }
    let groups = groups.into_iter().map(|((model, version, day), mut rows)| {
        rows.sort_by_key(|row| (row.record.ts_us, row.seq));
        let used = rows.iter().map(|row| row.schema).filter(|id| *id != NO_SCHEMA);
        let used: BTreeMap<u16, Schema> = used
            .filter_map(|id| Some((id, schemas.get(id)?.clone())))
            .collect();
        let table = Rows {
            rows: &rows,
            schemas: &used,
            replica,
        };
        Ok(Group {
            table: table.table()?,
            model: model.to_owned(),
            version: version.to_owned(),
            date: date(day.saturating_mul(DAY_US)),
        })
    });
    groups.collect()
}

/// Gaps as an Arrow table.
///
/// Errors: as [`Rows::table`].
pub(crate) fn gaps(gaps: &[Gap]) -> Result<RecordBatch, ArrowError> {
    let time = |of: fn(&Gap) -> i64| -> ArrayRef {
        let times = gaps.iter().map(|gap| Some(of(gap)));
        Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let counts = gaps.iter().map(|gap| Some(gap.count));
    let made: Vec<(&str, ArrayRef)> = vec![
        ("from_ts", time(|gap| gap.from_us)),
        ("to_ts", time(|gap| gap.to_us)),
        ("count", Arc::new(counts.collect::<PrimitiveArray<UInt64Type>>())),
        (
            "reason",
            Arc::new(
                gaps.iter()
                    .map(|gap| Some(gap.reason.as_str()))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "model",
            Arc::new(
                gaps.iter()
                    .map(|gap| gap.model.as_deref())
                    .collect::<StringArray>(),
            ),
        ),
    ];
    RecordBatch::try_from_iter(made)
}
