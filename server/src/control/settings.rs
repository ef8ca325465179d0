//! Log and trace settings, as Triton's calls read and write them (protocols.md §2.3).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Settings;
use crate::infer::Parameter;
use crate::status::{Refusal, Status};
use crate::telemetry::LogControl;

/// The state behind the log settings.
pub struct LogSettings {
    control: LogControl,
    configured: String,
    levels: Mutex<Levels>,
}

/// Why settings were not updated.
#[derive(Debug)]
pub(super) enum NotUpdated {
    /// They are wrong.
    Wrong(Refusal),
    /// They are good, and could not be recorded or applied.
    Unrecorded(Refusal),
}

/// What Triton calls log settings, as far as there is a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Levels {
    info: bool,
    warning: bool,
    error: bool,
    verbose: u32,
}

impl Levels {
    /// These levels with `changes`, all of which have to be good.
    fn changed(self, changes: Settings) -> Result<Self, Refusal> {
        let mut new = self;
        for (key, value) in changes {
            match (key.as_str(), value) {
                ("log_info", Parameter::Bool(on)) => new.info = on,
                ("log_warning", Parameter::Bool(on)) => new.warning = on,
                ("log_error", Parameter::Bool(on)) => new.error = on,
                ("log_verbose_level", Parameter::Uint(level)) => {
                    new.verbose = level.try_into().unwrap_or(u32::MAX)
                }
                ("log_verbose_level", Parameter::Int(level)) => {
                    let level = u32::try_from(level).map_err(|_| {
                        Refusal::invalid(format!(
                            "setting `log_verbose_level`: expected a number ≥ 0, got {level}"
                        ))
                    })?;
                    new.verbose = level;
                }
                ("log_file", Parameter::String(file)) if file.is_empty() => {}
                ("log_format", Parameter::String(format)) if format == "default" => {}
                ("log_file" | "log_format", _) => {
                    let message = format!(
                        "setting `{key}` cannot change at run time; start the server with --log-format"
                    );
                    return Err(Refusal::new(Status::Unsupported, message));
                }
                ("log_info" | "log_warning" | "log_error", _) => {
                    return Err(Refusal::invalid(format!(
                        "setting `{key}`: expected true or false"
                    )));
                }
                ("log_verbose_level", _) => {
                    return Err(Refusal::invalid(format!(
                        "setting `{key}`: expected a number ≥ 0"
                    )));
                }
                _ => return Err(Refusal::invalid(format!("unknown log setting `{}`", clip(&key)))),
            }
        }
        Ok(new)
    }

    /// As the calls show them.
    fn settings(self) -> Settings {
        BTreeMap::from([
            ("log_file".into(), Parameter::String(String::new())),
            ("log_info".into(), Parameter::Bool(self.info)),
            ("log_warning".into(), Parameter::Bool(self.warning)),
            ("log_error".into(), Parameter::Bool(self.error)),
            ("log_verbose_level".into(), Parameter::Uint(self.verbose.into())),
            ("log_format".into(), Parameter::String("default".into())),
        ])
    }

    /// The filter that shows what is asked for.
    fn filter(self, configured: &str) -> String {
        match self {
            Levels { verbose: 2.., .. } => "trace".into(),
            Levels { verbose: 1, .. } => "debug".into(),
            Levels { info: true, .. } => configured.into(),
            Levels { warning: true, .. } => "warn".into(),
            Levels { error: true, .. } => "error".into(),
            _ => "off".into(),
        }
    }
}

impl LogSettings {
    /// Settings of a log whose filter was configured as `configured`.
    pub fn new(control: LogControl, configured: &str) -> Self {
        let levels = Levels {
            info: true,
            warning: true,
            error: true,
            verbose: 0,
        };
        Self {
            control,
            configured: configured.into(),
            levels: Mutex::new(levels),
        }
    }

    /// Applies `changes` all or not at all, and returns every setting. `record` hears of them, before and after, when
    /// they are found good and before they are applied.
    pub(super) fn update(
        &self,
        changes: Settings,
        record: impl FnOnce(&Settings, &Settings) -> Result<(), Refusal>,
    ) -> Result<Settings, NotUpdated> {
        let mut current = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = !changes.is_empty();
        let new = current.changed(changes).map_err(NotUpdated::Wrong)?;
        let settings = new.settings();
        if writes {
            record(&current.settings(), &settings).map_err(NotUpdated::Unrecorded)?;
        }
        if new != *current {
            self.control
                .set(&new.filter(&self.configured))
                .map_err(|error| NotUpdated::Unrecorded(Refusal::new(Status::Internal, error.to_string())))?;
            *current = new;
        }
        Ok(settings)
    }
}

/// The trace settings: readable; tracing itself is off, and a write that would turn it on is refused.
pub(super) fn trace(
    changes: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    const FIXED: [(&str, &str); 6] = [
        ("trace_file", ""),
        ("trace_level", "OFF"),
        ("trace_rate", "1000"),
        ("trace_count", "-1"),
        ("log_frequency", "0"),
        ("trace_mode", "triton"),
    ];
    for (key, values) in changes {
        let Some((_, fixed)) = FIXED.iter().find(|(known, _)| *known == key) else {
            return Err(Refusal::invalid(format!(
                "unknown trace setting `{}`",
                clip(&key)
            )));
        };
        // An empty list asks for the default back, which is what there is.
        if !values.is_empty() && values != [*fixed] {
            let message = format!("trace setting `{key}` can only be `{fixed}`: tracing is not offered");
            return Err(Refusal::new(Status::Unsupported, message));
        }
    }
    Ok(FIXED
        .iter()
        .map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]))
        .collect())
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_applied_all_or_not_at_all() {
        let settings = LogSettings::new(LogControl::detached(), "info");
        let read = || {
            settings
                .update(BTreeMap::new(), |_, _| panic!("reading is not recorded"))
                .unwrap()
        };
        assert_eq!(read()["log_info"], Parameter::Bool(true));
        let changes =
            |pairs: &[(&str, Parameter)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let good = [
            ("log_info", Parameter::Bool(false)),
            ("log_verbose_level", Parameter::Uint(2)),
        ];
        assert_eq!(
            settings.update(changes(&good), |_, _| Ok(())).unwrap()["log_info"],
            Parameter::Bool(false)
        );
        assert_eq!(read()["log_verbose_level"], Parameter::Uint(2));
        for bad in [
            ("log_warning", Parameter::Int(0)),
            ("log_verbose_level", Parameter::Int(-1)),
            ("log_file", Parameter::String("x".into())),
            ("nonsense", Parameter::Bool(true)),
        ] {
            assert!(
                settings
                    .update(changes(&[("log_error", Parameter::Bool(false)), bad]), |_, _| Ok(
                        ()
                    ))
                    .is_err()
            );
        }
        assert_eq!(read()["log_error"], Parameter::Bool(true));
    }

    #[test]
    fn what_cannot_be_recorded_is_not_applied() {
        let settings = LogSettings::new(LogControl::detached(), "info");
        let off: Settings = BTreeMap::from([("log_error".to_owned(), Parameter::Bool(false))]);
        let full = |before: &Settings, after: &Settings| {
            assert_eq!(before["log_error"], Parameter::Bool(true));
            assert_eq!(after["log_error"], Parameter::Bool(false));
            Err(Refusal::new(Status::NotReady, "full"))
        };
        let failed = settings.update(off, full).unwrap_err();
        assert!(matches!(failed, NotUpdated::Unrecorded(_)), "{failed:?}");
        let read = settings.update(BTreeMap::new(), |_, _| Ok(())).unwrap();
        assert_eq!(read["log_error"], Parameter::Bool(true));
    }

    #[test]
    fn levels_become_a_filter() {
        let all = Levels {
            info: true,
            warning: true,
            error: true,
            verbose: 0,
        };
        assert_eq!(all.filter("info,h2=warn"), "info,h2=warn");
        assert_eq!(Levels { verbose: 1, ..all }.filter("info"), "debug");
        assert_eq!(Levels { info: false, ..all }.filter("info"), "warn");
        assert_eq!(
            Levels {
                info: false,
                warning: false,
                error: false,
                verbose: 0
            }
            .filter("info"),
            "off"
        );
    }

    #[test]
    fn trace_settings_read_and_refuse() {
        assert_eq!(trace(BTreeMap::new()).unwrap()["trace_level"], ["OFF"]);
        let set = |key: &str, value: &str| trace(BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]));
        assert!(set("trace_level", "OFF").is_ok());
        assert_eq!(
            set("trace_level", "TIMESTAMPS").unwrap_err().status,
            Status::Unsupported
        );
        assert_eq!(set("x", "y").unwrap_err().status, Status::InvalidInput);
    }
}
