//! The endpoints that exist now, and what an update makes of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tower_mesh_core::{Endpoint, EndpointHandle, EndpointId, Reason, Update};

/// One endpoint of the set. The key stands beside the record, so that telling endpoints apart does not touch it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) key: u32,
    /// How often it has moved: a service made for another address of this record is not this one's.
    pub(crate) moves: u16,
    /// The source no longer names it, but it may not go yet.
    pub(crate) absent: bool,
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
    /// Stayed, but at another address.
    pub(crate) moved: usize,
    /// Known already, with other attributes than before.
    pub(crate) altered: usize,
    /// Announced, but over the bound and left out.
    pub(crate) over: usize,
    /// Stayed, but is named again or no longer.
    pub(crate) marked: usize,
}

impl Change {
    /// Whether anything is other than before: services must be made or dropped, or the plan of picks made anew.
    pub(crate) fn is_news(&self) -> bool {
        self.added + self.removed + self.moved + self.altered > 0
    }

    fn count(&mut self, updated: Updated) {
        self.moved += usize::from(updated.moved);
        self.altered += usize::from(updated.altered);
    }
}

/// What an update did to one member.
#[derive(Clone, Copy)]
struct Updated {
    altered: bool,
    moved: bool,
}

impl Member {
    fn new(endpoint: Endpoint) -> Self {
        let handle = EndpointHandle::new(endpoint);
        Self { key: handle.key(), moves: 0, absent: false, handle }
    }

    /// Gives it the attributes of `endpoint`, which the source names.
    fn update(&mut self, endpoint: Endpoint) -> Updated {
        self.absent = false;
        let before = self.handle.endpoint();
        if *before == endpoint {
            return Updated { altered: false, moved: false };
        }
        let moved = before.address() != endpoint.address();
        self.handle.update(endpoint);
        self.moves = self.moves.wrapping_add(moved.into());
        Updated { altered: true, moved }
    }

    /// Whether a service made for `other` serves this one too.
    pub(crate) fn is_served_as(&self, other: &Self) -> bool {
        (self.key, self.moves) == (other.key, other.moves)
    }
}

impl Members {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        Self(Arc::new(members))
    }

    pub(crate) fn as_slice(&self) -> &[Member] {
        &self.0
    }

    /// Applies `update`. Endpoints that stay keep their record, with new attributes; those that go are marked as draining, or, if they are held, stay
    /// as absent as far as there is room.
    pub(crate) fn apply(&mut self, update: Update, max: usize, held: bool) -> Change {
        let (announced, reset) = match update {
            Update::Reset(all) => (all, true),
            Update::Upsert(some) => (some, false),
            Update::Remove(gone) => return self.remove(&gone.into_iter().collect(), held),
            Update::NotFound => (Vec::new(), true),
        };
        let mut change = Change::default();
        let mut next: Vec<Member> = if reset { Vec::new() } else { (*self.0).clone() };
        let known: HashMap<&EndpointId, &Member> =
            self.0.iter().map(|member| (member.handle.id(), member)).collect();
        let mut placed: HashMap<EndpointId, usize> =
            next.iter().enumerate().map(|(i, member)| (member.handle.id().clone(), i)).collect();
        for endpoint in announced {
            if let Some(&i) = placed.get(endpoint.id()) {
                change.marked += usize::from(next[i].absent);
                change.count(next[i].update(endpoint));
                continue;
            }
            if next.len() >= max {
                change.over += 1;
                continue;
            }
            let member = match known.get(endpoint.id()) {
                Some(&member) => {
                    let mut member = member.clone();
                    change.marked += usize::from(member.absent);
                    change.count(member.update(endpoint));
                    member
                }
                None => {
                    change.added += 1;
                    Member::new(endpoint)
                }
            };
            placed.insert(member.handle.id().clone(), next.len());
            next.push(member);
        }
        if reset {
            for old in self.0.iter().filter(|old| !placed.contains_key(old.handle.id())) {
                if held && next.len() < max {
                    change.marked += usize::from(!old.absent);
                    next.push(Member { absent: true, ..old.clone() });
                } else {
                    old.handle.set(Reason::Draining);
                    change.removed += 1;
                }
            }
        }
        if change.is_news() || change.marked > 0 {
            self.0 = Arc::new(next);
        }
        change
    }

    fn remove(&mut self, gone: &HashSet<EndpointId>, held: bool) -> Change {
        let is_gone = |member: &Member| gone.contains(member.handle.id());
        if !held {
            return self.evict(is_gone);
        }
        let marked = self.0.iter().filter(|member| is_gone(member) && !member.absent).count();
        if marked > 0 {
            let mark =
                |member: &Member| Member { absent: member.absent || is_gone(member), ..member.clone() };
            self.0 = Arc::new(self.0.iter().map(mark).collect());
        }
        Change { marked, ..Change::default() }
    }

    /// Takes out those who must go, as draining.
    pub(crate) fn evict(&mut self, goes: impl Fn(&Member) -> bool) -> Change {
        let (go, stay): (Vec<_>, Vec<_>) = self.0.iter().cloned().partition(goes);
        for member in &go {
            member.handle.set(Reason::Draining);
        }
        if !go.is_empty() {
            self.0 = Arc::new(stay);
        }
        Change { removed: go.len(), ..Change::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn endpoint(address: &str) -> Endpoint {
        address.parse().unwrap()
    }

    fn apply(members: &mut Members, update: Update) -> Change {
        members.apply(update, 4, false)
    }

    #[test]
    fn who_stays_keeps_the_record_even_with_other_attributes() {
        let mut members = Members::default();
        apply(&mut members, Update::Reset(vec![endpoint("a:1"), endpoint("b:1")]));
        let a = members.as_slice()[0].handle.clone();
        a.started();
        let heavy = endpoint("a:1").with_weight(NonZeroU32::new(5).unwrap());
        let change = apply(&mut members, Update::Reset(vec![heavy, endpoint("c:1")]));
        assert_eq!(change, Change { added: 1, removed: 1, altered: 1, ..Change::default() });
        let kept = &members.as_slice()[0].handle;
        assert_eq!((kept.key(), kept.counts().started, kept.endpoint().weight().get()), (a.key(), 1, 5));
    }

    #[test]
    fn a_member_is_two_words_as_every_pick_reads_some() {
        assert_eq!(size_of::<Member>(), 8 + size_of::<usize>());
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
    fn who_moves_keeps_the_record_and_is_told_apart_from_before() {
        let mut members = Members::default();
        let named = |address: &str| endpoint(address).with_id("pod".parse().unwrap());
        apply(&mut members, Update::Reset(vec![named("a:1")]));
        let before = members.as_slice()[0].clone();
        for update in [Update::Upsert(vec![named("a:2")]), Update::Reset(vec![named("a:3")])] {
            let earlier = members.as_slice()[0].clone();
            assert_eq!(
                apply(&mut members, update.clone()),
                Change { moved: 1, altered: 1, ..Change::default() }
            );
            assert!(!members.as_slice()[0].is_served_as(&earlier));
            assert_eq!(apply(&mut members, update), Change::default(), "said again, nothing moves");
        }
        let now = &members.as_slice()[0];
        assert_eq!((now.key, now.handle.endpoint().address()), (before.key, "a:3"));
    }

    #[test]
    fn who_is_held_stays_as_absent_and_is_itself_when_named_again() {
        let mut members = Members::default();
        let all = || vec![endpoint("a:1"), endpoint("b:1"), endpoint("c:1")];
        members.apply(Update::Reset(all()), 4, true);
        let absent = |members: &Members| -> Vec<String> {
            members
                .as_slice()
                .iter()
                .filter(|member| member.absent)
                .map(|member| member.handle.id().to_string())
                .collect()
        };
        let change = members.apply(Update::Reset(vec![endpoint("b:1")]), 4, true);
        assert_eq!(
            (change, absent(&members)),
            (Change { marked: 2, ..Change::default() }, vec!["a:1".into(), "c:1".into()])
        );
        members.apply(Update::Remove(vec!["b:1".parse().unwrap()]), 4, true);
        let change = members.apply(Update::Upsert(all()), 4, true);
        assert_eq!((change.marked, change.added, absent(&members).len()), (3, 0, 0));
        assert!(
            members.as_slice().iter().all(|member| member.handle.availability().reasons().next().is_none())
        );
        let full = ["x:1", "y:1", "z:1"].map(endpoint);
        let change = members.apply(Update::Reset(full.to_vec()), 4, true);
        assert_eq!((change.removed, members.as_slice().len()), (2, 4), "newcomers come first");
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
