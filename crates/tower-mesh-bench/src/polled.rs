//! What looking at a large mesh costs those who call: calls of one thread in turns with nobody looking, and with another thread that takes the status and serialises it.
//!
//! Two threads of one machine share its caches and its memory whatever they do. So there is a third turn, in which the other thread looks at a second mesh of the same size that nobody
//! calls: what a call takes longer while its own mesh is looked at than while that one is, is what looking holds up. Time in which the calling thread waits for a processor is left
//! out, where Linux tells it; time in which it would wait for a lock is not.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tower_mesh::Mesh;
use tower_mesh::core::EndpointHandle;
use tower_service::Service;

use crate::inner::{Echo, Request};
use crate::measure::median;
use crate::{scale, thread_time};

/// How often the other thread looks; at once again, if looking takes longer.
const EVERY: Duration = Duration::from_millis(10);
/// How long one turn lasts, at least.
const TURN: Duration = Duration::from_millis(100);
const ROUNDS: usize = 25;
/// A call that takes longer may have been kept from its processor, which is looked up.
const SUSPECT: Duration = Duration::from_micros(20);

/// One line of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    /// Statuses of the called mesh, in all.
    pub(crate) polls: u64,
    /// Nanoseconds a call with nobody looking, one reading of the clock included: the median over the rounds.
    pub(crate) ns: f64,
    /// The same while the mesh is looked at.
    pub(crate) polled_ns: f64,
    /// How much longer a call takes then, as the median of the ratios within a round: to nobody looking, and to somebody looking at the other mesh.
    pub(crate) vs_alone: f64,
    pub(crate) vs_other: f64,
    /// The longest call of all rounds: with nobody looking, while the other mesh is looked at, and this one.
    pub(crate) longest_us: [f64; 3],
    /// How often the calling thread waited for a lock, of the same three.
    pub(crate) sleeps: [u64; 3],
}

/// Measures calls through `services` services in turn, with `endpoints` endpoints in all.
pub(crate) fn row(runtime: &Runtime, services: usize, endpoints: usize) -> Row {
    let mut called = Called::start(runtime, services, endpoints);
    let other = Called::start(runtime, services, endpoints);
    called.turn(runtime); // warms up
    let mut rounds = Vec::new();
    let mut polls = 0;
    for _ in 0..ROUNDS {
        let alone = called.turn(runtime);
        let (beside, _) = while_polling(&other.mesh, || called.turn(runtime));
        let mesh = called.mesh.clone();
        let (polled, looked) = while_polling(&mesh, || called.turn(runtime));
        polls += looked;
        rounds.push([alone, beside, polled]);
    }
    for mesh in [&called.mesh, &other.mesh] {
        runtime.block_on(mesh.shutdown(Duration::from_secs(5)));
    }
    let of = |figure: &dyn Fn(&[Turn; 3]) -> f64| median(rounds.iter().map(figure));
    let longest = |turn: usize| rounds.iter().map(|round| round[turn].longest_us).fold(0.0, f64::max);
    let sleeps = |turn: usize| rounds.iter().map(|round| round[turn].sleeps).sum();
    Row {
        services,
        endpoints,
        polls,
        ns: of(&|[alone, _, _]| alone.ns),
        polled_ns: of(&|[_, _, polled]| polled.ns),
        vs_alone: of(&|[alone, _, polled]| polled.ns / alone.ns),
        vs_other: of(&|[_, beside, polled]| polled.ns / beside.ns),
        longest_us: [longest(0), longest(1), longest(2)],
        sleeps: [sleeps(0), sleeps(1), sleeps(2)],
    }
}

/// A mesh, and a client's service for each of its services.
struct Called<S> {
    mesh: Mesh,
    clients: Vec<S>,
}

/// What the calls of one turn took.
#[derive(Debug, Clone, Copy)]
struct Turn {
    ns: f64,
    longest_us: f64,
    /// How often the calling thread went to sleep. Its calls are answered at once, so whatever it waits for is a lock.
    sleeps: u64,
}

impl Called<()> {
    fn start(
        runtime: &Runtime,
        services: usize,
        endpoints: usize,
    ) -> Called<impl Service<Request, Response = u64, Error: std::fmt::Debug> + Clone> {
        let config = scale::config(services, endpoints, |service| service, 1);
        let mesh = Mesh::builder().config(config).build().expect("a configuration");
        let connect = |name: &tower_mesh::core::ServiceName| {
            mesh.service(name.as_str()).expect("it is there").connect(|_: &EndpointHandle| Echo)
        };
        let clients = scale::names(services).iter().map(connect).collect();
        runtime.block_on(async {
            mesh.start().await.expect("lists are there at once");
            while scale::known(&mesh) < endpoints {
                tokio::task::yield_now().await;
            }
        });
        Called { mesh, clients }
    }
}

impl<S> Called<S>
where
    S: Service<Request, Response = u64, Error: std::fmt::Debug> + Clone,
{
    /// Calls for one turn, on this thread. A call is what passes between two readings of the clock.
    fn turn(&mut self, runtime: &Runtime) -> Turn {
        runtime.block_on(async {
            let (mut waited, mut longest, mut calls) = (waited(), Duration::ZERO, 0);
            let sleeps = thread_time::sleeps().unwrap_or_default();
            let (mut spent, mut last) = (Duration::ZERO, Instant::now());
            while spent < TURN {
                for client in &mut self.clients {
                    let ready = client.ready().await.expect("ready");
                    std::hint::black_box(ready.call(Request(calls)).await.expect("an answer"));
                    let now = Instant::now();
                    let mut took = now - last;
                    last = now;
                    if took > SUSPECT {
                        let wait = self::waited();
                        took = took.saturating_sub(wait - waited);
                        (waited, last) = (wait, Instant::now());
                    }
                    (spent, longest, calls) = (spent + took, longest.max(took), calls + 1);
                }
            }
            Turn {
                ns: spent.as_nanos() as f64 / calls as f64,
                longest_us: longest.as_secs_f64() * 1e6,
                sleeps: thread_time::sleeps().unwrap_or_default() - sleeps,
            }
        })
    }
}

fn waited() -> Duration {
    thread_time::kept_waiting().unwrap_or_default()
}

/// Does `work` while another thread looks at `mesh`; how often it has.
fn while_polling<T>(mesh: &Mesh, work: impl FnOnce() -> T) -> (T, u64) {
    let (stop, stopped) = channel::<()>();
    std::thread::scope(|scope| {
        let poller = scope.spawn(move || poll(mesh, &stopped));
        let result = work();
        drop(stop);
        (result, poller.join().expect("a status"))
    })
}

fn poll(mesh: &Mesh, stopped: &Receiver<()>) -> u64 {
    let mut polls = 0;
    loop {
        let began = Instant::now();
        std::hint::black_box(serde_json::to_vec(&mesh.status()).expect("a status is JSON"));
        polls += 1;
        let left = EVERY.saturating_sub(began.elapsed());
        if stopped.recv_timeout(left) == Err(RecvTimeoutError::Disconnected) {
            return polls;
        }
    }
}
