//! Configurations in YAML: they say what TOML and JSON say, and what only YAML can say is refused.

#[cfg(not(feature = "yaml"))]
#[test]
fn a_build_that_reads_no_yaml_says_so_and_names_the_feature() {
    for extension in ["yaml", "yml"] {
        let path = std::env::temp_dir().join(format!("mesh-no-yaml-{}.{extension}", std::process::id()));
        std::fs::write(&path, "services: {}").unwrap();
        let read = tower_mesh::Config::from_path(&path).unwrap_err().to_string();
        let built = tower_mesh::Mesh::builder().config_path(&path).build().unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        for told in [read, built] {
            assert!(told.contains("feature yaml") && told.contains(&*path.to_string_lossy()), "{told}");
        }
    }
}

#[cfg(feature = "yaml")]
mod on {
    use std::time::Duration;

    use tower_mesh::config::{ConfigError, Overrides};
    use tower_mesh::{Config, Mesh};

    const TOML: &str = r#"
        identity = "gateway"
        start_timeout = "2s"
        [defaults.retry]
        max_attempts = 5
        [services.users]
        endpoints = ["10.0.0.1:8080", "[::1]:8080"]
        required = false
        [services.users.retry]
        base_delay = "20ms"
        [services.users.budget]
        ratio = 0.25
        [services.users.limit]
        [services.users.allow."*"]
        operations = ["get", "list-*"]
        [services.users.operations."pkg.Users/Get"]
        timeout = "1m 30s"
        idempotent = true
        [services.users.health.http]
        path = "/healthz"
        expected = [200, "300-399"]
        headers = { host = "users.internal" }
    "#;

    const YAML: &str = r#"
identity: gateway
start_timeout: 2s
defaults:
  retry: &retry
    max_attempts: 5
services:
  users:
    endpoints:
      - 10.0.0.1:8080
      - "[::1]:8080"
    required: false
    retry:
      base_delay: 20ms
    budget: { ratio: 0.25 }
    limit: {}
    allow:
      "*":
        operations: [get, list-*]
    operations:
      pkg.Users/Get:
        timeout: 1m 30s     # a comment
        idempotent: true
    health:
      http:
        path: /healthz
        expected: [200, 300-399]
        headers: { host: users.internal }
"#;

    #[test]
    fn the_same_in_toml_json_and_yaml_reads_equal() {
        let tree: serde_json::Value = toml::from_str(TOML).unwrap();
        let (toml, json) = (Config::from_toml(TOML).unwrap(), Config::from_json(&tree.to_string()).unwrap());
        let yaml = format!("{:?}", Config::from_yaml(YAML).unwrap());
        assert_eq!(yaml, format!("{toml:?}"));
        assert_eq!(yaml, format!("{json:?}"));
    }

    #[test]
    fn a_file_is_yaml_by_its_name_and_overrides_stand_above_it() {
        for extension in ["yaml", "yml"] {
            let path = std::env::temp_dir().join(format!("mesh-yaml-{}.{extension}", std::process::id()));
            std::fs::write(&path, YAML).unwrap();
            let read = Config::from_path(&path).unwrap();
            let overrides = Overrides::new().set("services.users.retry.max_attempts", "0");
            let refused = Mesh::builder().config_path(&path).overrides(overrides).build().unwrap_err();
            std::fs::write(&path, "services: {").unwrap();
            let broken = Config::from_path(&path).unwrap_err().to_string();
            std::fs::remove_file(&path).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", Config::from_yaml(YAML).unwrap()));
            assert_eq!(refused.mistakes()[0].field(), "services.users.retry.max_attempts");
            assert!(broken.contains(&*path.to_string_lossy()) && broken.contains("line 2"), "{broken}");
        }
    }

    /// Those of TOML and JSON, in YAML, are in `bad_input`.
    #[test]
    fn all_mistakes_come_in_one_answer_with_their_paths() {
        let text = "\
start_timeout: 5
colour: blue
services:
  users:
    endpoints: [a:1]
    retry:
    limit: ~
    required: yes
    deadline: { timeout: 1:30 }
    breaker: { failure_threshold: .nan }
    <<: { required: false }
  orders:
";
        let error = Config::from_yaml(text).unwrap_err();
        let mut told: Vec<_> = error.mistakes().iter().map(|wrong| (wrong.field(), wrong.found())).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("colour", "an unknown field"),
                ("services.orders", "nothing (null)"),
                ("services.users.\"<<\"", "an unknown field"),
                ("services.users.breaker.failure_threshold", "\"NaN\""),
                ("services.users.deadline.timeout", "\"1:30\""),
                ("services.users.limit", "nothing (null)"),
                ("services.users.required", "\"yes\""),
                ("services.users.retry", "nothing (null)"),
                ("start_timeout", "5"),
            ]
        );
        let empty = error.mistakes().iter().find(|mistake| mistake.field() == "services.users.limit");
        assert_eq!(empty.unwrap().allowed(), "a table; {} is an empty one");
        for nothing in ["", "# nothing\n", "---\n", "~"] {
            let error = Config::from_yaml(nothing).unwrap_err();
            assert_eq!(error.mistakes().len(), 1, "{nothing:?}: {error}");
            assert!(error.to_string().contains("configuration: found nothing (null)"), "{error}");
        }
    }

    #[test]
    fn what_only_yaml_can_say_is_refused_with_its_place() {
        for (text, why) in [
            ("start_timeout: 1s\nstart_timeout: 2s", "\"start_timeout\" stands there twice"),
            (
                "services:\n  a: { endpoints: [a:1] }\n  b: {}\n  a: {}",
                "services: \"a\" stands there twice at line 2",
            ),
            ("services:\n  1: {}", "integer `1`, expected a text as the name of a field"),
            ("services:\n  true: {}", "boolean `true`, expected a text as the name of a field"),
            ("services:\n  ~: {}", "unit value, expected a text as the name of a field"),
            ("services:\n  1.5: {}", "floating point `1.5`, expected a text as the name of a field"),
            ("services:\n  [a]: {}", "sequence, expected a text as the name of a field"),
            ("identity: a\n---\nidentity: b", "more than one document"),
            ("identity: a\n---\n", "more than one document"),
            ("identity: !secret a", "a tag means nothing here"),
            ("identity: *nobody", "unknown anchor"),
            ("identity: a\n\tb: c", "line 2"),
            ("services: {", "line 2"),
        ] {
            let error = Config::from_yaml(text).unwrap_err();
            assert!(matches!(error, ConfigError::Malformed { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_tag_of_yamls_own_says_at_most_how_a_scalar_is_read() {
        for (tagged, plain) in [
            ("identity: !!str 5", "identity: '5'"),
            ("identity: !!binary WA==", "identity: WA=="),
            ("services: !!map {}", "services: {}"),
            (
                "services: { a: { endpoints: !!seq [a:1], required: !!bool \"false\" } }",
                "services: { a: { endpoints: [a:1], required: false } }",
            ),
        ] {
            let read = |text: &str| format!("{:?}", Config::from_yaml(text).unwrap());
            assert_eq!(read(tagged), read(plain));
        }
    }

    /// A few lines that would be gigabytes, or that lead deeper than any stack.
    #[test]
    fn what_grows_without_bound_is_refused() {
        let doubling = |n: usize| format!("a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}]\n", m = n - 1);
        let bomb = String::from("a0: &a0 [x, x, x, x]\n") + &(1..30).map(doubling).collect::<String>();
        let deep = "[".repeat(10_000);
        for text in [bomb, deep] {
            let error = Config::from_yaml(&text).unwrap_err().to_string();
            assert!(error.contains("limit exceeded"), "{error}");
        }
    }

    #[cfg(feature = "file")]
    #[tokio::test]
    async fn a_file_is_followed() {
        let path = std::env::temp_dir().join(format!("mesh-follow-{}.yaml", std::process::id()));
        let write = |text: &str| {
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        write("services: { users: { endpoints: [a:1] } }");
        let mesh = Mesh::builder().config_path(&path).follow_config().build().unwrap();
        mesh.start().await.unwrap();
        write("services: { users: { endpoints: [a:1, b:1] } }");
        let seen = async {
            while mesh.status().services[0].endpoints.len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("it is seen in time");
        mesh.shutdown(Duration::ZERO).await;
        std::fs::remove_file(&path).unwrap();
    }
}
