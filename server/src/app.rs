//! The composition root: builds every part, names every thread, fixes the order of shutdown.

mod asking;
mod audit;
mod check;
mod diff;
mod effective;
mod loading;
mod log;
mod logged;
mod replay;
mod test;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crossfade_models::{AtStart, ControlMode as Mode, RegistryOptions};
use crossfade_runtimes::{Runtimes, RuntimesOptions};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{Admin, Approvers};
use crate::audit::AuditLog;
use crate::client;
use crate::config::file::RawConfig;
use crate::config::{Command, ConfigCommand, ControlMode, DEFAULT_DATA_DIR, Flags, ServerConfig, SinkTarget};
use crate::control::Changes;
use crate::control::settings::LogSettings;
use crate::data_dir::{DataDir, DataDirError};
use crate::gpu::GpuSampler;
use crate::metrics::{self, Metrics};
use crate::recorder::{Recorder, objecting_in};
use crate::release::Releases;
use crate::release::audited::Audited;
use crate::servable::ServableLoader;
use crate::service::{Service, Written};
use crate::sink::Sink;
use crate::sink::objects::ObjectSink;
use crate::telemetry::{self, LogControl};
use crate::webhook::Webhook;
use crate::{grpc, http};

pub(crate) use effective::policy_of;

/// For runs that are under way when all requests have ended, or were given up: a run cannot be cut off, and one that never ends
/// must not keep the process.
const JOINING: Duration = Duration::from_secs(20);

/// How long tasks may take to end once everything was told to stop.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs a command to its end.
pub fn main(command: Command) -> ExitCode {
    let result = match command {
        Command::Check(args) => return check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Config(ConfigCommand::Effective(args)) => effective::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Audit(command) => audit::run(&command),
        Command::Log(command) => log::run(&command),
        Command::Replay(args) => replay::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Client(command) => return client::run(command),
        Command::Serve(flags) => serve(*flags),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the log may not be set up when the start fails"
)]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn serve(flags: Flags) -> Result<ExitCode> {
    let file = RawConfig::read_named(flags.config.as_deref())?;
    let config = ServerConfig::resolve(flags, file)?;
    let log = telemetry::init(&config.log)?;
    raise_open_files();
    // While there is no other thread yet: opening a library may set variables of the process.
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: config.runtimes.ort_library.clone(),
        intra_threads: config.runtimes.cores,
        cuda_lib_dirs: config.runtimes.cuda_lib_dirs.clone(),
    });
    tracing::info!(runtimes = runtimes.describe(), "runtimes");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.runtimes.cores.max(2))
        .thread_name("crossfade-io")
        .enable_all()
        .build()
        .context("cannot start the I/O threads")?;
    let code = runtime.block_on(run(config, runtimes, log))?;
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    Ok(code)
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal stops at once.
async fn run(config: ServerConfig, runtimes: Runtimes, log: LogControl) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let (grace, exit_timeout) = (config.drain_grace, config.exit_timeout);
    let exit_on_error = config.repository.exit_on_error;
    let app = App::start(config, Arc::new(runtimes), log).await?;
    if exit_on_error {
        let service = app.service.clone();
        let initial = tokio::select! {
            failed = initial_load(&service) => failed,
            () = signals.next() => Vec::new(),
        };
        if !initial.is_empty() {
            tracing::error!(
                models = initial.join(", "),
                "models failed to load at start; ending (--exit-on-error)"
            );
            app.stop(Duration::ZERO, std::future::pending()).await;
            return Ok(ExitCode::FAILURE);
        }
    }
    signals.next().await;
    tracing::info!("draining; send the signal again to stop at once");
    app.service.drain();
    tokio::select! {
        () = tokio::time::sleep(grace) => {}
        () = signals.next() => {}
    }
    let complete = app.stop(exit_timeout, signals.next()).await;
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until every model due at start was tried; returns the names of those that failed.
async fn initial_load(service: &Service) -> Vec<String> {
    loop {
        if let Some(failed) = service.registry().initial_failures() {
            return failed;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running server.
pub struct App {
    /// Its heart.
    pub service: Arc<Service>,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where metrics are scraped.
    pub metrics: SocketAddr,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// Tells the inference listeners to stop accepting and to finish.
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    scrapes: JoinSet<()>,
    /// Those who are told of releases and inferences.
    webhooks: JoinSet<()>,
    /// Looks at the machine's GPUs, where there are some.
    _gpus: Option<GpuSampler>,
    /// Given up last.
    _data: Option<DataDir>,
}

impl App {
    /// Binds, starts loading, and serves; returns once every listener is bound.
    pub async fn start(config: ServerConfig, runtimes: Arc<Runtimes>, log: LogControl) -> Result<Self> {
        let http = bind("HTTP", "--http-port", config.http)?;
        let grpc = bind("gRPC", "--grpc-port", config.grpc)?;
        let scrape = bind("metrics", "--metrics-port", config.metrics)?;
        let admin = bind("the admin interface", "--admin-port", config.admin.listen)?;
        let data = match DataDir::open(&config.data_dir) {
            Ok(data) => Some(data),
            // Whoever wants every request recorded does not want them answered without.
            Err(error @ DataDirError::Io { .. }) if config.recorder.is_some() => {
                return Err(anyhow::Error::new(error).context(
                    "the inference log has no folder: mend that, or set log.enabled = false in the configuration",
                ));
            }
            // Nobody asked for the default folder: what needs none is served without.
            Err(error @ DataDirError::Io { .. }) if config.data_dir == Path::new(DEFAULT_DATA_DIR) => {
                tracing::warn!(%error, "no data folder: inference is served, calls that change the server and releases are refused");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let counters = Arc::new(Metrics::default());
        let audit = AuditLog::open(
            data.as_ref().map(DataDir::audit),
            &config.audit,
            config.revision(),
            counters.clone(),
        )?;
        let gpus = GpuSampler::start(&counters);
        let cores = config.runtimes.cores;
        let loader = ServableLoader::new(
            runtimes,
            counters.clone(),
            &config.limits,
            cores,
            &config.data_dir,
        );
        let admin_at = admin.local_addr()?;
        let changes = Changes {
            log: Arc::new(LogSettings::new(log, &config.log.filter)),
            audit: audit.clone(),
            only_at: config.admin.v2_control.then_some(admin_at),
        };
        let recorder =
            match &config.recorder {
                None => {
                    nobody_objects(&config.data_dir)?;
                    None
                }
                Some(options) => {
                    let opened = Recorder::open(&config.data_dir, options);
                    Some(opened.context(
                        "the inference log cannot be written; mend that, or set log.enabled = false",
                    )?)
                }
            };
        let options = registry_options(&config)?;
        let approvers = Approvers::new(config.admin.approvers.clone(), &config.admin.tokens);
        let releases = Releases::new(&config.data_dir, audit, approvers, config.revision());
        let state = config.data_dir.join("state");
        let mut webhooks = JoinSet::new();
        for webhook in &config.webhooks {
            let webhook = Webhook::open(webhook, &state, &releases, &counters)?;
            webhooks.spawn(webhook.run());
        }
        if let Some(recorder) = &recorder {
            for sink in &config.sinks {
                match &sink.to {
                    SinkTarget::Events { .. } => {
                        webhooks.spawn(Sink::open(sink, recorder, &counters)?.run());
                    }
                    SinkTarget::Objects(bucket) => {
                        webhooks.spawn(ObjectSink::open(sink, bucket, recorder, &counters)?.run());
                    }
                }
            }
        }
        let service = Service::new(
            config.limits,
            Written {
                access_log: config.log.access,
                recorder: recorder.clone(),
            },
            counters,
            options,
            releases.clone(),
            loader
                .knowing(releases.digests())
                .recorded_by(recorder)
                .examined_by(releases.clone()),
            changes,
        );
        service.bind_text(config.text);
        if let Some(every) = config.release_looks {
            releases.start(every);
        }

        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        let mut scrapes = JoinSet::new();
        let (http_at, grpc_at, metrics_at) = (http.local_addr()?, grpc.local_addr()?, scrape.local_addr()?);
        listeners.spawn(http::serve(service.clone(), http, told(stopped.clone())));
        listeners.spawn(grpc::serve(service.clone(), grpc, told(stopped.clone())));
        let control = Audited::new(releases, service.audit().clone());
        let interface = Admin::new(config.admin.tokens, Some(Arc::new(control)));
        let interface = Arc::new(match &data {
            Some(_) => interface.keeping_answers(&config.data_dir.join("state").join("answers")),
            None => interface,
        });
        listeners.spawn(http::serve_admin(
            service.clone(),
            interface,
            admin,
            told(stopped),
        ));
        scrapes.spawn(metrics::serve(service.clone(), scrape, std::future::pending()));
        tracing::info!("listening http={http_at} grpc={grpc_at} metrics={metrics_at} admin={admin_at}");
        service.registry().start();
        Ok(Self {
            service,
            http: http_at,
            grpc: grpc_at,
            metrics: metrics_at,
            admin: admin_at,
            stop,
            listeners,
            scrapes,
            webhooks,
            _gpus: gpus,
            _data: data,
        })
    }

    /// Stops accepting, lets in-flight requests finish within `timeout` or until `now` resolves, then unloads
    /// everything. Returns whether all of them finished.
    pub async fn stop(mut self, timeout: Duration, now: impl Future<Output = ()>) -> bool {
        self.service.drain();
        self.stop.send_replace(true);
        let finished = async { while self.listeners.join_next().await.is_some() {} };
        let complete = tokio::select! {
            () = finished => true,
            () = tokio::time::sleep(timeout) => false,
            () = now => false,
        };
        if !complete {
            let in_flight = self.service.permits().requests();
            tracing::warn!(in_flight, "stopping with requests in flight");
        }
        self.listeners.shutdown().await;
        self.scrapes.shutdown().await;
        // What is not told yet is told after the next start.
        self.webhooks.shutdown().await;
        let registry = self.service.registry().clone();
        let releases = self.service.releases().clone();
        let recorder = self.service.recorder().cloned();
        let down = move || {
            releases.interrupt();
            // What was counted is kept before anything is waited for.
            releases.close();
            // Joins load threads and instances; they may be in the middle of a run.
            releases.end_copies();
            registry.shutdown();
        };
        let joined = tokio::task::spawn_blocking(down);
        match tokio::time::timeout(JOINING, joined).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the registry did not shut down"),
            Err(_) => tracing::error!(
                waited = ?JOINING,
                "a model's run does not end; the process ends without it"
            ),
        }
        // No request and no copy comes any more; what is sealed now need not be at the next start.
        let sealed = tokio::task::spawn_blocking(move || recorder.map(|recorder| recorder.close()));
        if let Err(error) = sealed.await {
            tracing::error!(%error, "the inference log did not end");
        }
        tracing::info!("stopped");
        complete
    }
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is also the end.
    let _gone = stopped.wait_for(|stopped| *stopped).await.is_err();
}

/// Connections that wait to be accepted; the kernel bounds it too (somaxconn). A burst of clients opens more at once than
/// the library's 1,024, and those that do not fit try again only after a second.
const BACKLOG: u32 = 4096;

fn bind(what: &str, flag: &str, address: SocketAddr) -> Result<TcpListener> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().with_context(|| {
        format!("cannot listen on {address} for {what}; choose another port with {flag} (0 takes a free one)")
    })
}

fn registry_options(config: &ServerConfig) -> Result<RegistryOptions> {
    let repository = &config.repository;
    let mut overrides = std::collections::BTreeMap::new();
    for (name, table) in &config.models {
        let parsed = crossfade_models::config::toml::from_table(table.clone())
            .with_context(|| format!("configuration file: [model.{name}]"))?;
        overrides.insert(name.clone(), parsed);
    }
    Ok(RegistryOptions {
        repositories: repository.paths.iter().map(|path| (None, path.clone())).collect(),
        mode: match repository.mode {
            ControlMode::None => Mode::None,
            ControlMode::Poll => Mode::Poll(repository.poll),
            ControlMode::Explicit if repository.load_models.iter().any(|name| name == "*") => {
                Mode::Explicit(AtStart::All)
            }
            ControlMode::Explicit => Mode::Explicit(AtStart::Models(repository.load_models.clone())),
        },
        model_config_name: repository.config_name.clone(),
        load_threads: repository.load_threads,
        strict_readiness: repository.strict_readiness,
        default_max_batch_size: repository.default_max_batch_size,
        overrides,
        auto_complete: repository.auto_complete,
        conductor: None,
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Errors: persons object to decisions by a model, and without the inference log nobody would tell requests about them from others.
fn nobody_objects(data_dir: &Path) -> Result<()> {
    let objecting = objecting_in(data_dir)?;
    if objecting == 0 {
        return Ok(());
    }
    bail!(
        "{objecting} persons object to decisions by a model (`crossfade subject object`), and with log.enabled = false requests about them \
         would be answered: leave the inference log on, or have them lifted first"
    )
}

/// Each connection is an open file: takes as many as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[expect(clippy::print_stdout, reason = "the findings are the command's output")]
fn say(line: &str) {
    println!("{line}");
}
