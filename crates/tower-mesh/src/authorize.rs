//! Who may call what, decided before anything is sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use tower_mesh_core::{CallContext, Caller, Operation, ServiceName};

use crate::error::{Error, ErrorKind};
use crate::events::{EventKind, Publisher};

/// Decides whether a call may be made. A closure is one too.
///
/// It is asked on the call path, by many threads at once, before anything is sent, and of a [call by name](crate::Mesh::call) by the service as well: it should
/// neither wait nor allocate. What needs to ask somebody else keeps their answers at hand.
///
/// ```
/// use tower_mesh::authorize::{Asked, Decision};
/// let office_hours = |asked: &Asked<'_>| match asked.caller {
///     Some(caller) if caller.as_str() == "billing" => Decision::Allow,
///     _ => Decision::deny("only billing calls this"),
/// };
/// let mesh = tower_mesh::Mesh::builder().authorizer(office_hours);
/// # drop(mesh);
/// ```
pub trait Authorize: Send + Sync + 'static {
    /// Whether the call may be made.
    fn authorize(&self, asked: &Asked<'_>) -> Decision;
}

impl<F> Authorize for F
where
    F: Fn(&Asked<'_>) -> Decision + Send + Sync + 'static,
{
    fn authorize(&self, asked: &Asked<'_>) -> Decision {
        self(asked)
    }
}

/// A call that somebody wants to make.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// The service to be called.
    pub service: &'a ServiceName,
    /// What it is to do, if the call says.
    pub operation: Option<Operation>,
    /// Who calls: what the [`CallContext`] says, or else the mesh's own `identity`, if it has one.
    pub caller: Option<Caller>,
}

/// Whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not, and why: for the operator, not for the caller.
    Deny(Cow<'static, str>),
}

impl Decision {
    /// It may not, for this reason.
    pub fn deny(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Deny(why.into())
    }
}

/// Who may call which operations of one service. Nobody else may call anything.
///
/// Names of callers and operations are as they are, or end with `*`, which stands for any end. A call that says no operation is one for which `*` alone is
/// enough, and a caller that is not known is one of `*`.
///
/// ```
/// use tower_mesh::authorize::AllowList;
/// let list = AllowList::new().allow("gateway", ["get", "list-*"]).allow("*", ["health"]);
/// assert!(list.allows(Some("gateway"), Some("list-all")));
/// assert!(list.allows(None, Some("health")) && !list.allows(Some("gateway"), Some("delete")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(BTreeMap<String, Vec<String>>);

impl AllowList {
    /// Nobody may call anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows callers of this name, or of this beginning and `*`, these operations, in addition to what it allows them.
    pub fn allow(
        mut self,
        caller: impl Into<String>,
        operations: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let allowed = self.0.entry(caller.into()).or_default();
        allowed.extend(operations.into_iter().map(Into::into));
        self
    }

    /// Whether it allows a caller an operation.
    pub fn allows(&self, caller: Option<&str>, operation: Option<&str>) -> bool {
        let of = |(pattern, operations): (&String, &Vec<String>)| {
            fits(pattern, caller) && operations.iter().any(|pattern| fits(pattern, operation))
        };
        self.0.iter().any(of)
    }
}

fn fits(pattern: &str, name: Option<&str>) -> bool {
    match (pattern.strip_suffix('*'), name) {
        (Some(""), _) => true,
        (Some(start), Some(name)) => name.starts_with(start),
        (None, Some(name)) => name == pattern,
        (_, None) => false,
    }
}

/// What decides for all services of a mesh.
#[derive(Clone, Default)]
pub(crate) struct Authorizer {
    pub(crate) own: Option<Arc<dyn Authorize>>,
    pub(crate) identity: Option<Caller>,
}

/// What decides for one service.
pub(crate) struct Authorization {
    own: Option<Arc<dyn Authorize>>,
    list: ArcSwapOption<AllowList>,
    identity: Option<Caller>,
    refused: AtomicU64,
    events: Publisher,
}

impl Authorization {
    pub(crate) fn new(authorizer: &Authorizer, list: Option<AllowList>, events: &Publisher) -> Self {
        Self {
            own: authorizer.own.clone(),
            list: ArcSwapOption::new(list.map(Arc::new)),
            identity: authorizer.identity,
            refused: AtomicU64::new(0),
            events: events.clone(),
        }
    }

    /// Whether anything is to be asked at all.
    pub(crate) fn asks(&self) -> bool {
        self.own.is_some() || self.list.load().is_some()
    }

    pub(crate) fn reload(&self, list: Option<AllowList>) {
        self.list.store(list.map(Arc::new));
    }

    /// Calls that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Asks the list, then the user's own.
    pub(crate) fn check(&self, service: &ServiceName, operation: Option<Operation>) -> Result<(), Error> {
        let caller = CallContext::caller_now().or(self.identity);
        let listed = self.list.load().as_ref().is_none_or(|list| {
            // No list can name what is beyond the bound of names.
            let named = caller.filter(|caller| *caller != Caller::OTHER);
            list.allows(named.map(Caller::as_str), operation.map(Operation::as_str))
        });
        let decision = match &self.own {
            _ if !listed => Decision::deny("the list of the service does not allow it"),
            Some(own) => own.authorize(&Asked { service, operation, caller }),
            None => Decision::Allow,
        };
        match decision {
            Decision::Allow => Ok(()),
            Decision::Deny(why) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let caller = caller.map(Caller::as_str);
                let asked = operation.map(Operation::as_str);
                tracing::debug!(%service, operation = asked, caller, %why, "call not allowed");
                let reason = why.clone().into_owned();
                let kind = || EventKind::CallNotAllowed { operation: asked, caller, reason };
                self.events.tell(Some(service), kind);
                Err(Error::new(ErrorKind::PermissionDenied, service.as_str(), operation)
                    .because(why.into_owned()))
            }
        }
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("list", &self.list.load()).finish_non_exhaustive()
    }
}
