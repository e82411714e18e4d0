//! The name of what a call does, as one small number.

use std::collections::HashMap;
use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock};

/// The name of an operation, interned for the life of the process: policies and reports go by it, and every call can carry it at no cost.
///
/// The names of a program are few. After [`Operation::MAX`] different ones (somebody takes user input for names) all further ones are
/// [`Operation::OTHER`], so that neither this table nor a metric label can grow without bound.
///
/// ```
/// use tower_mesh_core::Operation;
/// let query = Operation::named("query");
/// assert_eq!(query, Operation::named("query"));
/// assert_eq!(query.as_str(), "query");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation(u16);

impl Operation {
    /// How many different names are told apart.
    pub const MAX: usize = 10_000;
    /// What a name over the bound becomes; shown as `other`.
    pub const OTHER: Self = Self(0);
    const MAX_LEN: usize = 128;

    /// The operation called `name`, of which the first 128 bytes count.
    pub fn named(name: &str) -> Self {
        let name = &name[..whole_chars(name, Self::MAX_LEN)];
        if let Some(&known) = names().read().unwrap_or_else(PoisonError::into_inner).ids.get(name) {
            return known;
        }
        let mut names = names().write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = names.ids.get(name) {
            return known;
        }
        if names.texts.len() >= Self::MAX {
            return Self::OTHER;
        }
        // Leaked once per name, of which there are at most MAX.
        let text: &'static str = Box::leak(name.into());
        let operation = Self(names.texts.len() as u16);
        names.texts.push(text);
        names.ids.insert(text, operation);
        operation
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        names().read().unwrap_or_else(PoisonError::into_inner).texts[usize::from(self.0)]
    }
}

struct Names {
    texts: Vec<&'static str>,
    ids: HashMap<&'static str, Operation>,
}

fn names() -> &'static RwLock<Names> {
    static NAMES: OnceLock<RwLock<Names>> = OnceLock::new();
    NAMES.get_or_init(|| {
        RwLock::new(Names { texts: vec!["other"], ids: HashMap::from([("other", Operation::OTHER)]) })
    })
}

/// The end of the longest part of `text` that has at most `max` bytes and whole characters.
fn whole_chars(text: &str, max: usize) -> usize {
    (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operation({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_length() {
        let long = "ü".repeat(200);
        assert_eq!(Operation::named(&long).as_str().len(), 128);
        for i in 0..2 * Operation::MAX {
            Operation::named(&format!("op-{i}"));
        }
        assert_eq!(Operation::named("one more"), Operation::OTHER);
        assert_eq!(Operation::named("op-1").as_str(), "op-1");
        assert_eq!(Operation::OTHER.to_string(), "other");
    }
}
