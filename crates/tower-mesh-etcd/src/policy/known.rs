//! What is known of the keys of one service, and what changes of it are to be said.

use std::collections::BTreeMap;

use tower_mesh_core::{Endpoint, EndpointId, Update};

use crate::error::{EtcdError, EtcdErrorKind};
use crate::key;

/// What happened to a key, by its last part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    Put(&'a str, &'a [u8]),
    Delete(&'a str),
}

/// What is to be said, mistakes first: what comes after them says that the source is well.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) errors: Vec<EtcdError>,
    pub(crate) updates: Vec<Update>,
}

/// The keys there are, each with the last good endpoint that stood there.
#[derive(Debug)]
pub(crate) struct Known {
    prefix: String,
    max: usize,
    keys: BTreeMap<String, Option<Endpoint>>,
    /// Some keys did not fit.
    over: bool,
}

impl Known {
    pub(crate) fn new(prefix: String, max: usize) -> Self {
        Self { prefix, max, keys: BTreeMap::new(), over: false }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// These are all keys there are; `more`: but for some that were not read.
    pub(crate) fn list<'a>(
        &mut self,
        all: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        more: bool,
    ) -> News {
        let mut news = News::default();
        let mut before = std::mem::take(&mut self.keys);
        self.over = more;
        for (part, value) in all {
            if self.is_foreign(part) {
                continue;
            }
            if self.keys.len() == self.max {
                self.over = true;
                break;
            }
            let last = before.remove(part).flatten();
            let endpoint = self.read(part, value, &mut news).or(last);
            self.keys.insert(part.to_owned(), endpoint);
        }
        if self.over {
            news.errors.push(self.too_many());
        }
        news.updates.push(Update::Reset(self.keys.values().flatten().cloned().collect()));
        news
    }

    /// These things happened since; and whether all keys must be listed again, as one that was left out may fit now.
    pub(crate) fn events<'a>(&mut self, events: impl IntoIterator<Item = Event<'a>>) -> (News, bool) {
        let mut news = News::default();
        let (mut put, mut gone) = (BTreeMap::new(), BTreeMap::<&str, EndpointId>::new());
        let mut relist = false;
        for event in events {
            match event {
                Event::Put(part, _) | Event::Delete(part) if self.is_foreign(part) => {}
                Event::Put(part, _) if !self.keys.contains_key(part) && self.keys.len() == self.max => {
                    self.over = true;
                    news.errors.push(self.too_many());
                }
                Event::Put(part, value) => {
                    let endpoint = self.read(part, value, &mut news);
                    let known = self.keys.entry(part.to_owned()).or_default();
                    if let Some(endpoint) = endpoint {
                        *known = Some(endpoint.clone());
                        put.insert(part, endpoint);
                        gone.remove(part);
                    }
                }
                Event::Delete(part) => {
                    put.remove(part);
                    if let Some(endpoint) = self.keys.remove(part).flatten() {
                        gone.insert(part, endpoint.id().clone());
                    }
                    relist |= self.over;
                }
            }
        }
        if !gone.is_empty() {
            news.updates.push(Update::Remove(gone.into_values().collect()));
        }
        // After a mistake even an empty one: it says that the source is well.
        if !put.is_empty() || (news.updates.is_empty() && !news.errors.is_empty()) {
            news.updates.push(Update::Upsert(put.into_values().collect()));
        }
        (news, relist)
    }

    /// The service's name goes on: it is a key of another.
    fn is_foreign(&self, part: &str) -> bool {
        part.contains('/')
    }

    fn read(&self, part: &str, value: &[u8], news: &mut News) -> Option<Endpoint> {
        match key::read(part, value) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                let key = format!("{}{part}", self.prefix);
                news.errors.push(EtcdError::new(key, EtcdErrorKind::WrongValue, error));
                None
            }
        }
    }

    fn too_many(&self) -> EtcdError {
        let why = format!("more than {} endpoints; the others are left out", self.max);
        EtcdError::new(&self.prefix, EtcdErrorKind::TooMany, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(max: usize, all: &[(&str, &str)]) -> (Known, News) {
        let mut known = Known::new("/services/users/".into(), max);
        let news = known.list(all.iter().map(|(part, value)| (*part, value.as_bytes())), false);
        (known, news)
    }

    fn shown(news: &News) -> Vec<String> {
        let endpoints = |all: &[Endpoint]| {
            all.iter().map(|e| format!("{}@{}", e.id(), e.address())).collect::<Vec<_>>().join(" ")
        };
        let errors = news.errors.iter().map(|error| format!("{:?} {}", error.kind(), error.key()));
        let updates = news.updates.iter().map(|update| match update {
            Update::Reset(all) => format!("= {}", endpoints(all)),
            Update::Upsert(some) => format!("+ {}", endpoints(some)),
            Update::Remove(ids) => {
                format!("- {}", ids.iter().map(EndpointId::as_str).collect::<Vec<_>>().join(" "))
            }
            Update::NotFound => "none".into(),
        });
        errors.chain(updates).collect()
    }

    #[test]
    fn a_wrong_value_leaves_the_last_good_one_of_its_key_and_touches_no_other() {
        let (mut known, news) = begun(9, &[("a", r#""a:1""#), ("b", "oops"), ("c", r#""c:1""#)]);
        assert_eq!(shown(&news), ["WrongValue /services/users/b", "= a@a:1 c@c:1"]);
        let (news, _) = known.events([Event::Put("a", b"oops"), Event::Put("c", br#""c:2""#)]);
        assert_eq!(shown(&news), ["WrongValue /services/users/a", "+ c@c:2"]);
        // Nothing but a mistake: the source is well all the same.
        let (news, _) = known.events([Event::Put("c", b"{}")]);
        assert_eq!(shown(&news), ["WrongValue /services/users/c", "+ "]);
        let again = known.list([("a", b"oops".as_slice()), ("c", b"{}"), ("b", br#""b:1""#)], false);
        assert_eq!(shown(&again).last().unwrap(), "= a@a:1 b@b:1 c@c:2");
        let (news, _) = known.events([Event::Delete("a")]);
        assert_eq!(shown(&news), ["- a"]);
        let (news, _) = known.events([Event::Put("a", b"oops")]);
        assert_eq!(shown(&news)[1..], ["+ "], "what was deleted is not good any more");
    }

    #[test]
    fn of_several_events_of_a_key_the_last_one_counts() {
        let (mut known, _) = begun(9, &[("a", r#""a:1""#), ("b", r#""b:1""#)]);
        let (news, _) = known.events([
            Event::Delete("a"),
            Event::Put("a", br#""a:2""#),
            Event::Put("b", br#""b:2""#),
            Event::Delete("b"),
            Event::Delete("never"),
        ]);
        assert_eq!(shown(&news), ["- b", "+ a@a:2"]);
    }

    #[test]
    fn what_is_over_the_bound_is_left_out_told_and_looked_for_when_there_is_room() {
        let (mut known, news) = begun(2, &[("a", r#""a:1""#), ("b", r#""b:1""#), ("c", r#""c:1""#)]);
        assert_eq!(shown(&news), ["TooMany /services/users/", "= a@a:1 b@b:1"]);
        let (news, relist) = known.events([Event::Put("d", br#""d:1""#), Event::Put("a", br#""a:2""#)]);
        assert_eq!((shown(&news).last().unwrap().as_str(), relist), ("+ a@a:2", false));
        assert!(known.events([Event::Delete("a")]).1);
        let (mut whole, _) = begun(2, &[("a", r#""a:1""#)]);
        assert!(!whole.events([Event::Delete("a")]).1);
    }

    #[test]
    fn keys_of_a_service_whose_name_goes_on_are_not_ours() {
        let (mut known, news) = begun(9, &[("a", r#""a:1""#), ("v2/b", r#""b:1""#)]);
        assert_eq!(shown(&news), ["= a@a:1"]);
        let (news, _) = known.events([Event::Put("v2/b", b"oops"), Event::Delete("v2/c")]);
        assert!(news.errors.is_empty() && news.updates.is_empty());
    }
}
