//! TLS as others speak it: an authority of a test's own, and a proxy that ends TLS before a plain server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::commands::{UNREACHABLE, command, fails, output};
use crate::harness::{Repository, Server};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Certificate,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            own,
        }
    }

    /// Writes its own certificate, for those who trust it.
    pub(crate) fn write(&self, path: &Path) {
        let text = STANDARD.encode(self.own.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(path, pem).unwrap();
    }

    /// A proxy before `behind` that runs as long as the test, with a certificate for `name`.
    pub(crate) async fn in_front_of(&self, behind: SocketAddr, name: &str) -> SocketAddr {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = named("a proxy of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not trust the certificate goes away.
                    if let Ok(mut client) = acceptor.accept(stream).await {
                        let mut server = TcpStream::connect(behind).await.unwrap();
                        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server)
                            .await
                            .is_ok();
                    }
                });
            }
        });
        at
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_tls_is_asked_once_its_certificate_is_trusted_and_for_it() {
    let server = Server::start(Repository::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let shown = file.display();
    let authority = Authority::new("an authority");
    authority.write(&file);
    let proxy = authority.in_front_of(server.app.admin, "127.0.0.1").await;
    let asked = format!("rollout status --admin-url https://{proxy}");
    let trusted = output(command(proxy, &format!("{asked} --ca-file {shown}"))).await;
    assert!(trusted.status.success(), "{trusted:?}");
    // As a system's own roots.
    let mut system = command(proxy, &asked);
    system.env("SSL_CERT_FILE", &file).env_remove("SSL_CERT_DIR");
    let trusted = output(system).await;
    assert!(trusted.status.success(), "{trusted:?}");

    let stranger = folder.path().join("stranger.pem");
    Authority::new("a stranger").write(&stranger);
    let line = format!("{asked} --ca-file {}", stranger.display());
    let said = fails(command(proxy, &line), UNREACHABLE).await;
    assert!(
        said.contains("signed by nobody who is trusted") && said.contains("--ca-file"),
        "{said}"
    );
    let elsewhere = authority.in_front_of(server.app.admin, "elsewhere.test").await;
    let line = format!("rollout status --admin-url https://{elsewhere} --ca-file {shown}");
    let said = fails(command(elsewhere, &line), UNREACHABLE).await;
    assert!(
        said.contains("its certificate is refused") && said.contains("elsewhere.test"),
        "{said}"
    );
    // No TLS there at all.
    let plain = server.app.admin;
    let line = format!("rollout status --admin-url https://{plain} --ca-file {shown}");
    let said = fails(command(plain, &line), UNREACHABLE).await;
    assert!(said.contains("no TLS with"), "{said}");
    server.stop().await;
}
