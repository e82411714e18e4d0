//! What a source has said so far, and what of it balancers are to be told.

use std::sync::Arc;
use std::time::Duration;

use tower_mesh_core::{ResolveError, Tick};

use crate::config::DiscoveryConfig;
use crate::members::{Change, Members};
use crate::policy::disappearance::Limit;
use crate::policy::retention::Retention;
use crate::set::Subscriber;
use crate::status::DiscoveryState;

pub(super) struct Known {
    pub(super) state: DiscoveryState,
    pub(super) members: Members,
    pub(super) version: u64,
    pub(super) updated_at: Option<Tick>,
    /// From when its age counts: when it was said, later by what does not count of rests.
    pub(super) ages_from: Option<Tick>,
    /// Since when it rests.
    pub(super) rests: Option<Rests>,
    pub(super) last_error: Option<Arc<ResolveError>>,
    pub(super) errors: u64,
    pub(super) subscribers: Vec<Arc<dyn Subscriber>>,
    /// Which of the members are waiting to go.
    pub(super) retention: Retention<u32>,
    /// How many of them may go at once.
    pub(super) removals: Limit,
    /// Since when there are changes that are not published, as more may follow.
    pub(super) unpublished_since: Option<Tick>,
}

pub(super) struct Rests {
    pub(super) since: Tick,
    /// The source had not answered when it was last asked: what it said before was getting older.
    pub(super) aging: bool,
}

/// What balancers are to be told.
pub(super) struct Publication {
    pub(super) version: u64,
    pub(super) members: Members,
    pub(super) subscribers: Vec<Arc<dyn Subscriber>>,
    pub(super) dead: Vec<Arc<dyn Subscriber>>,
}

impl Known {
    /// Takes a change of the members in; what is to be published of it now.
    pub(super) fn changed(
        &mut self,
        change: &Change,
        first: bool,
        now: Tick,
        config: &DiscoveryConfig,
    ) -> Option<Publication> {
        if change.is_news() || self.version == 0 {
            self.version += 1;
            if self.unpublished_since.is_none() {
                self.unpublished_since = Some(now);
            }
        }
        self.publication(first, now, config)
    }

    /// What is to be published, if there is anything and it is time, or must not wait.
    pub(super) fn publication(
        &mut self,
        at_once: bool,
        now: Tick,
        config: &DiscoveryConfig,
    ) -> Option<Publication> {
        let since = self.unpublished_since?;
        if !at_once && now.since(since) < config.merge_window() {
            return None;
        }
        self.unpublished_since = None;
        let (alive, dead) = self.subscribers.drain(..).partition(|subscriber| subscriber.is_alive());
        self.subscribers = alive;
        let subscribers = self.subscribers.clone();
        Some(Publication { version: self.version, members: self.members.clone(), subscribers, dead })
    }

    pub(super) fn absentees(&mut self, now: Tick) {
        let members = self.members.as_slice();
        let of_all = members.iter().all(|member| member.absent);
        self.retention.absent(
            members.iter().filter(|member| member.absent).map(|member| member.key),
            of_all,
            now,
        );
    }

    /// How long until something is to be done without news of the source.
    pub(super) fn wait(&self, now: Tick, config: &DiscoveryConfig) -> Option<Duration> {
        let merge =
            self.unpublished_since.map(|since| config.merge_window().saturating_sub(now.since(since)));
        let stale = self.expires_at(config).map(|at| at.since(now));
        let removal =
            self.retention.wait(now).map(|wait| wait.max(self.removals.wait(now).unwrap_or_default()));
        [merge, stale, removal].into_iter().flatten().min()
    }

    /// When what is stale is given up.
    pub(super) fn expires_at(&self, config: &DiscoveryConfig) -> Option<Tick> {
        let stale = self.state == DiscoveryState::Stale && !self.members.as_slice().is_empty();
        Some(self.ages_from.filter(|_| stale)? + config.max_stale()?)
    }
}
