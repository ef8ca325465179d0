//! `[[webhook]]`: from what was written to what the code may rely on.

use super::file::RawWebhook;
use super::{ConfigError, WebhookConfig};
use crate::outgoing::Target;
use crate::webhook::Patience;

/// Checks every `[[webhook]]`.
///
/// Errors: a URL that cannot be asked; certificates for one that is asked without TLS; no event; two with the same URL, which could not keep their places apart.
pub(super) fn resolve(file: Vec<RawWebhook>) -> Result<Vec<WebhookConfig>, ConfigError> {
    let mut webhooks: Vec<WebhookConfig> = Vec::new();
    for raw in file {
        let target = Target::parse(&raw.url).map_err(|error| wrong("webhook.url", error.to_string()))?;
        if webhooks.iter().any(|known| known.url == raw.url) {
            return Err(wrong("webhook.url", format!("`{}` is named twice", raw.url)));
        }
        if raw.events.is_empty() {
            let reason = "an empty list asks for nothing; leave the key out for all of `transition`, `rollback`, `approval`";
            return Err(wrong("webhook.events", reason.to_owned()));
        }
        if let Some(ca) = raw.ca.as_deref().filter(|_| !target.is_secure()) {
            let reason = format!(
                "`{}` has no use for {}, which is told without TLS; write https://",
                ca.display(),
                target.url()
            );
            return Err(wrong("webhook.ca", reason));
        }
        webhooks.push(WebhookConfig {
            url: raw.url,
            target,
            events: raw.events,
            secret_file: raw.secret_file,
            ca: raw.ca,
            patience: Patience::default(),
        });
    }
    Ok(webhooks)
}

fn wrong(key: &'static str, reason: String) -> ConfigError {
    ConfigError::Value { key, reason }
}

#[cfg(test)]
mod tests {
    use super::super::file::RawConfig;
    use super::*;

    fn of(text: &str) -> Result<Vec<WebhookConfig>, String> {
        let file = RawConfig::parse(text)?;
        resolve(file.webhook).map_err(|error| error.to_string())
    }

    #[test]
    fn all_moves_are_told_unless_fewer_are_asked_for() {
        let text = "[[webhook]]\nurl = 'http://h/a'\nsecret_file = 's'\n";
        assert_eq!(of(text).unwrap()[0].events.len(), 3);
        let two =
            format!("{text}events = ['rollback']\n[[webhook]]\nurl = 'http://h/b'\nsecret_file = 's'\n");
        let both: Vec<usize> = of(&two)
            .unwrap()
            .iter()
            .map(|webhook| webhook.events.len())
            .collect();
        assert_eq!(both, [1, 3]);
    }

    #[test]
    fn tls_is_asked_for_by_the_url_and_the_system_is_trusted_unless_a_file_is_named() {
        let text = "[[webhook]]\nurl = 'https://h/a'\nsecret_file = 's'\n";
        let system = of(text).unwrap();
        assert!(system[0].target.is_secure() && system[0].ca.is_none());
        let file = of(&format!("{text}ca = 'ca.pem'\n")).unwrap();
        assert_eq!(file[0].ca.as_deref(), Some("ca.pem".as_ref()));
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_its_key() {
        let check = |more: &str, expected: &str| {
            let error = of(&format!("[[webhook]]\nsecret_file = 's'\n{more}")).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        };
        check("url = 'ftp://h'", "https://HOST");
        check("url = 'http://h'\nca = 'ca.pem'", "webhook.ca");
        check("url = 'h'", "webhook.url");
        check("url = 'http://h'\nevents = []", "webhook.events");
        check("url = 'http://h'\nevents = ['rolback']", "rolback");
        check("url = 'http://h'\nretries = 3", "retries");
        check(
            "url = 'http://h'\n[[webhook]]\nsecret_file = 's'\nurl = 'http://h'",
            "named twice",
        );
        check("", "url");
        assert!(
            of("[[webhook]]\nurl = 'http://h'\n")
                .unwrap_err()
                .contains("secret_file")
        );
    }
}
