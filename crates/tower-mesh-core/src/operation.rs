//! The name of what a call does, as one small number.

use std::fmt;

use crate::interned::Names;

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
    pub const MAX: usize = Names::MAX;
    /// What a name over the bound becomes; shown as `other`.
    pub const OTHER: Self = Self(0);

    /// The operation called `name`, of which the first 128 bytes count.
    pub fn named(name: &str) -> Self {
        Self(NAMES.intern(name))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        NAMES.text(self.0)
    }
}

static NAMES: Names = Names::new();

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
