//! The source of endpoints.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, KeyValue, WatchOptions, WatchStream};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::Instant;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::{Endpoint, Resolve, ResolveError, ServiceName, Update};

use crate::config::EtcdConfig;
use crate::connections::{Connections, bounded};
use crate::error::{EtcdError, EtcdErrorKind};
use crate::key;
use crate::policy::failures::Failures;
use crate::policy::known::{Event, Known};
use crate::registration::{self, InvalidRegistration, Registration, RegistrationDriver};

/// The endpoints that stand in etcd under a service's name, followed by a watch. Clones share one connection.
///
/// It connects when the first stream is polled, needs tokio's runtime, and spawns nothing of its own; the connection is served by tasks of the HTTP/2 client's, which end
/// with it. Dropping a stream ends its watch.
#[derive(Clone)]
pub struct EtcdResolver {
    connections: Connections,
}

impl EtcdResolver {
    /// A source over the etcd cluster that `config` names. Connects to nobody yet.
    pub fn new(config: EtcdConfig) -> Self {
        Self { connections: Connections::new(config) }
    }

    /// The knobs.
    pub fn config(&self) -> &EtcdConfig {
        &self.connections.config
    }

    /// Puts `endpoint` among those of `service`, for as long as the driver runs: spawn it, or join it with others. Nothing is written before it is polled.
    ///
    /// # Errors
    /// When the key or the value would be longer than those that are read.
    pub fn register(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
    ) -> Result<(Registration, RegistrationDriver), InvalidRegistration> {
        registration::new(self.connections.clone(), service, endpoint)
    }
}

impl Resolve for EtcdResolver {
    type Updates = BoxStream<'static, Result<Update, ResolveError>>;

    fn resolve(&self, service: &ServiceName) -> Self::Updates {
        let config = self.config();
        let known = Known::new(key::prefix_of(config, service), config.max_endpoints());
        let following = Following {
            connections: self.connections.clone(),
            known,
            watch: None,
            failures: Failures::default(),
            said: VecDeque::new(),
        };
        stream::unfold(following, |mut following| async {
            let said = following.next().await;
            Some((said, following))
        })
        .boxed()
    }
}

impl fmt::Debug for EtcdResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdResolver").field("config", self.config()).finish_non_exhaustive()
    }
}

/// Keys asked for at once.
const PAGE: i64 = 256;

/// The largest answer that is taken.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// A service that is followed: its keys are listed, and watched from the next revision on. Whatever ends the watch, they are listed again.
struct Following {
    connections: Connections,
    known: Known,
    watch: Option<Watch>,
    failures: Failures,
    said: VecDeque<Result<Update, ResolveError>>,
}

struct Watch {
    stream: WatchStream,
    since: Instant,
}

impl Following {
    async fn next(&mut self) -> Result<Update, ResolveError> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return said;
            }
            if self.watch.is_none() {
                let chance = Chance::Uniform(fastrand::f64());
                if let Some(wait) = self.failures.wait(&self.connections.config, chance) {
                    tokio::time::sleep(wait).await;
                }
                if let Err(error) = self.begin().await {
                    self.failed(error);
                }
            } else if let Err(error) = self.listen().await {
                self.failed(error);
            }
        }
    }

    fn failed(&mut self, error: EtcdError) {
        let watched = self.end_watch();
        self.failures.failed(watched, &self.connections.config);
        self.said.push_back(Err(ResolveError::new(error)));
    }

    /// Lists all keys, and watches what happens after that.
    async fn begin(&mut self) -> Result<(), EtcdError> {
        let client = self.connections.get(self.known.prefix()).await?;
        let prefix = self.known.prefix().to_owned();
        let bound = self.connections.config.timeout();
        let end = key::end_of(prefix.as_bytes());
        let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        let (mut all, mut from, mut revision) = (Vec::<KeyValue>::new(), prefix.clone().into_bytes(), 0);
        // One more than fits says that there are too many.
        let max = self.connections.config.max_endpoints() + 1;
        let more = loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let mut page = bounded(bound, &prefix, kv.get(from, Some(options))).await?;
            if revision == 0 {
                revision = page.header().map_or(0, |header| header.revision());
            }
            let more = page.more();
            all.extend(page.take_kvs());
            match all.last() {
                Some(last) if more && all.len() < max => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => break more,
            }
        };

        let options = WatchOptions::new().with_range(end).with_start_revision(revision + 1);
        let mut watcher = client.watch_client().max_decoding_message_size(MAX_ANSWER);
        let watch = async {
            let mut watch = watcher.watch(prefix.clone(), Some(options)).await?;
            // That it is created, or that it is not.
            let created = watch.message().await?;
            Ok((watch, created))
        };
        let (stream, created) = bounded(bound, &prefix, watch).await?;
        if created.as_ref().is_none_or(|created| created.canceled() && created.compact_revision() == 0) {
            let why = created.as_ref().map_or("it ended", |created| created.cancel_reason());
            let why = format!("the server made no watch: {why}");
            return Err(EtcdError::new(&prefix, EtcdErrorKind::Failed, why));
        }

        let all = all.iter().filter_map(|kv| Some((part(&prefix, kv)?, kv.value())));
        let news = self.known.list(all, more);
        self.say(news.errors, news.updates);
        self.watch = Some(Watch { stream, since: Instant::now() });
        Ok(())
    }

    /// Waits for the next thing that the watch says.
    async fn listen(&mut self) -> Result<(), EtcdError> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let prefix = self.known.prefix().to_owned();
        let lost = |why: String| EtcdError::new(&prefix, EtcdErrorKind::Failed, why);
        let message = watch.stream.message().await.map_err(|error| EtcdError::of_client(&prefix, error))?;
        let message = message.ok_or_else(|| lost("the watch ended".to_owned()))?;
        // The reason is empty then.
        if message.compact_revision() > 0 {
            tracing::debug!(prefix, revision = message.compact_revision(), "compacted; listing again");
            self.list_again();
            return Ok(());
        }
        if message.canceled() {
            return Err(lost(format!("the server ended the watch: {}", message.cancel_reason())));
        }
        let events = message.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            let part = part(&prefix, kv)?;
            Some(match event.event_type() {
                EventType::Put => Event::Put(part, kv.value()),
                EventType::Delete => Event::Delete(part),
            })
        });
        let (news, again) = self.known.events(events);
        self.say(news.errors, news.updates);
        if again {
            self.list_again();
        }
        Ok(())
    }

    /// The connection is well, but what is known is not whole.
    fn list_again(&mut self) {
        let watched = self.end_watch();
        self.failures.pause(watched, &self.connections.config);
    }

    /// How long it lasted.
    fn end_watch(&mut self) -> Option<Duration> {
        self.watch.take().map(|watch| watch.since.elapsed())
    }

    fn say(&mut self, errors: Vec<EtcdError>, updates: Vec<Update>) {
        self.said.extend(errors.into_iter().map(|error| Err(ResolveError::new(error))));
        self.said.extend(updates.into_iter().map(Ok));
    }
}

/// The part of a key after the prefix. None for a key that is no text: nobody can have meant an endpoint by it.
fn part<'a>(prefix: &str, kv: &'a KeyValue) -> Option<&'a str> {
    std::str::from_utf8(kv.key().strip_prefix(prefix.as_bytes())?).ok()
}
