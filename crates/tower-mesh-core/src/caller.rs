//! Who makes a call, as one small number.

use std::fmt;

use crate::interned::Names;

/// Who makes a call, by name: what authorization goes by. Interned for the life of the process, as an [`Operation`](crate::Operation) is, with the same
/// bounds; names beyond them are [`Caller::OTHER`], which no list can name.
///
/// ```
/// use tower_mesh_core::{CallContext, Caller};
/// let mut call = CallContext::new().with_caller(Caller::named("billing"));
/// call.lend(|| assert_eq!(CallContext::with(|call| call.caller()), Some(Some(Caller::named("billing")))));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(u16);

impl Caller {
    /// What a name over the bound becomes; shown as `other`.
    pub const OTHER: Self = Self(0);

    /// The caller called `name`. One of more than 128 bytes is [`OTHER`](Self::OTHER): two long names that begin alike must not be taken for one another.
    pub fn named(name: &str) -> Self {
        if name.len() > Names::MAX_LEN {
            return Self::OTHER;
        }
        Self(NAMES.intern(name))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        NAMES.text(self.0)
    }
}

static NAMES: Names = Names::new();

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_begin_alike_are_no_one_that_a_list_can_name() {
        let long = "a".repeat(128);
        assert_eq!(Caller::named(&long).as_str(), long);
        assert_eq!(Caller::named(&format!("{long}b")), Caller::OTHER);
    }
}
