//! A proxy that ends TLS in front of a plain server.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use crossfade_loadtest::target::Protocol;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A proxy that runs as long as the test.
pub(crate) struct Proxy {
    pub(crate) url: String,
    /// Its certificate, which is its own authority.
    pub(crate) ca_file: NamedTempFile,
}

pub(crate) async fn in_front_of(url: &str, protocol: Protocol) -> Proxy {
    let own =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let mut ca_file = NamedTempFile::new().expect("a file can be made");
    let text = base64::engine::general_purpose::STANDARD.encode(own.cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    ca_file.write_all(pem.as_bytes()).expect("it can be written");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("it was just made");
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the defaults")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("the key is the certificate's");
    config.alpn_protocols = vec![if protocol.is_grpc() {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has ports");
    let proxy = format!("https://{}", listener.local_addr().expect("it listens"));
    let behind = url.split_once("://").expect("a url has a scheme").1.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate goes away.
                let Ok(mut client) = acceptor.accept(stream).await else {
                    return;
                };
                let mut server = TcpStream::connect(behind).await.expect("the server is there");
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    Proxy { url: proxy, ca_file }
}
