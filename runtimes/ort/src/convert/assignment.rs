//! Which execution provider runs which nodes of a session: what really serves, not what was asked for.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr;

use ort::AsPointer as _;
use ort::session::Session;
use ort::sys;

use super::check;

/// Nodes by the name of their execution provider, such as `CUDAExecutionProvider`; of a session that was made with
/// `session.record_ep_graph_assignment_info`.
pub(crate) fn nodes_by_provider(session: &Session) -> ort::Result<BTreeMap<String, usize>> {
    let api = ort::api();
    let (mut graphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session lives through the call, which writes a pointer to an array of the session's and its length.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut graphs, &mut count) })?;
    let mut nodes = BTreeMap::new();
    if graphs.is_null() {
        return Ok(nodes);
    }
    // SAFETY: the array has `count` pointers and lives as long as the session.
    for &graph in unsafe { std::slice::from_raw_parts(graphs, count) } {
        *nodes.entry(provider(graph)?).or_insert(0) += node_count(graph)?;
    }
    Ok(nodes)
}

fn provider(graph: *const sys::OrtEpAssignedSubgraph) -> ort::Result<String> {
    let mut name = ptr::null();
    // SAFETY: `graph` is one of a living session; the call writes a pointer to a string of that graph's.
    unsafe {
        check((ort::api().EpAssignedSubgraph_GetEpName)(graph, &mut name))?;
        if name.is_null() {
            return Ok(String::new());
        }
        Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

fn node_count(graph: *const sys::OrtEpAssignedSubgraph) -> ort::Result<usize> {
    let (mut nodes, mut count) = (ptr::null(), 0);
    // SAFETY: `graph` is one of a living session; the array that the call points to is not read.
    check(unsafe { (ort::api().EpAssignedSubgraph_GetNodes)(graph, &mut nodes, &mut count) })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use crossfade_runtimes_conformance::onnx::{add_constant, named};

    use super::*;
    use crate::under_test::library;

    #[test]
    fn a_session_tells_which_provider_runs_its_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        add_constant(named("batch"), &[1.0, 2.0]).write(&file).unwrap();
        let session = Session::builder(library().environment())
            .unwrap()
            .with_config_entry("session.record_ep_graph_assignment_info", "1")
            .unwrap()
            .commit_from_file(&file)
            .unwrap();
        let expected = BTreeMap::from([("CPUExecutionProvider".to_owned(), 1)]);
        assert_eq!(nodes_by_provider(&session).unwrap(), expected);
    }
}
