//! What cannot be is refused before anything starts: all mistakes in one answer, each with its path, what was found and what is allowed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tower_mesh::config::{ConfigError, ServiceConfig};
use tower_mesh::core::error::Mistake;
use tower_mesh::{Config, Mesh, MeshBuilder};

use crate::inner::{Counting, Says, Source, Streams};

type Told = (String, String, String);
/// Path, found, allowed.
type Expected = (&'static str, &'static str, &'static str);

fn told(mistakes: &[Mistake]) -> Vec<Told> {
    let own = |text: &str| text.to_owned();
    mistakes.iter().map(|m| (own(m.field()), own(m.found()), own(m.allowed()))).collect()
}

fn expect(expected: &[Expected]) -> Vec<Told> {
    expected
        .iter()
        .map(|(path, found, allowed)| (path.to_string(), found.to_string(), allowed.to_string()))
        .collect()
}

/// A builder that has a resolver, counted.
fn builder(streams: &Arc<Streams>) -> MeshBuilder {
    let source = Source::new(streams, Says::Endpoint("a:1"));
    Mesh::builder().resolver("dns", source.clone()).resolver("list", source)
}

/// Builds from TOML and, said in JSON and in YAML, from those: all must tell the same.
fn mistakes(toml: &str) -> Vec<Told> {
    let streams = Arc::new(Streams::default());
    let tree: serde_json::Value = toml::from_str(toml).unwrap();
    let of_toml = builder(&streams).config_toml(toml).build().unwrap_err();
    let of_json = builder(&streams).config_json(tree.to_string()).build().unwrap_err();
    // In the order of the file, or of the alphabet: that depends on the parser.
    let sorted = |mut told: Vec<Told>| {
        told.sort();
        told
    };
    let found = told(of_toml.mistakes());
    assert_eq!(sorted(found.clone()), sorted(told(of_json.mistakes())));
    #[cfg(feature = "yaml")]
    {
        let yaml = yaml_serde::to_string(&tree).unwrap();
        let of_yaml = builder(&streams).config_yaml(yaml).build().unwrap_err();
        assert_eq!(sorted(found.clone()), sorted(told(of_yaml.mistakes())));
    }
    assert_eq!(streams.counts(), (0, 0), "nothing was resolved");
    let text = of_toml.to_string();
    for (path, found, allowed) in &found {
        assert!(text.contains(&format!("{path}: found {found}, allowed is {allowed}")), "{text}");
    }
    found
}

const SERVICE_FIELDS: &str = "admission, allow, breaker, budget, credentials, deadline, discovery, dns, endpoints, etcd, file, health, hedge, limit, operations, outlier, ready_when, required, resolver, retry";
const A_DURATION: &str = "a duration with a unit, such as \"500ms\", \"2s\" or \"1m\"";
const AN_ADDRESS: &str = "1 to 1024 bytes without blanks or control characters";
const A_PATTERN: &str = "1 to 128 bytes, with * at most at the end";
const A_PROBE: &str = "path, http, tcp, grpc, or a probe given to the builder";
const A_STATUS: &str = "a status from 100 to 999, or a range of them such as \"200-299\"";
const A_HOST: &str = "a host name or an IP address, without a port";
const A_NAME: &str = "1 to 253 ASCII letters, digits and - _ . : / between a letter or digit at each end";

/// Each with the mistakes it makes.
fn wrong_services() -> Vec<(&'static str, Vec<Told>)> {
    let cases: &[(&str, &[Expected])] = &[
        ("a.endpoint = [\"h:1\"]\nresolver = \"dns\"", &[("endpoint", "an unknown field", SERVICE_FIELDS)]),
        (
            "resolver = \"dns\"\nretry.max_atempts = 2",
            &[(
                "retry.max_atempts",
                "an unknown field",
                "attempt_timeout, base_delay, growth, jitter, max_attempts, max_delay, max_local_failures, max_overloads, max_refusals, max_remote_failures, max_wait, multiplier, ready_timeout",
            )],
        ),
        (
            "resolver = \"dns\"\nretry.base_delay = \"20s\"",
            &[("retry.base_delay", "20s", "up to max_delay, which is 15s")],
        ),
        ("resolver = \"dns\"\nretry.max_attempts = 21", &[("retry.max_attempts", "21", "1 to 20")]),
        (
            "resolver = \"dns\"\nretry.max_attempts = -1",
            &[("retry.max_attempts", "-1", "a whole number from 0 to 4294967295")],
        ),
        (
            "resolver = \"dns\"\nbreaker.failure_threshold = 1.5",
            &[("breaker.failure_threshold", "1.5", "over 0, up to 1")],
        ),
        (
            "resolver = \"dns\"\nlimit = { initial = 0, min = 9, max = 8, normal_share = 0, algorithm = \"best\" }",
            &[
                ("limit.algorithm", "\"best\"", "\"fixed\", \"aimd\", \"gradient\""),
                ("limit.initial", "0", "1 to 1000000"),
                ("limit.min", "9", "1 to max"),
                ("limit.normal_share", "0", "over 0, up to 1"),
            ],
        ),
        (
            "resolver = \"dns\"\nadmission = { threshold = 0, max_rejection = 1, window = \"1ms\" }",
            &[
                ("admission.threshold", "0.0", "0.01 to 1"),
                ("admission.max_rejection", "1.0", "0 to 0.99"),
                ("admission.window", "1ms", "100ms to 1h"),
            ],
        ),
        ("resolver = \"dns\"\nbreaker.window_calls = 0", &[("breaker.window_calls", "0", "1 to 1000000")]),
        ("resolver = \"dns\"\nhealth.path = \"/\"\nhealth.rise = 0", &[("health.rise", "0", "at least 1")]),
        ("resolver = \"dns\"\ndeadline.timeout = 5", &[("deadline.timeout", "5", A_DURATION)]),
        ("resolver = \"dns\"\ndeadline.timeout = \"5\"", &[("deadline.timeout", "\"5\"", A_DURATION)]),
        (
            "resolver = \"dns\"\nretry.jitter = \"some\"",
            &[(
                "retry.jitter",
                "\"some\"",
                "\"none\", \"full\", \"equal\", \"decorrelated\", \"proportional\", \"additive\", \"symmetric\"",
            )],
        ),
        (
            "resolver = \"dns\"\nready_when = \"up\"",
            &[("ready_when", "\"up\"", "\"resolved\", \"available\"")],
        ),
        (
            "resolver = \"dns\"\nrequired = false\nready_when = \"available\"",
            &[("ready_when", "a requirement beside required = false", "one of the two")],
        ),
        (
            "resolver = \"dns\"\nhealth = { path = \"/\", traffic_threshold = 0, traffic_min_calls = 0 }",
            &[
                ("health.traffic_min_calls", "0", "at least 1"),
                ("health.traffic_threshold", "0", "over 0, up to 1"),
            ],
        ),
        ("resolver = \"dns\"\nrequired = \"yes\"", &[("required", "\"yes\"", "true or false")]),
        ("resolver = \"dns\"\nretry = 3", &[("retry", "3", "a table")]),
        ("resolver = \"consul\"", &[("resolver", "\"consul\"", "\"dns\", \"list\"")]),
        ("resolver = 5", &[("resolver", "5", "a text")]),
        ("endpoints = []", &[("endpoints", "an empty list", "at least one endpoint, or another source")]),
        ("endpoints = \"h:1\"", &[("endpoints", "\"h:1\"", "a list of texts")]),
        ("endpoints = [\"h:1\", \"i:1\", \"h:1\"]", &[("endpoints[2]", "h:1 again", "each endpoint once")]),
        ("endpoints = [\"two words\"]", &[("endpoints[0]", "\"two words\"", AN_ADDRESS)]),
        (
            "endpoints = [\"\", 5, \"h:1\", \"h:1\"]",
            &[
                ("endpoints[1]", "5", "a text"),
                ("endpoints[0]", "\"\"", AN_ADDRESS),
                ("endpoints[3]", "h:1 again", "each endpoint once"),
            ],
        ),
        (
            "endpoints = [\"h:1\"]\nresolver = \"dns\"",
            &[("resolver", "resolver beside endpoints", "one of them")],
        ),
        (
            "required = false",
            &[("resolver", "nothing", "a resolver, dns, etcd, a file, or a list of endpoints")],
        ),
        ("resolver = \"dns\"\nhealth.interval = \"1s\"", &[("health", "no probe", A_PROBE)]),
        (
            "resolver = \"dns\"\noperations.a = { timeout = \"0s\", max_attempts = 21, idempotent = 1, priority = \"high\" }\noperations.\"b*\" = {}",
            &[
                ("operations.a.timeout", "0ns", "1ms to 1day"),
                ("operations.a.max_attempts", "21", "1 to 20"),
                ("operations.a.idempotent", "1", "true or false"),
                ("operations.a.priority", "\"high\"", "\"sheddable\", \"normal\", \"critical\""),
                ("operations.\"b*\"", "an invalid name", "1 to 128 bytes without *"),
            ],
        ),
        (
            "resolver = \"dns\"\nallow.a = {}\nallow.\"b*c\".operations = [\"\", \"x\"]\nallow.d = 3",
            &[
                ("allow.d", "3", "a table"),
                ("allow.a.operations", "nothing", "at least one operation, \"*\" for any"),
                ("allow.\"b*c\".operations[0]", "\"\"", A_PATTERN),
                ("allow.\"b*c\"", "an invalid name", A_PATTERN),
            ],
        ),
        ("resolver = \"dns\"\nhealth.path = 5", &[("health.path", "5", "a text")]),
        (
            "resolver = \"dns\"\nhealth.path = \"/\"\nhealth.initial = \"up\"\nhealth.unknown_interval = \"0s\"",
            &[
                ("health.initial", "\"up\"", "\"unknown\", \"healthy\", \"unhealthy\""),
                ("health.unknown_interval", "0ns", "1ms to 86400s"),
            ],
        ),
        (
            "resolver = \"dns\"\nhealth.http.path = \"/\"\nhealth.tcp.port = 1",
            &[("health.http", "http beside tcp", "one of path, http, tcp and grpc")],
        ),
        (
            "resolver = \"dns\"\nhealth.http = { pth = \"/\", method = \"PUT\", max_body = 0, body_contains = \"\" }",
            &[
                ("health.http.method", "\"PUT\"", "\"GET\", \"HEAD\", \"OPTIONS\", \"POST\""),
                ("health.http.body_contains", "\"\"", "at least one letter"),
                ("health.http.max_body", "0", "1 to 16777216"),
                (
                    "health.http.pth",
                    "an unknown field",
                    "body_contains, expected, headers, host, http2, max_body, method, path, port",
                ),
            ],
        ),
        (
            "resolver = \"dns\"\nhealth.http.expected = [200, 99, \"299-200\", \"2xx\", true]",
            &[
                ("health.http.expected[1]", "99", A_STATUS),
                ("health.http.expected[2]", "\"299-200\"", A_STATUS),
                ("health.http.expected[3]", "\"2xx\"", A_STATUS),
                ("health.http.expected[4]", "true", A_STATUS),
            ],
        ),
        (
            "resolver = \"dns\"\nhealth.http.expected = []\nhealth.http.port = 0\nhealth.http.host = \"a:1\"",
            &[
                ("health.http.expected", "an empty list", "at least one status"),
                ("health.http.port", "0", "1 to 65535"),
                ("health.http.host", "\"a:1\"", A_HOST),
            ],
        ),
        (
            "resolver = \"dns\"\nhealth.http.headers = { x = 1, \"a b\" = \"c\" }",
            &[
                ("health.http.headers.x", "1", "a text"),
                ("health.http.headers.\"a b\"", "an invalid name", "a header's name"),
            ],
        ),
        (
            "resolver = \"dns\"\nhealth.http.headers.host = \"a\\nb\"",
            &[("health.http.headers.host", "\"a\\nb\"", "visible ASCII letters and blanks, up to 4096")],
        ),
        (
            "resolver = \"dns\"\nhealth.http = { method = \"HEAD\", body_contains = \"ok\" }",
            &[(
                "health.http.method",
                "\"HEAD\" beside body_contains",
                "a method whose answer has a body: GET, OPTIONS, POST",
            )],
        ),
        (
            "resolver = \"dns\"\nhealth.tcp = { port = 70000, service = \"a\" }",
            &[
                ("health.tcp.port", "70000", "1 to 65535"),
                ("health.tcp.service", "an unknown field", "host, port"),
            ],
        ),
        ("resolver = \"dns\"\nhealth.tcp = true", &[("health.tcp", "true", "a table")]),
        // The resolver is looked for although the service has other mistakes.
        (
            "resolver = \"consul\"\nretry.max_attempts = 0\nhealth.interval = \"1s\"",
            &[
                ("retry.max_attempts", "0", "1 to 20"),
                ("resolver", "\"consul\"", "\"dns\", \"list\""),
                ("health", "no probe", A_PROBE),
            ],
        ),
    ];
    cases.iter().map(|(text, expected)| (text.trim_start_matches("a."), expect(expected))).collect()
}

/// gRPC and HTTP/2 are a matter of the build.
#[test]
fn each_mistake_in_a_grpc_probe_is_told_too() {
    let found = mistakes(
        "[services.users]\nresolver = \"dns\"\nhealth.grpc = { service = 5, watch = \"yes\", path = \"/\" }\n\
         [services.well]\nresolver = \"dns\"\nhealth.http.http2 = true",
    );
    let mut expected = expect(&[
        ("services.users.health.grpc.service", "5", "a text"),
        ("services.users.health.grpc.watch", "\"yes\"", "true or false"),
        ("services.users.health.grpc.path", "an unknown field", "host, port, service, watch"),
    ]);
    if cfg!(not(feature = "http2")) {
        let allowed = "nothing: this build has no such probe (feature http2)";
        expected.extend(expect(&[
            ("services.users.health.grpc", "a probe over HTTP/2", allowed),
            ("services.well.health.http", "a probe over HTTP/2", allowed),
        ]));
    }
    assert_eq!(found, expected);
}

fn under(path: &str, told: &[Told]) -> Vec<Told> {
    told.iter()
        .map(|(field, found, allowed)| (format!("{path}.{field}"), found.clone(), allowed.clone()))
        .collect()
}

#[test]
fn each_mistake_in_a_service_is_told_with_path_found_and_allowed() {
    for (text, expected) in wrong_services() {
        assert_eq!(
            mistakes(&format!("[services.users]\n{text}")),
            under("services.users", &expected),
            "{text}"
        );
    }
}

#[test]
fn each_mistake_outside_the_services_too() {
    for (text, expected) in [
        ("colour = 1", ("colour", "an unknown field", "defaults, identity, services, start_timeout")),
        ("start_timeout = 10", ("start_timeout", "10", A_DURATION)),
        ("identity = \"a*\"", ("identity", "\"a*\"", "1 to 128 bytes without *")),
        ("identity = 3", ("identity", "3", "a text")),
        ("start_timeout = \"0s\"", ("start_timeout", "0ns", "1ms to 1h")),
        ("start_timeout = \"1000000y\"", ("start_timeout", "31557600000000s", "1ms to 1h")),
        ("services = 5", ("services", "5", "a table")),
        ("services.users = 5", ("services.users", "5", "a table")),
        ("services.\"no name\".resolver = \"dns\"", ("services.\"no name\"", "an invalid name", A_NAME)),
        ("defaults.budget.ratio = -1", ("defaults.budget.ratio", "-1", "0 to 1000")),
        (
            "defaults.breker.window = \"1s\"",
            (
                "defaults.breker",
                "an unknown field",
                "admission, allow, breaker, budget, credentials, deadline, discovery, dns, etcd, health, hedge, limit, outlier, retry",
            ),
        ),
    ] {
        assert_eq!(mistakes(text), expect(&[expected]), "{text}");
    }
}

#[test]
fn what_stands_there_twice_is_refused_and_what_is_no_number_is_shown() {
    let twice = r#"{"services": {"users": {"resolver": "dns"}, "users": {"resolver": "list"}}}"#;
    let error = Config::from_json(twice).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ConfigError::Malformed { .. }), "{text}");
    assert!(text.contains("\"users\" stands there twice") && text.contains("line 1"), "{text}");
    let twice = "[services.users]\nresolver = \"dns\"\nresolver = \"list\"";
    assert!(matches!(Config::from_toml(twice), Err(ConfigError::Malformed { .. })));

    let error = Config::from_toml("[defaults.budget]\nratio = nan").unwrap_err();
    assert_eq!(told(error.mistakes()), expect(&[("defaults.budget.ratio", "\"NaN\"", "a number")]));
}

#[test]
fn all_mistakes_come_in_one_answer() {
    let (mut text, mut expected) = ("colour = 1\nstart_timeout = 10\n".to_owned(), Vec::new());
    for (i, (service, told)) in wrong_services().into_iter().enumerate() {
        text += &format!("[services.s{i}]\n{service}\n");
        expected.extend(under(&format!("services.s{i}"), &told));
    }
    text += "[services.\"a.b\"]\nresolver = \"consul\"\n";
    expected.extend(expect(&[
        ("services.\"a.b\".resolver", "\"consul\"", "\"dns\", \"list\""),
        ("start_timeout", "10", A_DURATION),
        ("colour", "an unknown field", "defaults, identity, services, start_timeout"),
    ]));
    let mut found = mistakes(&text);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn probes_that_do_not_fit_are_told_beside_what_is_wrong_in_the_file() {
    let build = Mesh::builder()
        .config_toml(
            "colour = 1\n[services.both]\nendpoints = [\"a:1\"]\nhealth.path = \"/healthz\"\n\
             [services.none]\nresolver = \"dns\"\n[services.fits]\nendpoints = [\"a:1\"]\nhealth.rise = 0",
        )
        .probe("both", Counting::default())
        .probe("none", Counting::default())
        .probe("fits", Counting::default())
        .build();
    let allowed = "a probe for a service that has a health table without a probe";
    let expected = expect(&[
        ("services.fits.health.rise", "0", "at least 1"),
        ("colour", "an unknown field", "defaults, identity, services, start_timeout"),
        ("services.both.health.path", "path beside a probe given to the builder", "one of the two"),
        ("services.none.resolver", "\"dns\"", "one that is given to the builder; none is"),
        ("probe(\"none\")", "a probe that is not used", allowed),
    ]);
    assert_eq!(told(build.unwrap_err().mistakes()), expected);
}

#[test]
fn a_configuration_in_code_is_checked_like_a_file() {
    let endpoints = |addresses: &[&str]| {
        ServiceConfig::with_endpoints(addresses.iter().map(|address| address.parse().unwrap()))
    };
    let config = Config::new()
        .start_timeout(Duration::ZERO)
        .service("empty".parse().unwrap(), endpoints(&[]).rest_after(Duration::ZERO))
        .service("twice".parse().unwrap(), endpoints(&["h:1", "i:1", "h:1"]))
        .service("users".parse().unwrap(), ServiceConfig::resolved_by("consul"));
    let expected = expect(&[
        ("start_timeout", "0ns", "1ms to 1h"),
        ("services.empty.discovery.rest_after", "0ns", "1s to 1day"),
        ("services.empty.endpoints", "an empty list", "at least one endpoint, or another source"),
        ("services.twice.endpoints[2]", "h:1 again", "each endpoint once"),
        ("services.users.resolver", "\"consul\"", "\"dns\", \"list\""),
    ]);
    let build = builder(&Arc::default()).config(config).build();
    assert_eq!(told(build.unwrap_err().mistakes()), expected);
}

/// A file of its own in the build's directory for such things.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn files_are_read_by_their_ending_and_say_which_they_are_when_they_cannot_be() {
    let missing = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-such-mesh.toml");
    let malformed = file("malformed.toml", "[services.users\nendpoints = 1");
    let not_json = file("toml.json", "[services.users]\nendpoints = [\"a:1\"]");
    let not_text = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("binary.toml");
    std::fs::write(&not_text, [0xff, 0xfe, 0x00]).unwrap();
    for (path, unreadable) in [(&missing, true), (&not_text, true), (&malformed, false), (&not_json, false)] {
        let errors =
            [Config::from_path(path).unwrap_err(), Mesh::builder().config_path(path).build().unwrap_err()];
        for error in errors {
            let fits = match &error {
                ConfigError::Unreadable { .. } => unreadable,
                ConfigError::Malformed { .. } => !unreadable,
                _ => false,
            };
            let text = error.to_string();
            assert!(fits && text.contains(&path.display().to_string()), "{text}");
            assert!(error.mistakes().is_empty() && std::error::Error::source(&error).is_some());
        }
    }
    let place = Config::from_path(&malformed).unwrap_err().to_string();
    assert!(place.contains("line 1"), "{place}");

    let right = r#"{"services": {"users": {"endpoints": ["a:1"]}}}"#;
    for path in [file("right.json", right), file("right.toml", "[services.users]\nendpoints = [\"a:1\"]")] {
        assert!(Config::from_path(&path).is_ok());
        let mesh = Mesh::builder().config_path(path).build().unwrap();
        assert!(mesh.service("users").is_ok());
    }
    let wrong = file("wrong.toml", "[services.users]\nendpoints = []");
    assert_eq!(Config::from_path(wrong).unwrap_err().mistakes().len(), 1, "strict on its own too");
}
