//! What requests see: an immutable table of models, replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::config::ModelConfig;
use crate::error::RouteError;
use crate::lifecycle::State;
use crate::traffic::{Division, Route, RouteView, VersionSelector, Wish, default_version, route};
use crossfade_rollout::routing::RouteReason;

/// All models that have something to say to a request.
pub(super) struct Table<S> {
    pub(super) models: HashMap<Arc<str>, Arc<ModelRoutes<S>>>,
    pub(super) ready: bool,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self {
            models: HashMap::new(),
            ready: false,
        }
    }
}

/// One model as requests see it.
pub(super) struct ModelRoutes<S> {
    pub(super) name: Arc<str>,
    pub(super) states: BTreeMap<u64, State>,
    pub(super) live: BTreeMap<u64, Arc<Live<S>>>,
    pub(super) chosen: Vec<u64>,
    pub(super) labels: BTreeMap<String, u64>,
    /// How requests are divided, for a model whose versions are released.
    pub(super) division: Option<Arc<Division>>,
    /// Why nothing of it could be loaded.
    pub(super) failure: Option<Arc<str>>,
}

/// A version that answers requests, or answers its last ones.
pub(super) struct Live<S> {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// Tells a reloaded version from its former self.
    pub(super) generation: u64,
    pub(super) config: Arc<ModelConfig>,
    /// Present until drop.
    servable: Option<S>,
    reaper: Sender<Reap<S>>,
}

/// What the reaper is told.
pub(super) enum Reap<S> {
    /// Drop this; nothing refers to it any more.
    Servable {
        name: Arc<str>,
        version: u64,
        generation: u64,
        servable: S,
    },
    /// End.
    Stop,
}

impl<S> Live<S> {
    pub(super) fn new(
        name: Arc<str>,
        version: u64,
        generation: u64,
        loaded: super::Loaded<S>,
        reaper: Sender<Reap<S>>,
    ) -> Self {
        Self {
            name,
            version,
            generation,
            config: loaded.config,
            servable: Some(loaded.servable),
            reaper,
        }
    }
}

impl<S> Drop for Live<S> {
    /// Hands the servable to the reaper: the last reference may be a request's, which must not free a model.
    fn drop(&mut self) {
        if let Some(servable) = self.servable.take() {
            let reap = Reap::Servable {
                name: self.name.clone(),
                version: self.version,
                generation: self.generation,
                servable,
            };
            // After shutdown nobody listens; the servable is then dropped right here.
            if let Err(unheard) = self.reaper.send(reap) {
                drop(unheard);
            }
        }
    }
}

/// A version on its way to answer a request: derefs to the servable and keeps it alive.
pub struct Routed<S>(Arc<Live<S>>);

impl<S> Routed<S> {
    /// The model.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The version that answers.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Arc<ModelConfig> {
        &self.0.config
    }
}

/// A version chosen for a request, and why.
pub struct Choice<S> {
    /// The version that answers.
    pub routed: Routed<S>,
    /// What decided.
    pub reason: RouteReason,
    /// The draw, where chance decided.
    pub unit: u64,
    /// How the model's requests are divided.
    pub division: Option<Arc<Division>>,
}

impl<S> Clone for Routed<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Deref for Routed<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.0.servable.as_ref().expect("only drop takes the servable")
    }
}

impl<S> std::fmt::Debug for Routed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.name, self.0.version)
    }
}

impl<S> Table<S> {
    pub(super) fn route(&self, model: &str, selector: &str) -> Result<Routed<S>, RouteError> {
        self.model(model)?.route(selector)
    }

    pub(super) fn choose(&self, model: &str, wish: &Wish<'_>) -> Result<Choice<S>, RouteError> {
        let routes = self.model(model)?;
        let choice = |routed, reason, unit| Choice {
            routed,
            reason,
            unit,
            division: routes.division.clone(),
        };
        if let (true, Some(division)) = (wish.selector.is_empty(), &routes.division) {
            let drawn = division.draw(wish);
            // A version that is gone is not waited for: the live one answers, and nothing is counted.
            if let Some(live) = routes.live.get(&drawn.version) {
                return Ok(choice(Routed(Arc::clone(live)), drawn.reason, drawn.unit));
            }
        }
        let routed = routes.route(wish.selector)?;
        let reason = match VersionSelector::parse(wish.selector) {
            Some(VersionSelector::Version(_)) => RouteReason::Pin,
            Some(VersionSelector::Label(_)) => RouteReason::Label,
            Some(VersionSelector::Default) | None => RouteReason::Only,
        };
        Ok(choice(routed, reason, 0))
    }

    pub(super) fn all(&self) -> Vec<Routed<S>> {
        let live = self.models.values().flat_map(|routes| routes.live.values());
        let mut all: Vec<Routed<S>> = live.map(|live| Routed(Arc::clone(live))).collect();
        all.sort_by(|a, b| (a.name(), a.version()).cmp(&(b.name(), b.version())));
        all
    }

    pub(super) fn ready_versions(&self, model: &str) -> Result<Vec<u64>, RouteError> {
        let routes = self.model(model)?;
        match default_version(&routes.view()) {
            Some(_) => Ok(routes.live.keys().copied().collect()),
            None => Err(routes.not_ready(None)),
        }
    }

    fn model(&self, model: &str) -> Result<&ModelRoutes<S>, RouteError> {
        let routes = self.models.get(model);
        routes.map(Arc::as_ref).ok_or_else(|| RouteError::UnknownModel {
            model: model.chars().take(255).collect(),
        })
    }
}

impl<S> ModelRoutes<S> {
    fn view(&self) -> RouteView<'_> {
        RouteView {
            versions: &self.states,
            chosen: &self.chosen,
            labels: &self.labels,
            division: self.division.as_deref(),
        }
    }

    fn route(&self, selector: &str) -> Result<Routed<S>, RouteError> {
        let invalid = || RouteError::InvalidVersion {
            model: self.name.clone(),
            selector: selector.chars().take(64).collect(),
        };
        let selector = VersionSelector::parse(selector).ok_or_else(invalid)?;
        match route(selector, &self.view()) {
            Route::Ready(version) => self.live(version),
            Route::NotReady(version) => Err(self.not_ready(Some(version))),
            Route::Unknown(version) => Err(RouteError::UnknownVersion {
                model: self.name.clone(),
                version,
            }),
            Route::Invalid => Err(invalid()),
            Route::NoneReady => Err(self.not_ready(None)),
        }
    }

    fn live(&self, version: u64) -> Result<Routed<S>, RouteError> {
        match self.live.get(&version) {
            Some(live) => Ok(Routed(Arc::clone(live))),
            None => Err(self.not_ready(Some(version))),
        }
    }

    /// Why `version`, or the model as a whole, cannot answer.
    fn not_ready(&self, version: Option<u64>) -> RouteError {
        let state = match (version, &self.failure) {
            (Some(version), _) => self.states.get(&version).cloned(),
            (None, Some(failure)) => Some(State::Failed(failure.clone())),
            (None, None) => self
                .chosen
                .iter()
                .rev()
                .find_map(|version| self.states.get(version))
                .cloned(),
        };
        let state = state.unwrap_or(State::Loading);
        let reason = match &state {
            State::Failed(reason) => reason.clone(),
            _ => "".into(),
        };
        RouteError::NotReady {
            model: self.name.clone(),
            version,
            state,
            reason,
        }
    }
}
