//! An HTTP/1.1 client that costs little: requests are bytes made beforehand, answers are parsed once.
//!
//! One request at a time per connection; no pipelining, no redirects, no compression.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::Failure;
use crate::target::{Connection, Target};

/// Header lines of an answer that are read; more are a protocol error.
const MAX_HEADERS: usize = 64;
/// The most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// An open connection.
#[derive(Debug)]
pub struct Http1 {
    io: Connection,
    buffer: BytesMut,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Header `x-model-version`, or empty.
    pub version: Bytes,
    /// Header `inference-header-content-length`: bytes of JSON at the start of the body.
    pub json_bytes: Option<usize>,
    /// The body.
    pub body: Bytes,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

/// What the head of an answer says.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    status: u16,
    version: Bytes,
    json_bytes: Option<usize>,
    content_bytes: Option<usize>,
    chunked: bool,
    keep_alive: bool,
}

/// The bytes of a request: method, path and extra header lines, with the body's length and the body.
pub fn request(target: &Target, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Bytes {
    let mut text = format!(
        "{method} {}{path} HTTP/1.1\r\nHost: {}\r\n",
        target.base, target.authority
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = BytesMut::with_capacity(text.len() + body.len());
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(body);
    bytes.freeze()
}

impl Http1 {
    /// Opens a connection.
    ///
    /// Errors: [`Failure::Connect`].
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        let io = target.connect().await.map_err(|_| Failure::Connect)?;
        Ok(Self {
            io,
            buffer: BytesMut::with_capacity(8 << 10),
        })
    }

    /// Whether an idle connection is still open and silent, as far as the kernel has told; costs no system call if so.
    pub async fn is_idle(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut byte);
            Poll::Ready(Pin::new(&mut self.io).poll_read(cx, &mut room).is_pending())
        })
        .await
    }

    /// Writes `request` and reads its answer.
    ///
    /// Errors: [`Failure::Transport`] or [`Failure::Protocol`]; the connection is then of no more use. Not cancel-safe.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Response, Failure> {
        // A server may refuse a body before it has read it, and close: the answer then comes all the same.
        let written = self.io.write_all(request).await;
        let flushed = self.io.flush().await;
        let head = loop {
            let head = self.head()?;
            let interim = head
                .as_ref()
                .is_some_and(|head| (100..200).contains(&head.status));
            match head {
                Some(head) if interim => self.buffer.advance(head.bytes),
                Some(head) => break head,
                None => self.more().await?,
            }
        };
        self.buffer.advance(head.bytes);
        let mut keep_alive = head.keep_alive && written.is_ok() && flushed.is_ok();
        let body = if head.status == 204 || head.status == 304 {
            Bytes::new()
        } else if head.chunked {
            self.chunks().await?
        } else if let Some(length) = head.content_bytes {
            while self.buffer.len() < length {
                self.buffer.reserve(length - self.buffer.len());
                self.more().await?;
            }
            self.buffer.split_to(length).freeze()
        } else {
            keep_alive = false;
            while self.more().await.is_ok() {}
            self.buffer.split().freeze()
        };
        Ok(Response {
            status: head.status,
            version: head.version,
            json_bytes: head.json_bytes,
            body,
            keep_alive,
        })
    }

    /// The head at the start of the buffer, if it is there whole.
    fn head(&self) -> Result<Option<Head>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let bytes = match parsed.parse(&self.buffer) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Failure::Protocol),
        };
        let mut head = Head {
            bytes,
            keep_alive: parsed.version == Some(1),
            ..Head::default()
        };
        head.status = parsed.code.unwrap_or_default();
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok();
        for header in parsed.headers.iter() {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("content-length") {
                head.content_bytes = Some(number(value).ok_or(Failure::Protocol)?);
            } else if name.eq_ignore_ascii_case("x-model-version") {
                head.version = Bytes::copy_from_slice(value);
            } else if name.eq_ignore_ascii_case("inference-header-content-length") {
                head.json_bytes = number(value);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                head.keep_alive = !value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(head))
    }

    /// Reads a chunked body to its end.
    async fn chunks(&mut self) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        loop {
            let (start, length) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.more().await?,
                    Err(_) => return Err(Failure::Protocol),
                }
            };
            let length = usize::try_from(length).map_err(|_| Failure::Protocol)?;
            self.buffer.advance(start);
            if length == 0 {
                self.trailers().await?;
                return Ok(body.freeze());
            }
            while self.buffer.len() < length + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[..length]);
            self.buffer.advance(length + 2);
        }
    }

    /// Reads header lines after the last chunk up to the empty one.
    async fn trailers(&mut self) -> Result<(), Failure> {
        loop {
            match self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                Some(0) => {
                    self.buffer.advance(2);
                    return Ok(());
                }
                Some(end) => self.buffer.advance(end + 2),
                None => self.more().await?,
            }
        }
    }

    /// Reads what has come; its end is a failure.
    async fn more(&mut self) -> Result<(), Failure> {
        if self.buffer.capacity() - self.buffer.len() < 1024 {
            self.buffer.reserve(8 << 10);
        }
        match self.io.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Failure::Transport),
            Ok(_) => Ok(()),
        }
    }
}
