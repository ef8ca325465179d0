//! HTTP that this program asks of others, over TLS where a URL says so: one request per connection, bounded in time and in
//! size.

pub(crate) mod storage;
mod tls;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::tls::TrustError;

/// The longest answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;
/// Time to reach the other side, the handshake of TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// A URL that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// It is not one, or names no host.
    #[error("`{0}` is no URL of the form http://HOST:PORT or https://HOST:PORT")]
    Form(String),
    /// A host that TLS cannot check.
    #[error("`{0}` is no host that a certificate can be for; write its name, or its address")]
    Host(String),
    /// A password in a URL ends up in logs.
    #[error("a URL here takes no user name or password")]
    User,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutgoingError {
    /// Nobody listens there, or not in time.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// Someone listens there who does not prove to be who is asked.
    #[error("no TLS with {url}: {reason}")]
    Tls {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// It broke off.
    #[error("{url} gave no whole answer: {reason}")]
    Broken {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
}

/// Where requests go, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
    /// The header `host`.
    authority: String,
    /// What stands before every path.
    path: String,
    /// Over TLS: whom the certificate has to be for.
    name: Option<ServerName<'static>>,
}

/// A target that can be asked.
pub(crate) struct Peer {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection to a peer, plain or over TLS.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Sender = http1::SendRequest<Full<Bytes>>;
type Connection = http1::Connection<TokioIo<Box<dyn Wire>>, Full<Bytes>>;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Below the target's own path, with a slash; empty: that path itself.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer whose body comes bit by bit; the connection ends with it.
pub(crate) struct Streaming {
    pub(crate) response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Target {
    /// Reads `http[s]://HOST[:PORT][/PATH]`.
    pub(crate) fn parse(url: &str) -> Result<Self, UrlError> {
        let form = || UrlError::Form(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| form())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(form()),
        };
        let authority = uri.authority().ok_or_else(form)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(form());
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let name = secure.then(|| ServerName::try_from(host.clone()));
        Ok(Self {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.to_string(),
            path: path.to_owned(),
            name: name.transpose().map_err(|_| UrlError::Host(host.clone()))?,
            host,
        })
    }

    /// Where it points, for people; without the path, which may hold a secret.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_secure() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Whether it is asked over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.name.is_some()
    }
}

impl Peer {
    /// What `target` points to. Reads certificates only if it is asked over TLS; blocks for the disk.
    ///
    /// * `ca`: a file of certificates, in PEM, that are trusted instead of the system's
    ///
    /// Errors: certificates that cannot be read or have no use.
    pub(crate) fn new(target: Target, ca: Option<&Path>) -> Result<Self, TrustError> {
        let tls = match (&target.name, ca) {
            (Some(name), ca) => Some((tls::connector(ca)?, name.clone())),
            (None, None) => None,
            (None, Some(_)) => return Err(TrustError::Useless(target.url())),
        };
        Ok(Self { target, tls })
    }

    /// Where it is, for people.
    pub(crate) fn url(&self) -> String {
        self.target.url()
    }

    /// Asks, and reads the whole answer within `within`.
    pub(crate) async fn ask(&self, asked: Asked, within: Duration) -> Result<Answered, OutgoingError> {
        match tokio::time::timeout(within, self.exchange(asked)).await {
            Ok(answered) => answered,
            Err(_) => Err(self.broken(format!("it took longer than {within:?}"))),
        }
    }

    async fn exchange(&self, asked: Asked) -> Result<Answered, OutgoingError> {
        let (mut sender, connection) = self.connect().await?;
        let exchange = async move {
            let response = sender.send_request(self.request(asked)?).await;
            let (head, body) = response.map_err(|error| self.broken(error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            Ok(Answered {
                status: head.status,
                headers: head.headers,
                body: body.map_err(|error| self.broken(error))?.to_bytes(),
            })
        };
        // The connection ends once the answer is read, since nothing holds its other end any more. What it failed of
        // is what the exchange failed of.
        let (answered, _connection) = tokio::join!(exchange, connection);
        answered
    }

    /// Asks for an answer that has no end.
    pub(crate) async fn stream(&self, asked: Asked) -> Result<Streaming, OutgoingError> {
        let (mut sender, connection) = self.connect().await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ended = connection.await.is_ok();
        }));
        let response = sender.send_request(self.request(asked)?).await;
        Ok(Streaming {
            response: response.map_err(|error| self.broken(error))?,
            _connection: connection,
        })
    }

    async fn connect(&self) -> Result<(Sender, Connection), OutgoingError> {
        let wire = match tokio::time::timeout(CONNECT, self.wire()).await {
            Ok(wire) => wire?,
            Err(_) => return Err(self.unreachable(format!("nothing answers within {CONNECT:?}"))),
        };
        http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|error| self.unreachable(error))
    }

    async fn wire(&self) -> Result<Box<dyn Wire>, OutgoingError> {
        let Target { host, port, .. } = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| self.unreachable(error))?;
        let Some((connector, name)) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let secured = connector.connect(name.clone(), stream).await;
        let secured = secured.map_err(|error| OutgoingError::Tls {
            url: self.url(),
            reason: tls::reason(&error),
        })?;
        Ok(Box::new(secured))
    }

    fn request(&self, asked: Asked) -> Result<Request<Full<Bytes>>, OutgoingError> {
        let mut request = Request::new(Full::new(asked.body));
        let path = match asked.path.as_str() {
            "" => self.target.path.clone(),
            below => format!("{}{below}", self.target.path.trim_end_matches('/')),
        };
        *request.method_mut() = asked.method;
        *request.uri_mut() = path.parse().map_err(|error| self.broken(error))?;
        *request.headers_mut() = asked.headers;
        let host = HeaderValue::from_str(&self.target.authority).map_err(|error| self.broken(error))?;
        request.headers_mut().insert(header::HOST, host);
        Ok(request)
    }

    fn unreachable(&self, reason: impl ToString) -> OutgoingError {
        OutgoingError::Unreachable {
            url: self.url(),
            reason: reason.to_string(),
        }
    }

    fn broken(&self, reason: impl ToString) -> OutgoingError {
        OutgoingError::Broken {
            url: self.url(),
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_by_name() {
        let target = Target::parse("http://[::1]:8003/base/").unwrap();
        assert_eq!(
            (target.host.as_str(), target.port, target.path.as_str()),
            ("::1", 8003, "/base/")
        );
        assert_eq!(target.url(), "http://[::1]:8003");
        assert_eq!(Target::parse("http://h").unwrap().port, 80);
        let secure = Target::parse("https://h/").unwrap();
        assert_eq!(
            (secure.port, secure.url().as_str(), secure.is_secure()),
            (443, "https://h", true)
        );
        for (url, expected) in [
            ("https://a_b!/", "no host that a certificate can be for"),
            ("ftp://h", "no URL of the form"),
            ("127.0.0.1:8003", "no URL of the form"),
            ("", "no URL of the form"),
            ("http://ann:secret@h", "no user name"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{url}: {error}"
            );
        }
    }
}
