//! The parts of a request's path, one by one.

use criterion::{Criterion, criterion_group, criterion_main};

fn parts(_: &mut Criterion) {}

criterion_group!(benches, parts);
criterion_main!(benches);
