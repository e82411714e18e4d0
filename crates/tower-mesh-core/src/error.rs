//! Errors: one leaf struct per reason, found wherever it lies.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::classify::{Retry, Verdict};

/// The error type of every layer: any error, boxed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Finds the first `E` along the whole source chain of `error`.
///
/// Unlike a plain walk over `source()` it also looks into boxed and shared errors (`Box<E>`, `Arc<dyn Error + Send + Sync>`) and into the
/// error that an [`std::io::Error`] carries, which `source()` skips.
///
/// ```
/// use tower_mesh_core::{BoxError, error};
/// let io = std::io::Error::other(std::fmt::Error);
/// let error: BoxError = Box::new(io);
/// assert!(error::find::<std::fmt::Error>(&*error).is_some());
/// ```
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a E> {
    find_in(error)
}

/// As [`find`], for an error that need not be [`Send`].
pub fn find_in<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    /// Longer chains than this are taken for loops.
    const MAX_DEPTH: usize = 64;

    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let error = next?;
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // Box<E> and Arc<dyn Error> answer source() for their content and so skip the content itself.
        if let Some(boxed) = error.downcast_ref::<Box<E>>() {
            return Some(boxed);
        } else if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            next = Some(&**shared);
        } else if let Some(io) = error.downcast_ref::<std::io::Error>() {
            next = match io.get_ref() {
                Some(inner) => Some(inner),
                None => io.source(),
            };
        } else {
            next = error.source();
        }
    }
    None
}

/// The verdict that an error of our own carries as its source, so that every layer above judges it alike and no
/// user's classifier is asked about it. What caused the error, if anything did, comes after it in the chain.
///
/// A leaf error such as `CircuitOpen` answers this from `source()`. Outsiders' layers may do the same.
#[derive(Debug)]
pub struct Judged {
    verdict: Verdict,
    cause: Option<BoxError>,
}

impl Judged {
    /// Carries `verdict`.
    pub const fn new(verdict: Verdict) -> Self {
        Self { verdict, cause: None }
    }

    /// Carries `verdict` in front of `cause`, whatever verdict that may carry.
    pub fn because(verdict: Verdict, cause: impl Into<BoxError>) -> Self {
        Self { verdict, cause: Some(cause.into()) }
    }

    /// The verdict.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What caused the error, if anything did.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.cause.as_deref()
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict.retry {
            Retry::Never | Retry::Forbidden => "not to be sent again",
            Retry::IfIdempotent => "may be sent again if it is idempotent",
            Retry::NotProcessed => "was not processed",
        })
    }
}

impl Error for Judged {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// A configuration that cannot be: every mistake in it, each with its field, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidConfig {
    mistakes: Vec<Mistake>,
}

impl InvalidConfig {
    /// `Ok` if there are no mistakes.
    ///
    /// # Errors
    /// When there is any.
    pub fn check(mistakes: Vec<Mistake>) -> Result<(), Self> {
        if mistakes.is_empty() { Ok(()) } else { Err(Self { mistakes }) }
    }

    /// The mistakes, in the order in which they were found.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid configuration: ")?;
        for (i, mistake) in self.mistakes.iter().enumerate() {
            write!(f, "{}{mistake}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Error for InvalidConfig {}

/// Collects the mistakes of a configuration, so that all are told at once.
///
/// ```
/// use tower_mesh_core::error::{InvalidConfig, Mistakes};
/// fn checked(port: u16, share: f64) -> Result<(u16, f64), InvalidConfig> {
///     let mut mistakes = Mistakes::default();
///     mistakes.unless(port != 0, "port", port, "1 to 65535");
///     mistakes.within("share", share, 0.0..=1.0, "0 to 1");
///     mistakes.finish((port, share))
/// }
/// assert!(checked(80, 0.5).is_ok());
/// assert_eq!(checked(0, f64::NAN).unwrap_err().mistakes().len(), 2);
/// ```
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Adds a mistake in `field` unless it is `right`.
    pub fn unless(&mut self, right: bool, field: &str, found: impl fmt::Display, allowed: &str) {
        if !right {
            self.0.push(Mistake::new(field, found, allowed));
        }
    }

    /// Adds a mistake in `field` unless `found` lies in `range`.
    pub fn within<T>(&mut self, field: &str, found: T, range: RangeInclusive<T>, allowed: &str)
    where
        T: Copy + PartialOrd + fmt::Debug,
    {
        self.unless(range.contains(&found), field, format_args!("{found:?}"), allowed);
    }

    /// `config`, if there are no mistakes.
    ///
    /// # Errors
    /// When there is any.
    pub fn finish<T>(self, config: T) -> Result<T, InvalidConfig> {
        InvalidConfig::check(self.0).map(|()| config)
    }
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    field: String,
    found: String,
    allowed: String,
}

impl Mistake {
    /// A mistake in `field`, where `found` stood and `allowed` would have been right.
    pub fn new(field: impl Into<String>, found: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self { field: field.into(), found: found.to_string(), allowed: allowed.into() }
    }

    /// The same mistake, seen from a level further out: its field becomes `path.field`.
    pub fn under(mut self, path: &str) -> Self {
        self.field = format!("{path}.{}", self.field);
        self
    }

    /// The path to the field.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What stood there.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What may stand there.
    pub fn allowed(&self) -> &str {
        &self.allowed
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, allowed is {}", self.field, self.found, self.allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Leaf;
    impl fmt::Display for Leaf {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("leaf")
        }
    }
    impl Error for Leaf {}

    #[test]
    fn find_looks_through_boxes_and_io_errors_in_any_nesting() {
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(Box::new(Leaf));
        let io = std::io::Error::other(shared);
        let twice = std::io::Error::other(io);
        let error: BoxError = Box::new(twice);
        assert!(
            error.source().and_then(|source| source.downcast_ref::<Leaf>()).is_none(),
            "source() alone misses it"
        );
        assert!(find::<Leaf>(&*error).is_some());
        assert!(find::<fmt::Error>(&*error).is_none());
    }

    #[test]
    fn a_chain_that_is_a_loop_ends() {
        #[derive(Debug)]
        struct Loop;
        impl fmt::Display for Loop {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("loop")
            }
        }
        impl Error for Loop {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert!(find::<Leaf>(&Loop).is_none());
    }
}
