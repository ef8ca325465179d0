//! HTTP for object storage: `object_store` signs and reads, this program's own connections carry it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

use super::{Asked, OutgoingError, Peer, Target, TrustError, UrlError};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections to object storage.
#[derive(Clone)]
pub(crate) struct Carrier {
    /// Certificates that are trusted instead of the system's.
    ca: Option<PathBuf>,
    peers: Arc<Mutex<HashMap<String, Arc<Peer>>>>,
}

/// Why a request could not be sent.
#[derive(Debug, thiserror::Error)]
enum CarrierError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    #[error("the request: {0}")]
    Body(HttpError),
}

impl Carrier {
    pub(crate) fn new(ca: Option<PathBuf>) -> Self {
        Self {
            ca,
            peers: Arc::default(),
        }
    }

    fn peer(&self, url: &str) -> Result<Arc<Peer>, CarrierError> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(url) {
            return Ok(peer.clone());
        }
        let target = Target::parse(url)?;
        let ca = self.ca.as_deref().filter(|_| target.is_secure());
        let peer = Arc::new(Peer::new(target, ca)?);
        peers.insert(url.to_owned(), peer.clone());
        Ok(peer)
    }

    async fn carry(&self, request: HttpRequest) -> Result<HttpResponse, CarrierError> {
        let (head, body) = request.into_parts();
        let scheme = head.uri.scheme_str().unwrap_or("https");
        let authority = head.uri.authority().map_or("", |authority| authority.as_str());
        let peer = self.peer(&format!("{scheme}://{authority}"))?;
        let asked = Asked {
            method: head.method,
            path: head
                .uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
            headers: head.headers,
            body: body.collect().await.map_err(CarrierError::Body)?.to_bytes(),
        };
        let answered = peer.ask(asked, PATIENCE).await?;
        let mut response = HttpResponse::new(HttpResponseBody::from(answered.body));
        *response.status_mut() = answered.status;
        *response.headers_mut() = answered.headers;
        Ok(response)
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Carrier")
    }
}

#[async_trait::async_trait]
impl HttpService for Carrier {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.carry(request).await.map_err(|error| {
            let kind = match &error {
                CarrierError::Outgoing(OutgoingError::Unreachable { .. }) => HttpErrorKind::Connect,
                CarrierError::Outgoing(_) => HttpErrorKind::Request,
                _ => HttpErrorKind::Unknown,
            };
            HttpError::new(kind, error)
        })
    }
}

impl HttpConnector for Carrier {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
