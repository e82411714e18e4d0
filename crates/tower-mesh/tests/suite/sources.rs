//! Where endpoints come from, by a line in the configuration.

#[cfg(not(all(feature = "dns", feature = "etcd")))]
#[test]
fn a_source_that_this_build_has_not_is_refused_and_its_feature_named() {
    use tower_mesh::Config;
    let refused = |text: &str| -> Vec<String> {
        let error = Config::from_toml(text).unwrap_err();
        error.mistakes().iter().map(ToString::to_string).collect()
    };
    if cfg!(not(feature = "dns")) {
        for line in ["dns = \"users.internal:8080\"", "dns = { name = \"users\", servers = [] }"] {
            let told = refused(&format!("[services.users]\n{line}"));
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].starts_with("services.users.dns: ") && told[0].contains("feature dns"),
                "{told:?}"
            );
        }
        let told = refused("[defaults.dns]\ntimeout = \"1s\"");
        assert!(told[0].starts_with("defaults.dns: ") && told[0].contains("feature dns"), "{told:?}");
    }
    if cfg!(not(feature = "etcd")) {
        let told =
            refused("[defaults.etcd]\nuser = \"x\"\n[services.users]\netcd = { servers = [\"http://a:1\"] }");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|told| told.contains("feature etcd")), "{told:?}");
    }
}

#[cfg(feature = "dns")]
mod dns {
    use std::time::Duration;

    use tower_mesh::config::ServiceConfig;
    use tower_mesh::dns::DnsConfig;
    use tower_mesh::{Config, Mesh};

    use crate::backend::{Backend, Mood, client, get, status};

    fn told(text: &str) -> Vec<String> {
        let error = Mesh::builder().config_toml(text).build().unwrap_err();
        error.mistakes().iter().map(|mistake| format!("{}: {}", mistake.field(), mistake.found())).collect()
    }

    /// `localhost` is answered without a server (RFC 6761), so that no name need be set up for this.
    #[tokio::test]
    async fn a_name_in_the_configuration_is_asked_for_and_called() {
        let backend = Backend::start(Mood::Well).await;
        let port = backend.address.port();
        let config = format!(
            "[defaults.dns]\nservers = [\"127.0.0.1:9\"]\nfamilies = \"v4\"\n\
             [services.users]\ndns = \"localhost:{port}\"\n\
             [services.orders.dns]\nname = \"localhost\"\ndefault_port = {port}"
        );
        let mesh = Mesh::builder().config_toml(config).build().unwrap();
        let services = ["users", "orders"].map(|name| mesh.service(name).unwrap().http(client()));
        mesh.start().await.unwrap();
        for service in &services {
            assert_eq!(status(service, get()).await.unwrap(), 200);
        }
        assert_eq!(backend.gets(), 2);
        let ids: Vec<_> =
            mesh.status().services.iter().map(|service| service.endpoints[0].id.clone()).collect();
        assert_eq!(ids, [backend.address.to_string(), backend.address.to_string()]);
        mesh.shutdown(Duration::from_secs(5)).await;
    }

    #[test]
    fn every_knob_is_read() {
        let text = "[services.users.dns]\nname = \"_web._tcp.internal\"\nservers = [\"10.0.0.53:53\"]\nsearch = [\"internal\"]\n\
            families = \"v6\"\ndefault_port = 80\ntimeout = \"1s\"\nattempts = 3\nmin_interval = \"1s\"\nmax_interval = \"1m\"\n\
            max_negative_interval = \"2s\"\njitter = 0.5\nretry_delay = \"200ms\"\nmax_retry_delay = \"3s\"";
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let config = DnsConfig::builder()
            .servers(["10.0.0.53:53".parse().unwrap()])
            .search(["internal"])
            .families(tower_mesh::dns::Families::V6)
            .default_port(80)
            .timeout(s(1))
            .attempts(3)
            .min_interval(s(1))
            .max_interval(s(60))
            .max_negative_interval(s(2))
            .jitter(0.5)
            .retry_delay(ms(200))
            .max_retry_delay(s(3));
        let expected = Config::new().service(
            "users".parse().unwrap(),
            ServiceConfig::from_dns("_web._tcp.internal", config.build().unwrap()),
        );
        assert_eq!(format!("{:?}", Config::from_toml(text).unwrap()), format!("{expected:?}"));
    }

    #[test]
    fn every_mistake_is_told_with_its_path() {
        let text = "[defaults.dns]\njitter = 2\n[services.a]\ndns = \"users\"\n[services.b.dns]\nservers = [\"10.0.0.53\"]\nport = 1\n\
            default_port = 70000\n[services.c.dns]\nname = \"c:80\"\nattempts = 0\n[services.d]\ndns = 5\n\
            [services.e]\ndns = \"e:1\"\nfile = \"e.toml\"";
        assert_eq!(
            told(text),
            [
                "defaults.dns.jitter: 2.0",
                "services.a.dns: \"users\"",
                "services.b.dns.name: nothing",
                "services.b.dns.servers[0]: \"10.0.0.53\"",
                "services.b.dns.default_port: a larger number",
                "services.b.dns.port: an unknown field",
                "services.c.dns.attempts: 0",
                "services.d.dns: 5",
                "services.e.dns: dns beside file",
            ]
        );
        let in_code = Config::new()
            .service("a".parse().unwrap(), ServiceConfig::from_dns("no port", DnsConfig::default()));
        let error = Mesh::builder().config(in_code).build().unwrap_err();
        assert_eq!(error.mistakes()[0].field(), "services.a.dns");
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use std::net::TcpListener;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use tower_mesh::etcd::{EtcdConfig, EtcdResolver};
    use tower_mesh::{Config, Mesh};

    use crate::backend::{Backend, Mood, client, get, status};

    fn told(text: &str) -> Vec<String> {
        let error = Mesh::builder().config_toml(text).build().unwrap_err();
        error.mistakes().iter().map(|mistake| format!("{}: {}", mistake.field(), mistake.found())).collect()
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_environment_and_is_shown_nowhere() {
        let path = file("etcd-password", "s3cret\n");
        let text = format!(
            "[defaults.etcd]\nservers = [\"http://127.0.0.1:1\"]\nuser = \"mesh\"\npassword_file = {path:?}\nprefix = \"/live/\"\n\
             [services.users]\netcd = {{}}\n[services.orders]\netcd = {{ prefix = \"/old/\" }}"
        );
        let config = Config::from_toml(&text).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3cret") && shown.contains("/live/") && shown.contains("/old/"), "{shown}");
        let right = EtcdConfig::builder().servers(["http://127.0.0.1:1"]).prefix("/live/");
        let right = |password: &str| right.clone().user("mesh", password).build().unwrap();
        let of = |config: &Config| format!("{config:?}");
        let with = |password: &str| {
            let service = tower_mesh::config::ServiceConfig::from_etcd(right(password));
            of(&Config::new().service("users".parse().unwrap(), service))
        };
        let one = Config::from_toml(text.split("[services.orders]").next().unwrap()).unwrap();
        assert_eq!(of(&one), with("s3cret"));
        // Cargo sets this one for tests: any variable will do.
        let from_env = "[services.users.etcd]\nservers = [\"http://127.0.0.1:1\"]\nuser = \"mesh\"\npassword_env = \"CARGO_PKG_NAME\"";
        assert!(Config::from_toml(from_env).is_ok());
    }

    #[test]
    fn every_mistake_is_told_with_its_path() {
        let text = "[defaults.etcd]\nkeep_alive = \"1s\"\n[services.a]\netcd = {}\n\
            [services.b.etcd]\nservers = [\"http://b:1\"]\nuser = \"u\"\npassword = \"s3cret\"\n\
            [services.c.etcd]\nservers = [\"http://b:1\"]\nuser = \"u\"\npassword_env = \"NO_SUCH_VARIABLE_OF_MESH\"\n\
            [services.d.etcd]\nservers = [\"http://b:1\"]\ncertificate_file = \"/no/such/file\"\n\
            [services.e.etcd]\nservers = [\"http://b:1\"]\nprefix = \"x\"\nmax_endpoints = 0";
        let told = told(text);
        assert!(!told.iter().any(|told| told.contains("s3cret")), "{told:?}");
        assert_eq!(
            told,
            [
                "defaults.etcd.keep_alive: 1s",
                "services.a.etcd.servers: 0 of them",
                "services.b.etcd.user: an incomplete user, or two passwords",
                "services.b.etcd.password: an unknown field",
                "services.c.etcd.password_env: \"NO_SUCH_VARIABLE_OF_MESH\": environment variable not found",
                "services.d.etcd.certificate_file: \"/no/such/file\": No such file or directory (os error 2)",
                "services.d.etcd.key_file: one of certificate_file and key_file",
                "services.e.etcd.prefix: \"x\"",
                "services.e.etcd.max_endpoints: 0",
            ]
        );
    }

    /// A server of its own for one test, on a port that was free.
    struct Etcd {
        process: Child,
        folder: PathBuf,
        url: String,
    }

    impl Etcd {
        fn start(folder: &Path) -> Option<Self> {
            let free = || TcpListener::bind("127.0.0.1:0").unwrap();
            let [url, peer] = [free(), free()].map(|l| format!("http://{}", l.local_addr().unwrap()));
            let process = Command::new("etcd")
                .arg(format!("--data-dir={}", folder.display()))
                .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
                .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
                .arg(format!("--initial-cluster=default={peer}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let Ok(process) = process else {
                assert!(std::env::var_os("MESH_REQUIRE_SERVERS").is_none(), "etcd is missing (etcd-server)");
                println!("skipped: etcd is missing (Debian: etcd-server)");
                return None;
            };
            Some(Self { process, folder: folder.to_owned(), url })
        }
    }

    impl Drop for Etcd {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[tokio::test]
    async fn what_registers_in_etcd_is_called() {
        let folder = std::env::temp_dir().join(format!("tower-mesh-facade-etcd-{}", std::process::id()));
        let Some(etcd) = Etcd::start(&folder) else { return };
        let backend = Backend::start(Mood::Well).await;
        let resolver = EtcdResolver::new(EtcdConfig::builder().servers([&etcd.url]).build().unwrap());
        let (registration, driver) =
            resolver.register(&"users".parse().unwrap(), &backend.endpoint()).unwrap();
        tokio::spawn(driver);
        tokio::time::timeout(Duration::from_secs(20), registration.registered()).await.unwrap();

        let config = format!("[services.users]\netcd = {{ servers = [{:?}] }}", etcd.url);
        let mesh = Mesh::builder().config_toml(config).build().unwrap();
        let users = mesh.service("users").unwrap().http(client());
        mesh.start().await.unwrap();
        assert_eq!((status(&users, get()).await.unwrap(), backend.gets()), (200, 1));
        registration.remove().await.unwrap();
        while !mesh.status().services[0].endpoints.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(status(&users, get()).await.is_err());
        mesh.shutdown(Duration::from_secs(5)).await;
    }
}
