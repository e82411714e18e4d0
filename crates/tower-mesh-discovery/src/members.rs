//! The endpoints that exist now, and what an update makes of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tower_mesh_core::{Endpoint, EndpointHandle, EndpointId, Reason, Update};

/// One endpoint of the set. The key stands beside the record, so that telling endpoints apart does not touch it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) key: u32,
    pub(crate) handle: EndpointHandle,
}

/// All of them, in the order in which they appeared. Replaced as a whole when membership changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members(Arc<Vec<Member>>);

/// What an update did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: usize,
    pub(crate) removed: usize,
    /// Known already, with other attributes than before.
    pub(crate) altered: usize,
    /// Announced, but over the bound and left out.
    pub(crate) over: usize,
}

impl Members {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        Self(Arc::new(members))
    }

    pub(crate) fn as_slice(&self) -> &[Member] {
        &self.0
    }

    /// Applies `update`. Endpoints that stay keep their record, with new attributes; those that go are marked as draining.
    pub(crate) fn apply(&mut self, update: Update, max: usize) -> Change {
        let (announced, reset) = match update {
            Update::Reset(all) => (all, true),
            Update::Upsert(some) => (some, false),
            Update::Remove(gone) => return self.remove(&gone.into_iter().collect()),
            Update::NotFound => (Vec::new(), true),
        };
        let mut change = Change::default();
        let mut next: Vec<Member> = if reset { Vec::new() } else { (*self.0).clone() };
        let known: HashMap<&EndpointId, &Member> =
            self.0.iter().map(|member| (member.handle.id(), member)).collect();
        let mut placed: HashMap<EndpointId, EndpointHandle> =
            next.iter().map(|member| (member.handle.id().clone(), member.handle.clone())).collect();
        for endpoint in announced {
            if let Some(handle) = placed.get(endpoint.id()) {
                change.altered += usize::from(update_attributes(handle, endpoint));
                continue;
            }
            if next.len() >= max {
                change.over += 1;
                continue;
            }
            let member = match known.get(endpoint.id()) {
                Some(&member) => {
                    change.altered += usize::from(update_attributes(&member.handle, endpoint));
                    member.clone()
                }
                None => {
                    change.added += 1;
                    let handle = EndpointHandle::new(endpoint);
                    Member { key: handle.key(), handle }
                }
            };
            placed.insert(member.handle.id().clone(), member.handle.clone());
            next.push(member);
        }
        if reset {
            for old in self.0.iter().filter(|old| !placed.contains_key(old.handle.id())) {
                old.handle.set(Reason::Draining);
                change.removed += 1;
            }
        }
        if change.added + change.removed > 0 || next.len() != self.0.len() {
            self.0 = Arc::new(next);
        }
        change
    }

    fn remove(&mut self, gone: &HashSet<EndpointId>) -> Change {
        let (go, stay): (Vec<_>, Vec<_>) =
            self.0.iter().cloned().partition(|member| gone.contains(member.handle.id()));
        for member in &go {
            member.handle.set(Reason::Draining);
        }
        if !go.is_empty() {
            self.0 = Arc::new(stay);
        }
        Change { removed: go.len(), ..Change::default() }
    }
}

/// Whether anything was new.
fn update_attributes(handle: &EndpointHandle, endpoint: Endpoint) -> bool {
    let new = *handle.endpoint() != endpoint;
    if new {
        handle.update(endpoint);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn endpoint(address: &str) -> Endpoint {
        address.parse().unwrap()
    }

    fn apply(members: &mut Members, update: Update) -> Change {
        members.apply(update, 4)
    }

    #[test]
    fn who_stays_keeps_the_record_even_with_other_attributes() {
        let mut members = Members::default();
        apply(&mut members, Update::Reset(vec![endpoint("a:1"), endpoint("b:1")]));
        let a = members.as_slice()[0].handle.clone();
        a.started();
        let heavy = endpoint("a:1").with_weight(NonZeroU32::new(5).unwrap());
        let change = apply(&mut members, Update::Reset(vec![heavy, endpoint("c:1")]));
        assert_eq!(change, Change { added: 1, removed: 1, altered: 1, over: 0 });
        let kept = &members.as_slice()[0].handle;
        assert_eq!((kept.key(), kept.counts().started, kept.endpoint().weight().get()), (a.key(), 1, 5));
    }

    #[test]
    fn who_goes_is_draining_and_who_comes_twice_is_one() {
        let mut members = Members::default();
        apply(&mut members, Update::Upsert(vec![endpoint("a:1"), endpoint("a:1"), endpoint("b:1")]));
        assert_eq!(members.as_slice().len(), 2);
        let a = members.as_slice()[0].handle.clone();
        let change = apply(&mut members, Update::Remove(vec![a.id().clone(), "never:1".parse().unwrap()]));
        assert_eq!(change, Change { removed: 1, ..Change::default() });
        assert!(a.availability().contains(Reason::Draining));
        apply(&mut members, Update::NotFound);
        assert!(members.as_slice().is_empty());
    }

    #[test]
    fn the_set_is_bounded_and_what_is_over_is_told() {
        let mut members = Members::default();
        let many = (0..6).map(|i| endpoint(&format!("e:{i}"))).collect();
        assert_eq!(
            apply(&mut members, Update::Reset(many)),
            Change { added: 4, over: 2, ..Change::default() }
        );
    }
}
