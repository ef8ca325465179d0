use super::file::{RawConfig, RawDuration};
use super::*;
use clap::Parser;

fn flags(args: &[&str]) -> Flags {
    let args = ["crossfade", "serve"].iter().chain(args);
    match Cli::try_parse_from(args).unwrap().command {
        Command::Serve(flags) => *flags,
        Command::Check(_)
        | Command::Test(_)
        | Command::Audit(_)
        | Command::Log(_)
        | Command::Replay(_)
        | Command::Diff(_)
        | Command::Config(_)
        | Command::Client(_) => {
            unreachable!("the test asked for serve")
        }
    }
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = RawConfig::parse(text).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_default_listens_on_loopback_only() {
    let config = ServerConfig::resolve(Flags::default(), RawConfig::default()).unwrap();
    for (address, port) in [
        (config.http, 8000),
        (config.grpc, 8001),
        (config.metrics, 8002),
        (config.admin.listen, 8003),
    ] {
        assert!(address.ip().is_loopback());
        assert_eq!(address.port(), port);
    }
}

#[test]
fn flags_override_the_file_key_by_key() {
    let file = RawConfig::parse(
        "http.listen = \"0.0.0.0:9000\"\nexit_timeout = \"5s\"\n[repository]\npaths = [\"a\"]\nmode = \"poll\"\npoll = \"2s\"\n",
    )
    .unwrap();
    let config =
        ServerConfig::resolve(flags(&["--http-port", "0", "--exit-timeout-secs", "7"]), file).unwrap();
    assert_eq!(config.http, "0.0.0.0:0".parse().unwrap());
    assert_eq!(config.exit_timeout, Duration::from_secs(7));
    assert_eq!(
        (config.repository.mode, config.repository.poll),
        (ControlMode::Poll, Duration::from_secs(2))
    );
    assert_eq!(config.repository.paths, [PathBuf::from("a")]);
}

#[test]
fn tritons_flags_are_understood() {
    let flags = flags(&[
        "--model-repository",
        "a",
        "--model-store=b",
        "--model-control-mode=explicit",
        "--load-model=x",
        "--load-model",
        "*",
        "--exit-on-error=false",
        "--strict-readiness",
        "--repository-poll-secs=3",
    ]);
    let config = ServerConfig::resolve(flags, RawConfig::default()).unwrap();
    assert_eq!(config.repository.paths, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!(config.repository.load_models, ["x", "*"]);
    assert!(config.repository.strict_readiness && !config.repository.exit_on_error);
}

#[test]
fn a_wrong_key_is_refused_with_the_nearest_name() {
    refused("[http]\nlisten_on = \"127.0.0.1:1\"", "unknown field `listen_on`");
    refused("[http]\nlisten_on = \"127.0.0.1:1\"", "did you mean `listen`?");
    refused("exit_timeuot = \"1s\"", "did you mean `exit_timeout`?");
    refused("exit_timeout = \"1\"", "such as \"5ms\"");
    refused("[log]\nenable = true", "did you mean `enabled`?");
}

#[test]
fn the_admin_listener_leaves_loopback_only_with_tokens() {
    let resolve = |text: &str| ServerConfig::resolve(flags(&[]), RawConfig::parse(text).unwrap());
    let refused = |text: &str, part: &str| {
        let error = resolve(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let digest = "a".repeat(64);
    let token = |name: &str| format!("{{ name = \"{name}\", sha256 = \"{digest}\", roles = [\"deploy\"] }}");
    refused("admin.listen = \"0.0.0.0:8003\"", "admin.listen");
    refused("admin.listen = \"[::]:8003\"", "admin.tokens");
    resolve("admin.listen = \"[::1]:8003\"").unwrap();
    let open = format!("admin = {{ listen = \"0.0.0.0:1\", tokens = [{}] }}", token("ci"));
    let admin = resolve(&open).unwrap().admin;
    assert_eq!((admin.tokens.len(), admin.tokens[0].name.as_str()), (1, "ci"));
    refused(
        &format!("admin.tokens = [{}, {}]", token("a"), token("a")),
        "two are named",
    );
    refused(
        &format!("admin.tokens = [{}]", token("local")),
        "cannot be a name",
    );
    refused(
        "admin.tokens = [{ name = \"a\", sha256 = \"secret\" }]",
        "sha256sum",
    );
    let error = ServerConfig::resolve(flags(&["--admin-address", "0.0.0.0"]), RawConfig::default());
    assert!(error.unwrap_err().to_string().contains("admin.listen"));
}

#[test]
fn approvers_have_a_name_and_a_key_of_their_own() {
    let resolve = |approvers: &[String]| {
        let file = format!("admin.approvers = [{}]", approvers.join(", "));
        ServerConfig::resolve(flags(&[]), RawConfig::parse(&file).unwrap())
    };
    let one =
        |name: &str, key: &str| format!("{{ name = \"{name}\", key = \"{key}\", groups = [\"risk\"] }}");
    let (key, other) = ("3d".repeat(32), "0".repeat(64));
    let admin = resolve(&[one("eve", &key)]).unwrap().admin;
    assert!(admin.approvers[0].groups.contains("risk"));
    let refused = |approvers: &[String], part: &str| {
        let error = resolve(approvers).unwrap_err().to_string();
        assert!(
            error.contains("admin.approvers") && error.contains(part),
            "{error}"
        );
    };
    refused(&[one("eve", &key), one("eve", &other)], "same name or key");
    refused(&[one("eve", &key), one("bob", &key)], "same name or key");
    refused(&[one("local", &key)], "cannot be a name");
    refused(&[one("eve", "ed25519")], "Ed25519");
}

#[test]
fn tokens_of_other_kinds_are_refused_by_name() {
    refused("[admin.jwt]\nissuer = \"x\"", "`admin.jwt` is not supported yet");
    let role = "admin.tokens = [{ name = \"a\", sha256 = \"b\", roles = [\"root\"] }]";
    refused(role, "unknown variant `root`");
}

#[test]
fn the_data_folder_is_a_flag_over_a_key() {
    let file = || RawConfig::parse("data_dir = \"a\"\n").unwrap();
    let folder = |args: &[&str], file| ServerConfig::resolve(flags(args), file).unwrap().data_dir;
    assert_eq!(
        folder(&[], RawConfig::default()),
        PathBuf::from("./crossfade-data")
    );
    assert_eq!(folder(&[], file()), PathBuf::from("a"));
    assert_eq!(folder(&["--data-dir", "b"], file()), PathBuf::from("b"));
    let never = RawConfig::parse("[audit]\nsign_every = 0\n").unwrap();
    let error = ServerConfig::resolve(Flags::default(), never).unwrap_err();
    assert!(error.to_string().contains("audit.sign_every"), "{error}");
}

#[test]
fn a_head_is_a_number_and_a_hash() {
    let hash = "0".repeat(64);
    let verify = |head: &str| Cli::try_parse_from(["crossfade", "audit", "verify", "--head", head]);
    assert!(verify(&format!("7:{hash}")).is_ok());
    for wrong in ["7", &hash, ":", &format!("x:{hash}"), "7:00"] {
        assert!(verify(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn load_model_needs_explicit_mode() {
    let error = ServerConfig::resolve(flags(&["--load-model", "x"]), RawConfig::default()).unwrap_err();
    assert!(
        error.to_string().contains("--model-control-mode explicit"),
        "{error}"
    );
}

#[test]
fn durations_have_units() {
    for (text, micros) in [
        ("7us", 7),
        ("5ms", 5000),
        ("2m", 120_000_000),
        ("0s", 0),
        ("1.5s", 1_500_000),
    ] {
        assert_eq!(text.parse(), Ok(RawDuration(Duration::from_micros(micros))));
    }
    for text in [
        "",
        "5",
        "ms",
        "-5ms",
        "99999999999999999999s",
        "9999999999999999d",
    ] {
        assert!(text.parse::<RawDuration>().is_err(), "{text}");
    }
}
