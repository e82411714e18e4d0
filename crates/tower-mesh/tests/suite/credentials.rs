//! A table `credentials`: the token arrives with every request, is kept fresh, and is told to nobody else.

#[cfg(not(feature = "credentials"))]
#[test]
fn a_build_that_knows_no_credentials_says_so_and_names_the_feature() {
    let text = "[defaults.credentials]\nreload = \"1s\"\n[services.users]\nendpoints = [\"a:1\"]\ncredentials.bearer_env = \"X\"";
    let error = tower_mesh::Config::from_toml(text).unwrap_err();
    let told: Vec<_> = error.mistakes().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("defaults.credentials: ") && told[0].contains("feature credentials"));
    assert!(told[1].starts_with("services.users.credentials: ") && told[1].contains("feature credentials"));
}

#[cfg(feature = "credentials")]
mod on {
    use std::fmt::{self, Write as _};
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use axum::http::HeaderMap;
    use http::Request;
    use http_body_util::{BodyExt as _, Empty};
    use tower::ServiceExt as _;
    use tower_mesh::config::ServiceConfig;
    use tower_mesh::core::EndpointHandle;
    use tower_mesh::http::Rewrite;
    use tower_mesh::http::credentials::{BearerLayer, BearerToken};
    use tower_mesh::{ComponentState, Config, ErrorKind, HttpService, Mesh};
    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use crate::backend::{client, nobody};
    use crate::inner::listen;

    /// Answers with what the caller was authorized by.
    async fn doorkeeper() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = |headers: HeaderMap| async move {
            headers.get("authorization").map(|by| by.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let app = axum::Router::new().route("/", axum::routing::any(says));
        tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    type Client = hyper_util::client::legacy::Client<
        hyper_util::client::legacy::connect::HttpConnector,
        Empty<bytes::Bytes>,
    >;

    async fn told(service: &HttpService<Client>, own: Option<&str>) -> String {
        let request =
            own.into_iter().fold(Request::get("/"), |request, own| request.header("authorization", own));
        let response = service.clone().oneshot(request.body(Empty::new()).unwrap()).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn arrives(service: &HttpService<Client>, token: &str) {
        let arrives = async {
            while told(service, None).await != format!("Bearer {token}") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), arrives).await.expect("it arrives in time");
    }

    /// A file of its own, gone with the test.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let file = Self(std::env::temp_dir().join(format!("mesh-token-{name}-{}", std::process::id())));
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.0, text).unwrap();
        }

        fn line(&self) -> String {
            format!("bearer_file = {:?}", self.0)
        }
    }

    impl AsRef<Path> for File {
        fn as_ref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn config(at: SocketAddr, credentials: &str) -> String {
        format!("[services.users]\nendpoints = [\"{at}\"]\n[services.users.credentials]\n{credentials}")
    }

    async fn started(config: &str) -> (Mesh, HttpService<Client>) {
        let mesh = Mesh::builder().config_toml(config).build().unwrap();
        let users = mesh.service("users").unwrap().http(client());
        mesh.start().await.unwrap();
        (mesh, users)
    }

    #[tokio::test]
    async fn the_token_of_the_moment_arrives_and_an_authorization_of_ones_own_is_kept() {
        let (at, file) = (doorkeeper().await, File::new("arrives", "first\n"));
        let text = config(at, &format!("{}\nreload = \"100ms\"", file.line()))
            + &format!("\n[services.open]\nendpoints = [\"{at}\"]");
        let (mesh, users) = started(&text).await;
        let open = mesh.service("open").unwrap().http(client());
        assert_eq!(told(&users, None).await, "Bearer first");
        assert_eq!(told(&users, Some("Basic eA==")).await, "Basic eA==");
        assert_eq!(told(&open, None).await, "", "another service has none");

        // What is put around each endpoint comes first.
        let own = BearerLayer::new(BearerToken::new("own".into()).unwrap());
        let layered = mesh.service("users").unwrap().per_endpoint(move |_| own.clone()).http(client());
        let response = layered.oneshot(Request::get("/").body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "Bearer own");

        file.write("second");
        arrives(&users, "second").await;
        file.write("no token");
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(told(&users, None).await, "Bearer second", "the old one stays");
        file.write("third");
        arrives(&users, "third").await;
        mesh.shutdown(Duration::from_secs(5)).await;
    }

    #[cfg(feature = "reqwest")]
    #[tokio::test]
    async fn so_it_does_through_reqwest() {
        let (at, file) = (doorkeeper().await, File::new("reqwest", "first"));
        let mesh = Mesh::builder().config_toml(config(at, &file.line())).build().unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let users = mesh.service("users").unwrap().reqwest(client.clone());
        mesh.start().await.unwrap();
        let ask = async |request: reqwest::RequestBuilder| {
            let response = users.clone().oneshot(request.build().unwrap()).await.unwrap();
            reqwest::Response::from(response).text().await.unwrap()
        };
        assert_eq!(ask(client.get("http://users/")).await, "Bearer first");
        assert_eq!(ask(client.get("http://users/").bearer_auth("own")).await, "Bearer own");
    }

    #[tokio::test]
    async fn the_defaults_stand_below_each_service_and_code_says_the_same() {
        let (at, all, own) = (doorkeeper().await, File::new("all", "all"), File::new("own", "own"));
        let text = format!(
            "[defaults.credentials]\n{}\nreload = \"1m\"\n[services.orders]\nendpoints = [\"{at}\"]\n{}",
            all.line(),
            config(at, &own.line())
        );
        let (mesh, users) = started(&text).await;
        let orders = mesh.service("orders").unwrap().http(client());
        assert_eq!((&*told(&users, None).await, &*told(&orders, None).await), ("Bearer own", "Bearer all"));
        let code = |file: &File| {
            ServiceConfig::with_endpoints([at.into()]).bearer_file(&file.0, Duration::from_secs(60))
        };
        let config = Config::new()
            .service("users".parse().unwrap(), code(&own))
            .service("orders".parse().unwrap(), code(&all));
        assert!(mesh.reload(config).unwrap().is_empty());
        mesh.shutdown(Duration::from_secs(5)).await;
    }

    #[test]
    fn what_is_wrong_comes_with_all_other_mistakes_at_its_path() {
        let (bad, good) = (File::new("bad", "two words"), File::new("good", "good"));
        let services = [
            ("both", format!("{}\nbearer_env = \"X\"", good.line())),
            ("none", String::new()),
            ("unread", "bearer_env = \"X\"\nreload = \"1s\"".into()),
            ("often", format!("{}\nreload = \"1ms\"", good.line())),
            ("plain", "token = \"c2VjcmV0\"".into()),
            ("missing", "bearer_file = \"/nowhere/c2VjcmV0\"".into()),
            ("unset", "bearer_env = \"c2VjcmV0\"".into()),
            ("bad", bad.line()),
        ];
        let text: String = services
            .iter()
            .map(|(name, lines)| {
                format!("[services.{name}]\nendpoints = []\n[services.{name}.credentials]\n{lines}\n")
            })
            .collect();
        let error = Mesh::builder().config_toml(text).build().unwrap_err();
        let told: Vec<_> =
            error.mistakes().iter().filter(|mistake| !mistake.field().ends_with("endpoints")).collect();
        assert_eq!(
            error.mistakes().len() - told.len(),
            services.len(),
            "those of the endpoints are told too"
        );
        let expected = [
            ("both", "bearer_env", "bearer_env beside bearer_file"),
            ("none", "bearer_file", "nothing"),
            ("unread", "reload", "a duration beside bearer_env"),
            ("often", "reload", "1ms"),
            ("plain", "bearer_file", "nothing"),
            ("plain", "token", "an unknown field"),
            ("missing", "bearer_file", "No such file or directory (os error 2)"),
            ("unset", "bearer_env", "it is not set"),
            (
                "bad",
                "bearer_file",
                "it holds no token: 1 to 16384 of ASCII letters, digits and - . _ ~ + / =",
            ),
        ];
        for (service, field, found) in expected {
            let path = format!("services.{service}.credentials.{field}");
            let of = told.iter().find(|mistake| mistake.field() == path);
            assert_eq!(of.unwrap_or_else(|| panic!("{path}: {told:?}")).found(), found, "{path}");
        }
        assert_eq!(told.len(), expected.len(), "{told:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("two words"), "{shown}");

        // Where the table should be, it is shown as little.
        for (text, field) in [
            ("defaults.credentials = \"c2VjcmV0\"", "defaults.credentials"),
            ("[services.a]\nendpoints = [\"a:1\"]\ncredentials = \"c2VjcmV0\"", "services.a.credentials"),
        ] {
            let error = Config::from_toml(text).unwrap_err();
            let [mistake] = error.mistakes() else { panic!("{error}") };
            assert_eq!((mistake.field(), mistake.found()), (field, "no table"));
            assert!(!format!("{error} {error:?}").contains("c2VjcmV0"), "{error}");
        }

        let wrong = "[defaults.credentials]\nbearer_env = \"X\"\nreload = \"1s\"\n[services.a]\nendpoints = [\"a:1\"]\n[services.b]\nendpoints = [\"b:1\"]\ncredentials.reload = \"2s\"";
        let error = Mesh::builder().config_toml(wrong).build().unwrap_err();
        let fields: Vec<_> = error.mistakes().iter().map(|mistake| mistake.field()).collect();
        assert_eq!(fields, ["defaults.credentials.reload"], "once, and where it stands");
        let code =
            ServiceConfig::with_endpoints(["a:1".parse().unwrap()]).bearer_file("/nowhere", Duration::ZERO);
        let error =
            Mesh::builder().config(Config::new().service("a".parse().unwrap(), code)).build().unwrap_err();
        let fields: Vec<_> = error.mistakes().iter().map(|mistake| mistake.field()).collect();
        assert_eq!(fields, ["services.a.credentials.reload", "services.a.credentials.bearer_file"]);
    }

    #[tokio::test]
    async fn a_reload_takes_another_file_and_a_wrong_one_leaves_the_old() {
        let (at, one, two) = (doorkeeper().await, File::new("one", "one"), File::new("two", "two"));
        let (mesh, users) = started(&config(at, &format!("{}\nreload = \"1h\"", one.line()))).await;
        let reload = |text: &str| mesh.reload(Config::from_toml(text).unwrap());
        assert_eq!(told(&users, None).await, "Bearer one");
        let next = config(at, &format!("{}\nreload = \"1h\"", two.line()));
        assert_eq!(reload(&next).unwrap().changed()["users"], ["credentials"]);
        assert_eq!(told(&users, None).await, "Bearer two", "what was made before sends it too");

        let wrong = config(at, "bearer_file = \"/nowhere\"")
            + "\n[services.orders]\nendpoints = [\"o:1\"]\ncredentials.bearer_file = \"/nowhere\"";
        let error = reload(&wrong).unwrap_err();
        let fields: Vec<_> = error.mistakes().iter().map(|mistake| mistake.field()).collect();
        assert_eq!(
            fields,
            ["services.orders.credentials.bearer_file", "services.users.credentials.bearer_file"]
        );
        let without = format!("[services.users]\nendpoints = [\"{at}\"]");
        assert_eq!(reload(&without).unwrap_err().mistakes()[0].field(), "services.users.credentials");
        assert_eq!(told(&users, None).await, "Bearer two");

        // The file of now is read, as often as is said now, and no longer the one before.
        reload(&config(at, &format!("{}\nreload = \"100ms\"", two.line()))).unwrap();
        one.write("one-again");
        two.write("two-again");
        arrives(&users, "two-again").await;
        mesh.shutdown(Duration::from_secs(5)).await;

        let (mesh, _) = started(&without).await;
        let error = mesh.reload(Config::from_toml(&config(at, &one.line())).unwrap()).unwrap_err();
        assert_eq!(error.mistakes()[0].field(), "services.users.credentials", "it takes a restart");
    }

    #[tokio::test]
    async fn what_reads_the_file_is_started_and_ended_with_the_mesh() {
        let (at, file) = (doorkeeper().await, File::new("task", "first"));
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        let text = config(at, &format!("{}\nreload = \"100ms\"", file.line()));
        let state = |mesh: &Mesh| {
            let of = mesh.status().components.into_iter().find(|of| of.component == "credentials");
            of.map(|of| (of.service, of.state))
        };
        let mesh = Mesh::builder().config_toml(&text).build().unwrap();
        assert_eq!((tasks(), state(&mesh)), (before, None), "building starts nothing");
        mesh.start().await.unwrap();
        assert_eq!(state(&mesh), Some(("users".into(), ComponentState::Running)));
        assert_eq!(mesh.shutdown(Duration::ZERO).await.tasks, 2, "discovery and this");
        assert_eq!((tasks(), state(&mesh)), (before, Some(("users".into(), ComponentState::Stopped))));

        // A service that comes with a reload, goes with another, or is forgotten with its mesh.
        let mesh = Mesh::builder().config_toml("").build().unwrap();
        mesh.start().await.unwrap();
        let idle = tasks();
        mesh.reload(Config::from_toml(&text).unwrap()).unwrap();
        assert_eq!((tasks(), state(&mesh).unwrap().1), (idle + 2, ComponentState::Running));
        mesh.reload(Config::new()).unwrap();
        let until = async |wanted: usize| {
            let ended = async {
                while tasks() > wanted {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), ended).await.expect("they end");
        };
        until(idle).await;
        mesh.reload(Config::from_toml(&text).unwrap()).unwrap();
        drop(mesh);
        until(before).await;
    }

    /// The environment is the process's, so this is one of its own: the test below, run again.
    #[test]
    fn a_token_comes_from_the_environment() {
        const CHILD: &str = "credentials::on::in_an_environment_of_its_own";
        let output = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact", "--nocapture"])
            .env("SUITE_TOKEN", "of-the-environment")
            .env("SUITE_OTHER_TOKEN", "another")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    #[tokio::test]
    async fn in_an_environment_of_its_own() {
        if std::env::var_os("SUITE_TOKEN").is_none() {
            return; // run by the test above
        }
        let (at, file) = (doorkeeper().await, File::new("environment", "file"));
        let (mesh, users) = started(&config(at, "bearer_env = \"SUITE_TOKEN\"")).await;
        assert_eq!(told(&users, None).await, "Bearer of-the-environment");
        for (line, token) in [("bearer_env = \"SUITE_OTHER_TOKEN\"", "another"), (&*file.line(), "file")] {
            mesh.reload(Config::from_toml(&config(at, line)).unwrap()).unwrap();
            assert_eq!(told(&users, None).await, format!("Bearer {token}"));
        }
        mesh.reload(Config::from_toml(&config(at, "bearer_env = \"SUITE_NO_TOKEN\"")).unwrap()).unwrap_err();
        let code = ServiceConfig::with_endpoints([at.into()]).bearer_env("SUITE_TOKEN");
        mesh.reload(Config::new().service("users".parse().unwrap(), code)).unwrap();
        assert_eq!(told(&users, None).await, "Bearer of-the-environment");
    }

    /// Writes down everything that is logged, at every level and by everybody.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            let _ = write!(self.0.lock().unwrap(), "{field}={value:?} ");
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Log {
        fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
            span.record(&mut self.clone());
        }

        fn on_record(&self, _: &tracing::Id, values: &tracing::span::Record<'_>, _: Context<'_, S>) {
            values.record(&mut self.clone());
        }

        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    #[tokio::test]
    async fn it_is_in_no_log_status_event_error_or_debug() {
        const FIRST: &str = "Zmlyc3Qtc2VjcmV0";
        const SECOND: &str = "c2Vjb25kLXNlY3JldA";
        let log = Log::default();
        let _logged = listen(tracing_subscriber::registry().with(log.clone()));
        let (at, file) = (doorkeeper().await, File::new("told", FIRST));
        let gone = nobody().await;
        let text = format!(
            "[services.users]\nendpoints = [\"{at}\", \"{gone}\"]\nretry.base_delay = \"1ms\"\n[services.users.credentials]\n{}\nreload = \"100ms\"\n[services.gone]\nendpoints = [\"{gone}\"]\nretry.base_delay = \"1ms\"\n[services.gone.credentials]\n{}",
            file.line(),
            file.line()
        );
        let mut shown = format!("{:?}", Config::from_toml(&text).unwrap());
        let mesh = Mesh::builder().config_toml(&text).measure_calls().build().unwrap();
        let mut events = mesh.events();
        let handle = mesh.service("users").unwrap();
        let _ = write!(shown, "{handle:?}");
        let users = handle.http(client());
        let gone = mesh.service("gone").unwrap().http(client());
        let rewrite: Rewrite<()> =
            tower_mesh::core::Bind::bind(&tower_mesh::http::Authority, &(), &EndpointHandle::new(at.into()));
        let token = BearerToken::from_file(&file).await.unwrap();
        let _ = write!(shown, "{users:?} {:?}", rewrite.bearing(token));
        let elsewhere = |_: &EndpointHandle| tower::service_fn(|()| async { Ok::<_, std::io::Error>(()) });
        let _not_http = mesh.service("users").unwrap().connect(elsewhere);
        mesh.start().await.unwrap();
        for _ in 0..10 {
            assert_eq!(told(&users, None).await, format!("Bearer {FIRST}"));
        }
        let error = gone.clone().oneshot(Request::get("/").body(Empty::new()).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Upstream);
        let mut chain: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = chain {
            let _ = write!(shown, "{error} {error:?}");
            chain = error.source();
        }
        // A new one, one that is none, and one that is none for a reload.
        file.write(SECOND);
        arrives(&users, SECOND).await;
        file.write(&format!("{FIRST} {SECOND}"));
        tokio::time::sleep(Duration::from_millis(250)).await;
        let other = text.replace("100ms", "200ms");
        let error = mesh.reload(Config::from_toml(&other).unwrap()).unwrap_err();
        let _ = write!(shown, "{error} {error:?}");
        let _ = write!(shown, "{mesh:?} {:?} {:?} {:?}", mesh.status(), mesh.readiness(), mesh.circuits());
        let _ = write!(shown, "{}", serde_json::to_string(&mesh.status()).unwrap());
        while let Some(event) = events.try_next() {
            let event = event.unwrap();
            let _ = write!(shown, "{event:?} {}", serde_json::to_string(&*event).unwrap());
        }
        mesh.shutdown(Duration::from_secs(5)).await;
        shown.push_str(&log.0.lock().unwrap());
        for logged in
            ["a new bearer token", "stays the old one", "mesh.endpoint", "reload-refused", "is of no effect"]
        {
            assert!(shown.contains(logged), "{logged} was not written down");
        }
        for secret in [FIRST, SECOND] {
            let at = shown.find(secret).map(|at| &shown[at.saturating_sub(200)..at]);
            assert!(at.is_none(), "{at:?}");
        }
    }
}
