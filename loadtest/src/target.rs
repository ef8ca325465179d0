//! A target: the URL of a server, the protocol to speak, and how to connect.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A protocol and the form of its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// ModelInfer, one call per request.
    Grpc,
    /// ModelStreamInfer, one stream per connection.
    GrpcStream,
    /// HTTP/1.1, tensors as JSON numbers.
    HttpJson,
    /// HTTP/1.1, tensors as raw bytes behind a JSON head.
    HttpBinary,
    /// HTTP/1.1, a fixed body to a fixed path of any server.
    HttpRaw,
    /// HTTP/1.1, texts to OpenAI's `/v1/embeddings` of any server.
    #[value(name = "openai")]
    OpenAi,
}

impl Protocol {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc-stream",
            Self::HttpJson => "http-json",
            Self::HttpBinary => "http-binary",
            Self::HttpRaw => "http-raw",
            Self::OpenAi => "openai",
        }
    }

    /// Whether requests are made from a model's metadata.
    pub fn has_tensors(self) -> bool {
        !matches!(self, Self::HttpRaw | Self::OpenAi)
    }

    /// Whether it is one of the two gRPC forms.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcStream)
    }
}

/// A server and a protocol to speak to it. Cheap to clone.
#[derive(Clone)]
pub struct Target {
    /// The URL as given.
    pub url: String,
    /// Host and port, as the `Host` header has them.
    pub authority: String,
    /// Where to connect, tried in turn.
    pub addresses: Arc<[SocketAddr]>,
    /// A path before `/v2`, without a slash at its end; usually empty.
    pub base: String,
    /// What is spoken.
    pub protocol: Protocol,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("url", &self.url)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// Reads `url`, resolves its host and prepares TLS for `https`.
    ///
    /// `ca_file`: certificates to trust, in PEM, instead of the system's. Without a port, 80 or 443.
    ///
    /// Errors: if the URL is not `http[s]://host[:port][/path]`, the host has no address, or the certificates cannot
    /// be read.
    pub async fn resolve(url: &str, protocol: Protocol, ca_file: Option<&Path>) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let tls = match scheme {
            "http" | "grpc" => false,
            "https" | "grpcs" => true,
            other => bail!("url `{url}`: scheme `{other}`; expected http://HOST:PORT or https://HOST:PORT"),
        };
        if ca_file.is_some() && !tls {
            bail!("--ca-file has no use with `{url}`; write https:// for a TLS connection");
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let uri: http::uri::Authority = authority.parse().with_context(|| {
            format!("url `{url}`: expected http://HOST:PORT, such as http://127.0.0.1:8000")
        })?;
        let host = uri
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let addresses: Arc<[SocketAddr]> = tokio::net::lookup_host((host.as_str(), port))
            .await
            .with_context(|| format!("url `{url}`: host `{host}` cannot be resolved"))?
            .collect();
        let tls = if tls {
            let name = ServerName::try_from(host.clone())
                .with_context(|| format!("url `{url}`: `{host}` is no name for a certificate"))?;
            Some((connector(ca_file, protocol)?, name))
        } else {
            None
        };
        let base = path.trim_end_matches('/');
        Ok(Self {
            url: url.to_owned(),
            authority: authority.to_owned(),
            addresses,
            base: if base.is_empty() {
                String::new()
            } else {
                format!("/{base}")
            },
            protocol,
            tls,
        })
    }

    /// The scheme of its requests.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Opens a connection, TLS handshake included.
    ///
    /// Errors: if nobody listens or the server's certificate is not trusted.
    pub async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(&*self.addresses).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Connection::Plain(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                Ok(Connection::Tls(Box::new(stream)))
            }
        }
    }
}

fn connector(ca_file: Option<&Path>, protocol: Protocol) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca_file {
        let unreadable = || format!("--ca-file {}: expected certificates in PEM", path.display());
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .with_context(unreadable)?
            .collect::<Result<_, _>>()
            .with_context(unreadable)?;
        if certificates.is_empty() {
            bail!("--ca-file {}: has no certificate in it", path.display());
        }
        for certificate in certificates {
            roots.add(certificate).with_context(unreadable)?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            bail!("no trusted certificates on this system; name those of the server with --ca-file");
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let spoken: &[u8] = if protocol.is_grpc() { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![spoken.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An open connection, plain or TLS.
#[derive(Debug)]
pub enum Connection {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
