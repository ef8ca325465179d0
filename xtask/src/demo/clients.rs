//! Clients of the demo: a few connections that ask for handwritten digits at a steady rate and count what they get.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Connections, each with a thread.
const CLIENTS: usize = 4;
/// Requests per second of all together.
pub(super) const RATE: u32 = 600;
/// Different requests that take turns.
const VARIANTS: usize = 2000;

/// What came of the requests that one version answered, or failed to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Answers {
    pub(super) good: u64,
    pub(super) failed: u64,
}

/// By version; empty where no version was named.
pub(super) type ByVersion = BTreeMap<String, Answers>;

/// Running clients; they stop when this is dropped.
pub(super) struct Clients {
    counts: Arc<Mutex<ByVersion>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them.
    ///
    /// * `golden`: the folder whose requests they vary
    pub(super) fn start(address: &str, golden: &Path) -> Result<Self> {
        let requests: Arc<[String]> = requests(address, &images(golden)?).into();
        let counts = Arc::<Mutex<ByVersion>>::default();
        let stop = Arc::<AtomicBool>::default();
        let threads = (0..CLIENTS).map(|client| {
            let (requests, counts, stop) = (requests.clone(), counts.clone(), stop.clone());
            let address = address.to_owned();
            std::thread::spawn(move || run(client, &address, &requests, &counts, &stop))
        });
        let threads = threads.collect();
        Ok(Self {
            counts,
            stop,
            threads,
        })
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> ByVersion {
        std::mem::take(&mut *lock(&self.counts))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// The images in a folder of golden requests, 64 pixels each, that both versions of the zoo read alike: with so few of
/// them, one that they read differently would be a shift of its own.
fn images(golden: &Path) -> Result<Vec<Vec<f64>>> {
    let numbers = |name: &str, list: &str, tensor: &str| -> Result<Vec<f64>> {
        let path = golden.join(name);
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let json: Value = serde_json::from_slice(&text)?;
        let mut tensors = json[list].as_array().into_iter().flatten();
        let found = tensors.find(|found| found["name"] == tensor);
        let data = found.and_then(|found| found["data"].as_array());
        let data = data.with_context(|| format!("{} has no `{tensor}`", path.display()))?;
        Ok(data.iter().filter_map(Value::as_f64).collect())
    };
    let mut images = Vec::new();
    for case in ["one-image", "four-images"] {
        let pixels = numbers(&format!("{case}-v1.request.json"), "inputs", "image")?;
        let labels = |version| numbers(&format!("{case}-v{version}.response.json"), "outputs", "label");
        let alike = labels(1)?
            .into_iter()
            .zip(labels(2)?)
            .map(|(first, second)| first == second);
        let chosen = pixels.chunks_exact(64).zip(alike).filter(|(_, alike)| *alike);
        images.extend(chosen.map(|(image, _)| image.to_vec()));
    }
    Ok(images)
}

/// Whole requests: the images with a little noise.
fn requests(address: &str, images: &[Vec<f64>]) -> Vec<String> {
    let mut seed = 1u64;
    let mut noise = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 40) as f64 / f64::from(1 << 24)
    };
    let images = images.iter().cycle().take(VARIANTS);
    let request = |image: &Vec<f64>| {
        let pixels: Vec<f64> = image.iter().map(|pixel| pixel + noise()).collect();
        let body = json!({ "inputs": [
            { "name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": pixels }
        ]});
        let body = body.to_string();
        format!(
            "POST /v2/models/digits/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    images.map(request).collect()
}

/// One client: sends when a request is due, on one connection for as long as that holds.
fn run(client: usize, address: &str, requests: &[String], counts: &Mutex<ByVersion>, stop: &AtomicBool) {
    let between = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap_or(1) / RATE;
    let mut due = Instant::now();
    let mut connection = None;
    for request in requests.iter().cycle().skip(client * VARIANTS / CLIENTS) {
        if stop.load(Relaxed) {
            return;
        }
        due += between;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let answer = exchange(&mut connection, address, request);
        if answer.is_err() {
            connection = None;
        }
        let (version, good) = answer.unwrap_or_default();
        let mut counts = lock(counts);
        let of = counts.entry(version).or_default();
        match good {
            true => of.good += 1,
            false => of.failed += 1,
        }
    }
}

/// The version that a request got, and whether it was answered well.
fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    address: &str,
    request: &str,
) -> Result<(String, bool)> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            connection.insert(BufReader::new(stream))
        }
    };
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let good = line.split(' ').nth(1) == Some("200");
    let (mut version, mut length) = (String::new(), 0u64);
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line)? > 0, "the connection was closed");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "x-model-version" => version = value.to_owned(),
            "content-length" => length = value.parse()?,
            _ => {}
        }
    }
    std::io::copy(&mut stream.take(length), &mut std::io::sink())?;
    Ok((version, good))
}

fn lock(counts: &Mutex<ByVersion>) -> MutexGuard<'_, ByVersion> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
