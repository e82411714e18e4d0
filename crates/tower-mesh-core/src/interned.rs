//! Names as small numbers, for the life of the process.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// A bounded table of names. Number 0 is `other`: what all names are once the table is full.
pub(crate) struct Names(RwLock<Table>);

struct Table {
    /// Without the first, `other`.
    texts: Vec<&'static str>,
    ids: Option<HashMap<&'static str, u16>>,
}

impl Names {
    /// How many different names there can be, `other` included.
    pub(crate) const MAX: usize = 10_000;
    pub(crate) const MAX_LEN: usize = 128;
    const OTHER: &'static str = "other";

    pub(crate) const fn new() -> Self {
        Self(RwLock::new(Table { texts: Vec::new(), ids: None }))
    }

    /// The number of `name`, of which the first 128 bytes count.
    pub(crate) fn intern(&self, name: &str) -> u16 {
        let name = &name[..whole_chars(name, Self::MAX_LEN)];
        if name == Self::OTHER {
            return 0;
        }
        // A full table knows every name: those that are not in it are all the same.
        let known = |table: &Table| {
            let known = table.ids.as_ref().and_then(|ids| ids.get(name).copied());
            known.or((table.texts.len() + 1 >= Self::MAX).then_some(0))
        };
        if let Some(known) = known(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return known;
        }
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&table) {
            return known;
        }
        // Leaked once per name, of which there are at most MAX.
        let text: &'static str = Box::leak(name.into());
        table.texts.push(text);
        let number = table.texts.len() as u16;
        table.ids.get_or_insert_default().insert(text, number);
        number
    }

    pub(crate) fn text(&self, number: u16) -> &'static str {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        usize::from(number).checked_sub(1).map_or(Self::OTHER, |at| table.texts[at])
    }
}

/// The longest prefix of `text` that ends with a whole character and has at most `max` bytes.
fn whole_chars(text: &str, max: usize) -> usize {
    (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}
