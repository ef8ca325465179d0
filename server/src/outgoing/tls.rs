//! TLS with those who are asked: whom to trust, and what is wrong where nobody is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// What is spoken over it.
const HTTP: &[u8] = b"http/1.1";

/// Why it is not known whom to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// Certificates for a target that is asked without TLS.
    #[error("{0} is asked without TLS, and certificates have no use; write https://")]
    Useless(String),
    /// A file of certificates.
    #[error("`{path}`: {reason}; it has to hold certificates in PEM")]
    File {
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// The system's.
    #[error(
        "this system has no certificates to trust; name a file of those that the other side's is signed by"
    )]
    System,
}

/// What makes TLS of a connection, trusting the certificates in `ca`, else the system's. Blocks for the disk.
///
/// Errors: there is no such certificate.
pub(super) fn connector(ca: Option<&Path>) -> Result<TlsConnector, TrustError> {
    let roots = match ca {
        Some(path) => of_file(path)?,
        None => of_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks the versions that are safe")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn of_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let failed = |reason: String| TrustError::File {
        path: path.display().to_string(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(failed("there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

fn of_system() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    // Some of a system's are of forms that are not read; those that are serve.
    let found = rustls_native_certs::load_native_certs();
    match roots.add_parsable_certificates(found.certs) {
        (0, _) => Err(TrustError::System),
        _ => Ok(roots),
    }
}

/// Why a handshake failed, for whoever can do something about it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is signed by nobody who is trusted here; if it is a private authority, name its own certificate \
             (`ca` of a webhook, --ca-file of a command)"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(wrong)) => format!("its certificate is refused: {wrong}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_a_certificate_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, text: Option<&str>, expected: &str| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = connector(Some(&path)).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        };
        check("absent.pem", None, "PEM");
        check("empty.pem", Some(""), "no certificate in it");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        check("key.pem", Some(key), "no certificate in it");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check("broken.pem", Some(broken), "PEM");
    }
}
