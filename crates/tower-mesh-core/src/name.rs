//! The name of a service: what a caller asks for, before anybody knows where it lives.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A validated service name, cheap to clone.
///
/// One to 253 characters out of ASCII letters, digits, `-`, `_`, `.`, `:` and `/`, beginning and ending with a letter or a
/// digit: wide enough for DNS names, `namespace/service` and `grpc.package.Service`, narrow enough to be a
/// metric label and a path segment in a status page.
///
/// ```
/// use tower_mesh_core::ServiceName;
/// let users: ServiceName = "users.internal".parse()?;
/// assert_eq!(users.as_str(), "users.internal");
/// assert!("two words".parse::<ServiceName>().is_err());
/// # Ok::<(), tower_mesh_core::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name accepted, in bytes.
    pub const MAX_LEN: usize = 253;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
        if name.len() <= Self::MAX_LEN
            && edge(name.chars().next())
            && edge(name.chars().last())
            && name.chars().all(inner)
        {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName { found: name.chars().take(64).collect() })
        }
    }
}

impl TryFrom<&str> for ServiceName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceName({:?})", &*self.0)
    }
}

/// A text that cannot be a [`ServiceName`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    found: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid service name {:?}: allowed are 1 to {} ASCII letters, digits and - _ . : / between a letter or digit at each end",
            self.found,
            ServiceName::MAX_LEN
        )
    }
}

impl std::error::Error for InvalidName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_both_ends_and_in_between() {
        for good in ["a", "users", "ns/users", "users.internal:8080", "grpc.pkg.Svc", "a-b_c"] {
            assert_eq!(good.parse::<ServiceName>().unwrap().to_string(), good);
        }
        let long = "a".repeat(ServiceName::MAX_LEN + 1);
        for bad in ["", ".", "-a", "a-", "two words", "ünïcode", "a\nb", &long] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }
}
