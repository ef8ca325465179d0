//! tract passes the suite; what it cannot do it refuses.

use crossfade_runtimes_conformance::{Capabilities, Subject, suite};
use crossfade_runtimes_core::Datatype;
use crossfade_runtimes_tract::TractRuntime;

suite!(Subject {
    runtime: &TractRuntime::new(2),
    capabilities: Capabilities {
        datatypes: Datatype::ALL
            .into_iter()
            .filter(|datatype| !matches!(datatype, Datatype::Bytes | Datatype::Bf16))
            .collect(),
        ..Capabilities::all()
    },
});
