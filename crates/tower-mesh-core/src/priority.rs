//! How much a call matters when not all can be served.

use std::fmt;

/// How much a call matters: who goes first, and who is refused first, where there is not room for all.
///
/// It says nothing of how fast a call must be (a deadline does), and nothing while there is room. A caller states it in the [`CallContext`](crate::CallContext), and
/// what that call makes of calls inside it inherits. The steps are those of criticality in Google's *Site Reliability Engineering*, of which the middle two are one here.
///
/// ```
/// use tower_mesh_core::{CallContext, Priority};
/// let mut call = CallContext::new().with_priority(Priority::Critical);
/// assert_eq!(call.lend(CallContext::priority_now), Priority::Critical);
/// assert!(Priority::Critical > Priority::Normal && Priority::Normal > Priority::Sheddable);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Nobody waits for it, and it will be done again later: batch work, warming a cache.
    Sheddable,
    /// As most are.
    #[default]
    Normal,
    /// Somebody notices at once if it fails.
    Critical,
}

impl Priority {
    /// Each with its name, the lowest first.
    pub const ALL: [(&'static str, Self); 3] =
        [("sheddable", Self::Sheddable), ("normal", Self::Normal), ("critical", Self::Critical)];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallContext, CallOptions};

    #[test]
    fn names_stand_in_the_order_of_the_steps() {
        for (name, priority) in Priority::ALL {
            assert_eq!(priority.to_string(), name);
        }
        assert!(Priority::ALL.is_sorted_by_key(|(_, priority)| *priority));
    }

    #[test]
    fn what_a_call_makes_of_calls_is_as_important_as_the_call() {
        for mut outer in [CallContext::new(), CallContext::around_calls()] {
            outer = outer.with_priority(Priority::Sheddable);
            assert_eq!(outer.lend(|| CallContext::inherit().priority()), Priority::Sheddable);
            assert_eq!(outer.beside().priority(), Priority::Sheddable);
        }
        assert_eq!(CallContext::priority_now(), Priority::Normal, "nothing is lent");
        let options = CallOptions::new().priority(Priority::Sheddable);
        let call = CallContext::new().with_options(options);
        assert_eq!(call.priority(), Priority::Sheddable);
        assert_eq!(call.with_priority(Priority::Critical).priority(), Priority::Critical);
    }
}
