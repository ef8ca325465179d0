//! Which path means what (protocols.md §3).

use http::Method;
use percent_encoding::percent_decode_str;

use super::text::TextRoute;

/// A path that is served, with the names in it decoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    ServerMetadata,
    Live,
    Ready,
    Model(Model, ModelRoute),
    AllStatistics,
    Index {
        repository: String,
    },
    Load {
        repository: String,
        model: String,
    },
    Unload {
        repository: String,
        model: String,
    },
    Logging,
    /// `model` is empty for the server's own settings.
    Trace {
        model: String,
    },
    SharedMemory(SharedMemory),
    /// `GET /v1/models`
    Models,
    Text(TextRoute),
}

/// What is asked of shared memory, of the system or of CUDA, which is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SharedMemory {
    Status,
    Register,
    Unregister,
}

/// A model as a path names it; an empty version was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: String,
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelRoute {
    Metadata,
    Ready,
    Infer,
    Config,
    Statistics,
}

/// Why a path is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// 404.
    UnknownPath,
    /// 400: a name in the path that no model can have.
    Name(&'static str),
}

impl Route {
    /// The route of a path.
    pub(super) fn of(path: &str) -> Result<Route, NoRoute> {
        let mut segments = [""; 8];
        let mut count = 0;
        let path = path.strip_prefix('/').ok_or(NoRoute::UnknownPath)?;
        if path.is_empty() {
            return Ok(Route::Text(TextRoute::Root));
        }
        for segment in path.split('/') {
            *segments.get_mut(count).ok_or(NoRoute::UnknownPath)? = segment;
            count += 1;
        }
        if segments[..count].contains(&"") {
            return Err(NoRoute::UnknownPath);
        }
        let model = |name: &str, version: &str| {
            Ok(Model {
                name: decode(name)?,
                version: decode(version)?,
            })
        };
        match segments[..count] {
            ["v2"] => Ok(Route::ServerMetadata),
            ["v1", "models"] => Ok(Route::Models),
            ["v1", "embeddings"] => Ok(Route::Text(TextRoute::OpenAi)),
            ["health"] => Ok(Route::Ready),
            ["embed"] => Ok(Route::Text(TextRoute::Embed)),
            ["rerank"] => Ok(Route::Text(TextRoute::Rerank)),
            ["predict"] => Ok(Route::Text(TextRoute::Predict)),
            ["v2", "health", "live"] => Ok(Route::Live),
            ["v2", "health", "ready"] => Ok(Route::Ready),
            ["v2", "logging"] => Ok(Route::Logging),
            ["v2", "trace", "setting"] => Ok(Route::Trace { model: String::new() }),
            ["v2", "models", "stats"] => Ok(Route::AllStatistics),
            ["v2", "models", m] => Ok(Route::Model(model(m, "")?, ModelRoute::Metadata)),
            ["v2", "models", m, "trace", "setting"] => Ok(Route::Trace { model: decode(m)? }),
            ["v2", "models", m, "versions", v] => Ok(Route::Model(model(m, v)?, ModelRoute::Metadata)),
            ["v2", "models", m, what] => Ok(Route::Model(model(m, "")?, ModelRoute::of(what)?)),
            ["v2", "models", m, "versions", v, what] => Ok(Route::Model(model(m, v)?, ModelRoute::of(what)?)),
            ["v2", "repository", "index"] => Ok(Route::Index {
                repository: String::new(),
            }),
            ["v2", "repository", r, "index"] => Ok(Route::Index {
                repository: decode(r)?,
            }),
            ["v2", "repository", "models", m, what] => Route::change("", m, what),
            ["v2", "repository", r, "models", m, what] => Route::change(r, m, what),
            ["v2", "systemsharedmemory" | "cudasharedmemory", what]
            | ["v2", "systemsharedmemory" | "cudasharedmemory", "region", _, what] => {
                SharedMemory::of(what).map(Route::SharedMemory)
            }
            _ => Err(NoRoute::UnknownPath),
        }
    }

    fn change(repository: &str, model: &str, what: &str) -> Result<Route, NoRoute> {
        let names = || Ok((decode(repository)?, decode(model)?));
        match what {
            "load" => names().map(|(repository, model)| Route::Load { repository, model }),
            "unload" => names().map(|(repository, model)| Route::Unload { repository, model }),
            _ => Err(NoRoute::UnknownPath),
        }
    }

    /// The methods that the path takes, as `Allow` lists them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Route::Model(_, ModelRoute::Infer)
            | Route::Text(_)
            | Route::Load { .. }
            | Route::Unload { .. }
            | Route::SharedMemory(SharedMemory::Register | SharedMemory::Unregister) => "POST",
            Route::Index { .. } | Route::Logging | Route::Trace { .. } => "GET, HEAD, POST",
            Route::ServerMetadata
            | Route::Live
            | Route::Ready
            | Route::Model(..)
            | Route::AllStatistics
            | Route::Models
            | Route::SharedMemory(SharedMemory::Status) => "GET, HEAD",
        }
    }

    /// Whether the path takes this method.
    pub(super) fn allows(&self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

impl ModelRoute {
    fn of(segment: &str) -> Result<Self, NoRoute> {
        match segment {
            "ready" => Ok(ModelRoute::Ready),
            "infer" => Ok(ModelRoute::Infer),
            "config" => Ok(ModelRoute::Config),
            "stats" => Ok(ModelRoute::Statistics),
            _ => Err(NoRoute::UnknownPath),
        }
    }
}

impl SharedMemory {
    fn of(segment: &str) -> Result<Self, NoRoute> {
        match segment {
            "status" => Ok(SharedMemory::Status),
            "register" => Ok(SharedMemory::Register),
            "unregister" => Ok(SharedMemory::Unregister),
            _ => Err(NoRoute::UnknownPath),
        }
    }
}

/// Decodes a name once and checks what every name must be (protocols.md §8); empty stands for none given.
pub(super) fn decode(segment: &str) -> Result<String, NoRoute> {
    let name = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| NoRoute::Name("is not UTF-8"))?;
    if name.len() > 255 {
        return Err(NoRoute::Name("is longer than 255 bytes"));
    }
    if name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control()) {
        return Err(NoRoute::Name("has a slash, backslash or control character"));
    }
    if matches!(&*name, "." | "..") {
        return Err(NoRoute::Name("is `.` or `..`"));
    }
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, version: &str, what: ModelRoute) -> Result<Route, NoRoute> {
        Ok(Route::Model(
            Model {
                name: name.to_owned(),
                version: version.to_owned(),
            },
            what,
        ))
    }

    #[test]
    fn every_path_of_the_protocol_is_known() {
        let none = String::new;
        for (path, expected) in [
            ("/v2", Ok(Route::ServerMetadata)),
            ("/v2/health/live", Ok(Route::Live)),
            ("/v2/health/ready", Ok(Route::Ready)),
            ("/v2/models/m", model("m", "", ModelRoute::Metadata)),
            ("/v2/models/m/versions/3", model("m", "3", ModelRoute::Metadata)),
            ("/v2/models/m/ready", model("m", "", ModelRoute::Ready)),
            (
                "/v2/models/m/versions/stable/infer",
                model("m", "stable", ModelRoute::Infer),
            ),
            ("/v2/models/m/config", model("m", "", ModelRoute::Config)),
            ("/v2/models/stats", Ok(Route::AllStatistics)),
            (
                "/v2/models/stats/stats",
                model("stats", "", ModelRoute::Statistics),
            ),
            (
                "/v2/models/a%20b%2525/infer",
                model("a b%25", "", ModelRoute::Infer),
            ),
            (
                "/v2/models/versions/versions/versions",
                model("versions", "versions", ModelRoute::Metadata),
            ),
            ("/v2/repository/index", Ok(Route::Index { repository: none() })),
            (
                "/v2/repository/models/index",
                Ok(Route::Index {
                    repository: "models".to_owned(),
                }),
            ),
            (
                "/v2/repository/models/m/load",
                Ok(Route::Load {
                    repository: none(),
                    model: "m".to_owned(),
                }),
            ),
            (
                "/v2/repository/r/models/m/unload",
                Ok(Route::Unload {
                    repository: "r".to_owned(),
                    model: "m".to_owned(),
                }),
            ),
            ("/v2/logging", Ok(Route::Logging)),
            (
                "/v2/systemsharedmemory/status",
                Ok(Route::SharedMemory(SharedMemory::Status)),
            ),
            (
                "/v2/cudasharedmemory/region/r/register",
                Ok(Route::SharedMemory(SharedMemory::Register)),
            ),
            (
                "/v2/systemsharedmemory/unregister",
                Ok(Route::SharedMemory(SharedMemory::Unregister)),
            ),
            ("/v2/trace/setting", Ok(Route::Trace { model: none() })),
            (
                "/v2/models/m/trace/setting",
                Ok(Route::Trace {
                    model: "m".to_owned(),
                }),
            ),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "",
            "*",
            "v2",
            "/v1",
            "/v2/",
            "/v2//",
            "/v2/models",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/m/generate",
            "/v2/models/m/generate_stream",
            "/v2/models/m/infer/",
            "/V2",
            "/metrics",
            "/v2/repository/models/m/reload",
            "/v2/models/m/versions/1/infer/x/y/z/w",
        ] {
            assert_eq!(Route::of(path), Err(NoRoute::UnknownPath), "{path}");
        }
    }

    #[test]
    fn names_that_could_leave_the_repository_are_refused() {
        for name in [
            "..",
            ".",
            "%2e%2e",
            "a%2Fb",
            "a%5cb",
            "a%00b",
            "a%0Ab",
            "%ff",
            &"x".repeat(256),
        ] {
            assert!(
                matches!(
                    Route::of(&format!("/v2/models/{name}/infer")),
                    Err(NoRoute::Name(_))
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn each_path_says_what_it_allows() {
        let allow = |path| Route::of(path).unwrap().allow();
        assert_eq!(allow("/v2/models/m/infer"), "POST");
        assert_eq!(allow("/v2/models/m"), "GET, HEAD");
        assert_eq!(allow("/v2/repository/index"), "GET, HEAD, POST");
        assert!(!Route::of("/v2").unwrap().allows(&Method::POST));
        assert!(Route::of("/v2/logging").unwrap().allows(&Method::HEAD));
    }
}
