//! What goes wrong, and when.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tower_mesh::core::BoxError;
use tower_mesh::discovery::FixedList;
use tower_mesh_examples::{Backend, Mood};

use crate::watch::Watch;

/// One thing that goes wrong with one server.
struct Fault {
    name: &'static str,
    /// Which server.
    backend: usize,
    /// From when to when, in percent of the run.
    from: u32,
    to: u32,
    kind: Kind,
}

enum Kind {
    Mood(Mood),
    /// It dies, and another appears on another port.
    Replaced,
}

const FAULTS: [Fault; 4] = [
    Fault { name: "answers 503", backend: 1, from: 10, to: 25, kind: Kind::Mood(Mood::Failing) },
    Fault { name: "100 times slower", backend: 2, from: 30, to: 45, kind: Kind::Mood(Mood::Slow) },
    Fault { name: "never answers", backend: 3, from: 50, to: 65, kind: Kind::Mood(Mood::Hanging) },
    Fault { name: "killed, replaced", backend: 4, from: 70, to: 80, kind: Kind::Replaced },
];

/// The faults of one run, one after the other.
pub(crate) struct Schedule {
    began: Instant,
    length: Duration,
}

impl Schedule {
    pub(crate) fn new(length: Duration) -> Self {
        Self { began: Instant::now(), length }
    }

    /// Makes things go wrong and right again, and tells `watch` when.
    pub(crate) async fn run(
        self,
        backends: &mut [Backend],
        list: &FixedList,
        watch: &Watch,
    ) -> Result<(), BoxError> {
        for fault in FAULTS {
            self.reach(fault.from).await;
            let backend = &mut backends[fault.backend];
            let bad = backend.endpoint().id().clone();
            watch.begin(fault.name, bad.clone());
            match fault.kind {
                Kind::Mood(mood) => {
                    backend.set_mood(mood);
                    self.reach(fault.to).await;
                    backend.set_mood(Mood::Well);
                    watch.recover(bad);
                }
                Kind::Replaced => {
                    // The replacement is there, but nobody knows of it until discovery says so. Assigning it kills the old one.
                    *backend = Backend::start().await?;
                    self.reach(fault.to).await;
                    watch.recover(backend.endpoint().id().clone());
                    list.upsert(backend.endpoint());
                    list.remove(&bad);
                }
            }
        }
        self.reach(100).await;
        Ok(())
    }

    async fn reach(&self, percent: u32) {
        sleep_until(self.began + self.length * percent / 100).await;
    }
}
