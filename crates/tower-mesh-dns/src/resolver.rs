//! The source of endpoints.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tower_mesh_core::{Resolve, ResolveError, ServiceName, Update};

use crate::answer;
use crate::ask::{Ask, Servers};
use crate::config::DnsConfig;
use crate::error::SetupError;
use crate::policy::cadence::Cadence;
use crate::question::{InvalidQuestion, Question};

/// The endpoints that DNS knows of a service, asked for again whenever an answer has run out. Clones share connections.
///
/// The service's name is the question: `users.internal:8080` asks for the addresses of `users.internal`, and so does `users.internal` where the configuration
/// has a default port. SRV records are asked for by [`asking`](Self::asking), as a service's name does not begin with `_`.
#[derive(Clone)]
pub struct DnsResolver {
    servers: Arc<Servers>,
    config: Arc<DnsConfig>,
    question: Option<Question>,
}

impl DnsResolver {
    /// Asks whom `/etc/resolv.conf` names. Reads that file, and nothing more.
    ///
    /// # Errors
    /// When the system's configuration cannot be read.
    pub fn new() -> Result<Self, SetupError> {
        Self::with_config(DnsConfig::default())
    }

    /// As [`DnsResolver::new`], with other than the default knobs.
    ///
    /// # Errors
    /// When the system's configuration is needed and cannot be read.
    pub fn with_config(config: DnsConfig) -> Result<Self, SetupError> {
        Ok(Self { servers: Arc::new(Servers::new(&config)?), config: Arc::new(config), question: None })
    }

    /// The same, but asking for `name` whatever the service is called: `host:port`, `host` with a default port, or `_service._protocol.name` for SRV records.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn asking(&self, name: &str) -> Result<Self, InvalidQuestion> {
        Ok(Self { question: Some(Question::parse(name, &self.config)?), ..self.clone() })
    }

    /// The knobs.
    pub fn config(&self) -> &DnsConfig {
        &self.config
    }
}

impl Resolve for DnsResolver {
    type Updates = BoxStream<'static, Result<Update, ResolveError>>;

    fn resolve(&self, service: &ServiceName) -> Self::Updates {
        let question = match &self.question {
            Some(question) => Ok(question.clone()),
            None => Question::parse(service.as_str(), &self.config),
        };
        match question {
            Ok(question) => follow(self.servers.clone(), question, self.config.clone()),
            // It will never be right: said once, and that is the end.
            Err(error) => stream::iter([Err(ResolveError::new(error))]).boxed(),
        }
    }
}

/// Asks, says what came of it, waits, and asks again, for as long as it is polled.
fn follow<A: Ask>(
    servers: Arc<A>,
    question: Question,
    config: Arc<DnsConfig>,
) -> BoxStream<'static, Result<Update, ResolveError>> {
    struct Following<A> {
        servers: Arc<A>,
        question: Question,
        config: Arc<DnsConfig>,
        cadence: Cadence,
        asked: bool,
        wait: std::time::Duration,
        said: VecDeque<Result<Update, ResolveError>>,
    }
    let following = Following {
        servers,
        question,
        config,
        cadence: Cadence::default(),
        asked: false,
        wait: std::time::Duration::ZERO,
        said: VecDeque::new(),
    };
    stream::unfold(following, |mut this| async move {
        loop {
            if let Some(said) = this.said.pop_front() {
                return Some((said, this));
            }
            if std::mem::replace(&mut this.asked, true) {
                tokio::time::sleep(this.wait).await;
            }
            let answer = answer::ask(&*this.servers, &this.question, this.config.families()).await;
            this.wait = this.cadence.wait(answer.heard, &this.config, fastrand::f64());
            tracing::trace!(question = ?this.question, wait = ?this.wait, "asked");
            this.said.extend(answer.update.map(Ok));
            this.said.extend(answer.error.map(|error| Err(ResolveError::new(error))));
        }
    })
    .boxed()
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsResolver")
            .field("question", &self.question)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::time::Duration;

    use hickory_resolver::proto::rr::rdata::{A, SRV};
    use hickory_resolver::proto::rr::{Name, RData, RecordType};
    use tokio::time::Instant;

    use super::*;
    use crate::ask::Found;
    use crate::error::{DnsError, DnsErrorKind};

    /// Answers as the test says.
    struct Script<F>(F, Mutex<Vec<Duration>>, Instant);

    impl<F: Fn(usize, &str, RecordType) -> Found + Send + Sync + 'static> Ask for Script<F> {
        async fn ask(&self, name: &Name, kind: RecordType) -> Found {
            let mut asked = self.1.lock().unwrap();
            asked.push(self.2.elapsed());
            (self.0)(asked.len(), &name.to_string(), kind)
        }
    }

    fn a(last: u8, ttl: u64) -> Found {
        Found::Records(vec![RData::A(A(Ipv4Addr::new(10, 0, 0, last)))], Duration::from_secs(ttl))
    }

    fn failed() -> Found {
        Found::Failed(DnsError::new("x", DnsErrorKind::Refused, "SERVFAIL"))
    }

    fn following<F: Fn(usize, &str, RecordType) -> Found + Send + Sync + 'static>(
        question: &str,
        config: DnsConfig,
        script: F,
    ) -> (Arc<Script<F>>, BoxStream<'static, Result<Update, ResolveError>>) {
        let script = Arc::new(Script(script, Mutex::default(), Instant::now()));
        let question = Question::parse(question, &config).unwrap();
        (script.clone(), follow(script, question, Arc::new(config)))
    }

    /// What is said, in one word each.
    fn shown(said: Option<Result<Update, ResolveError>>) -> String {
        match said.unwrap() {
            Ok(Update::Reset(all)) => {
                let all: Vec<_> =
                    all.iter().map(|e| format!("{}/{}/{}", e.id(), e.priority(), e.weight())).collect();
                format!("={}", all.join(" "))
            }
            Ok(Update::Upsert(some)) => format!("+{}", some.len()),
            Ok(Update::NotFound) => "not found".into(),
            Ok(other) => panic!("{other:?}"),
            Err(_) => "error".into(),
        }
    }

    fn one_family() -> crate::DnsConfigBuilder {
        DnsConfig::builder().families(crate::Families::V4).jitter(0.0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_dns_says_is_kept_apart_and_asked_for_again_in_time() {
        let (script, mut updates) = following("users:80", one_family().build().unwrap(), |n, _, _| match n {
            1 => a(1, 20),
            2 => Found::NoData(Some(Duration::from_secs(7))),
            3 => Found::NoName(None),
            4 | 5 => failed(),
            _ => a(2, 1),
        });
        let mut said = Vec::new();
        for _ in 0..7 {
            said.push(shown(updates.next().await));
        }
        assert_eq!(
            said,
            ["=10.0.0.1:80/0/1", "=", "not found", "error", "error", "=10.0.0.2:80/0/1", "=10.0.0.2:80/0/1"]
        );
        let asked: Vec<_> = script.1.lock().unwrap().clone();
        let waits: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(
            (waits[0], waits[1], waits[2], waits[5]),
            (20_000, 7_000, 10_000, 5_000),
            "TTL, both negatives, floor"
        );
        assert!((500..=1001).contains(&waits[3]) && (1000..=2001).contains(&waits[4]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_an_answer_takes_nobody_out() {
        let config = DnsConfig::default();
        let (_, mut updates) = following("users:80", config, |_, _, kind| match kind {
            RecordType::A => a(1, 20),
            _ => failed(),
        });
        assert_eq!([shown(updates.next().await), shown(updates.next().await)], ["+1", "error"]);
        let (_, mut updates) = following("users:80", DnsConfig::default(), |_, _, kind| match kind {
            RecordType::A => a(1, 20),
            _ => Found::NoData(None),
        });
        assert_eq!(shown(updates.next().await), "=10.0.0.1:80/0/1", "one family is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_of_srv_records_carry_priority_and_weight_and_the_shortest_ttl_counts() {
        let srv = |priority, weight, host: &str| {
            RData::SRV(SRV::new(priority, weight, 80, Name::from_ascii(host).unwrap()))
        };
        let (script, mut updates) =
            following("_web._tcp.x", one_family().build().unwrap(), move |_, asked, kind| {
                match (kind, asked) {
                    (RecordType::SRV, _) => Found::Records(
                        vec![
                            srv(1, 0, "b.x."),
                            srv(0, 5, "a.x."),
                            srv(2, 9, "a.x."),
                            srv(0, 1, "gone.x."),
                            srv(0, 1, "."),
                        ],
                        Duration::from_secs(60),
                    ),
                    (_, "a.x.") => a(1, 60),
                    (_, "b.x.") => a(2, 11),
                    (_, "gone.x.") => Found::NoName(None),
                    other => panic!("{other:?}"),
                }
            });
        assert_eq!(shown(updates.next().await), "=10.0.0.1:80/0/5 10.0.0.2:80/1/1");
        updates.next().await;
        let asked = script.1.lock().unwrap();
        assert_eq!(asked[5] - asked[0], Duration::from_secs(11));
    }
}
