//! One verdict per attempt, shared by everyone who counts.

use std::error::Error;
use std::time::Duration;

use crate::context::DropReason;
use crate::error::{BoxError, Judged};
use crate::tick::Tick;

/// What an attempt means to the layers that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It worked.
    Success,
    /// It failed.
    Failure(Origin),
    /// It says nothing about the endpoint: neither success nor failure.
    Ignored,
    /// We refused it ourselves (circuit open, no endpoint); nothing was sent. Counted apart, and by nobody's failure window.
    Refused,
    /// Not known yet at the head of the response; the end will tell.
    Undecided,
}

/// Where a failure came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This side or the way there: connect, reset, timeout.
    Local,
    /// The endpoint's answer.
    Remote,
    /// The endpoint asks for less (HTTP 429, gRPC `RESOURCE_EXHAUSTED`): counts for a rate, not as one of consecutive failures.
    Overload,
}

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// No.
    Never,
    /// No, because the server says so: it could otherwise be (gRPC's negative pushback, a marker of a callee that has tried again itself).
    Forbidden,
    /// Yes if doing it twice does no harm: the server may have acted on it.
    IfIdempotent,
    /// Yes: it certainly was not acted on.
    NotProcessed,
}

/// The judgement on one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it counts as.
    pub outcome: Outcome,
    /// Whether it may be sent again.
    pub retry: Retry,
    /// How long the server asked us to wait before that, if it did.
    pub wait: Option<Duration>,
}

impl Verdict {
    /// It worked; there is nothing to send again.
    pub const SUCCESS: Self = Self { outcome: Outcome::Success, retry: Retry::Never, wait: None };
    /// It says nothing about the endpoint, and is final.
    pub const IGNORED: Self = Self { outcome: Outcome::Ignored, retry: Retry::Never, wait: None };
    /// The end of the response will tell; as far as the head goes it is final.
    pub const UNDECIDED: Self = Self { outcome: Outcome::Undecided, retry: Retry::Never, wait: None };
    /// We refused it ourselves: certainly not processed.
    pub const REFUSED: Self = Self { outcome: Outcome::Refused, retry: Retry::NotProcessed, wait: None };

    /// A failure from `origin`, to be sent again as `retry` says.
    pub const fn failure(origin: Origin, retry: Retry) -> Self {
        Self { outcome: Outcome::Failure(origin), retry, wait: None }
    }

    /// The same, with the wait the server asked for.
    pub const fn with_wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    /// Whether nothing more is to be tried, whatever the request is.
    pub const fn is_final(&self) -> bool {
        matches!(self.retry, Retry::Never | Retry::Forbidden)
    }

    /// Whether it counts as a failure, whatever its origin.
    pub const fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure(_))
    }
}

/// Judges attempts that answer `Res`. One value serves discovery, breaker, retry and metrics, so that all mean the same by "failed".
///
/// Two moments. [`head`](Classify::head) is asked when the response head (or an error) is there; what it says is enough for a retry.
/// [`attach`](Classify::attach) then ties the [`Guard`]s of those who count to the response, so that they hear of its end: at once for
/// a plain value, with the last byte for a streaming body. An implementation that is undecided at the head (gRPC: the status is in the
/// trailers) decides there.
///
/// For plain values, [`by`] makes one from a closure and [`ByResult`] takes `Ok` for success and `Err` for failure.
pub trait Classify<Res>: Clone + Send + Sync + 'static {
    /// What callers receive: `Res` itself, or a response that carries the guard to its end.
    type Response<G: Guard>;

    /// The verdict on a response head or an error. Errors of our own carry their verdict and never get here: see [`judge`].
    fn head(&self, result: Result<&Res, &(dyn Error + 'static)>) -> Verdict;

    /// Ties `guard` to the end of `response`. `verdict` is what [`head`](Classify::head) said.
    fn attach<G: Guard>(&self, response: Res, verdict: Verdict, guard: G) -> Self::Response<G>;
}

/// Somebody who must hear, once, how an attempt ended. Dropped unfinished it means the attempt was abandoned, and a
/// guard reports that by itself.
pub trait Guard: Send + 'static {
    /// The response made progress (a piece of its body arrived).
    fn progress(&mut self) {}

    /// The response ended.
    fn finish(self, verdict: Verdict);
}

/// The verdict on `result`: that which an error of our own carries, else what `classifier` says.
pub fn judge<Res, C: Classify<Res>>(
    classifier: &C,
    result: Result<&Res, &(dyn Error + Send + Sync + 'static)>,
) -> Verdict {
    match result {
        Ok(response) => classifier.head(Ok(response)),
        Err(error) => match crate::error::find::<Judged>(error) {
            Some(judged) => judged.verdict(),
            None => classifier.head(Err(error)),
        },
    }
}

/// Ends a call that was judged by `verdict`: a response takes `guard` along to its own end, and for an error it ends here.
#[inline(always)]
pub fn settle<Res, C: Classify<Res>, G: Guard>(
    classifier: &C,
    verdict: Verdict,
    result: Result<Res, BoxError>,
    guard: G,
) -> Result<C::Response<G>, BoxError> {
    match result {
        Ok(response) => Ok(classifier.attach(response, verdict, guard)),
        Err(error) => {
            guard.finish(verdict);
            Err(error)
        }
    }
}

/// `Ok` is a success; `Err` is a failure of local origin that may be sent again if that does no harm.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByResult;

impl<Res> Classify<Res> for ByResult {
    type Response<G: Guard> = Res;

    fn head(&self, result: Result<&Res, &(dyn Error + 'static)>) -> Verdict {
        match result {
            Ok(_) => Verdict::SUCCESS,
            Err(_) => Verdict::failure(Origin::Local, Retry::IfIdempotent),
        }
    }

    fn attach<G: Guard>(&self, response: Res, verdict: Verdict, guard: G) -> Res {
        guard.finish(verdict);
        response
    }
}

/// Judges plain values by a closure.
///
/// ```
/// use tower_mesh_core::classify::{self, Origin, Retry, Verdict};
/// struct Rows { truncated: bool }
/// let classifier = classify::by(|result: Result<&Rows, &(dyn std::error::Error + 'static)>| match result {
///     Ok(rows) if rows.truncated => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
///     Ok(_) => Verdict::SUCCESS,
///     Err(_) => Verdict::failure(Origin::Local, Retry::IfIdempotent),
/// });
/// # use tower_mesh_core::Classify;
/// assert!(classifier.head(Ok(&Rows { truncated: true })).is_failure());
/// ```
pub fn by<Res, F>(judge: F) -> By<F>
where
    F: Fn(Result<&Res, &(dyn Error + 'static)>) -> Verdict + Clone + Send + Sync + 'static,
{
    By(judge)
}

/// Made by [`by`].
#[derive(Debug, Clone, Copy)]
pub struct By<F>(F);

impl<Res, F> Classify<Res> for By<F>
where
    F: Fn(Result<&Res, &(dyn Error + 'static)>) -> Verdict + Clone + Send + Sync + 'static,
{
    type Response<G: Guard> = Res;

    fn head(&self, result: Result<&Res, &(dyn Error + 'static)>) -> Verdict {
        (self.0)(result)
    }

    fn attach<G: Guard>(&self, response: Res, verdict: Verdict, guard: G) -> Res {
        guard.finish(verdict);
        response
    }
}

/// What a call counts as that was dropped before its end.
///
/// | dropped because | counts as |
/// |---|---|
/// | our attempt timeout or deadline passed | failure, local |
/// | another attempt of the same call won (hedge) | ignored |
/// | the caller went away | failure, local, if nothing had arrived for longer than `stalled_after`; else ignored |
///
/// The last is measured from the last progress, not from the start: a long stream that its reader closes is no failure, a backend
/// that hangs until its callers give up is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbandonedPolicy {
    stalled_after: Duration,
}

impl AbandonedPolicy {
    /// A policy that takes a caller's leaving for a failure once nothing has arrived for longer than `stalled_after`.
    pub const fn new(stalled_after: Duration) -> Self {
        Self { stalled_after }
    }

    /// How long nothing must have arrived. Default 500 ms.
    pub const fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    /// The outcome of a call dropped for `reason`, `quiet` after it last made progress.
    pub fn outcome(&self, reason: DropReason, quiet: Duration) -> Outcome {
        match reason {
            DropReason::AttemptTimeout | DropReason::DeadlineExceeded => Outcome::Failure(Origin::Local),
            DropReason::HedgeLost => Outcome::Ignored,
            DropReason::CallerGone if quiet > self.stalled_after => Outcome::Failure(Origin::Local),
            DropReason::CallerGone => Outcome::Ignored,
        }
    }
}

/// When something of a response last arrived: small, as it rides with each call in a guard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Milliseconds from the start of the call; 0 if nothing did.
    after_ms: u32,
}

impl Progress {
    /// Something has arrived at `now`, of a call that began at `started`.
    pub fn made(&mut self, started: Tick, now: Tick) {
        self.after_ms = u32::try_from(now.since(started).as_millis()).unwrap_or(u32::MAX);
    }

    /// For how long nothing has arrived, for an [`AbandonedPolicy`]; no time at all where something has after more than 49 days, which is as far as this counts.
    pub fn quiet(self, started: Tick, now: Tick) -> Duration {
        match self.after_ms {
            u32::MAX => Duration::ZERO,
            after => now.since(started + Duration::from_millis(after.into())),
        }
    }
}

impl Default for AbandonedPolicy {
    fn default() -> Self {
        Self::new(Duration::from_millis(500))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_are_judged_by_us_however_deep_they_lie() {
        #[derive(Debug)]
        struct Wrapped(Judged);
        impl std::fmt::Display for Wrapped {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("open")
            }
        }
        impl Error for Wrapped {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let ours: BoxError = Box::new(Wrapped(Judged::new(Verdict::REFUSED)));
        assert_eq!(judge::<(), _>(&ByResult, Err(&*ours)), Verdict::REFUSED);
        let foreign: BoxError = "broken".into();
        assert!(judge::<(), _>(&ByResult, Err(&*foreign)).is_failure());
    }

    #[test]
    fn a_caller_that_leaves_counts_by_the_time_since_progress() {
        let policy = AbandonedPolicy::new(Duration::from_secs(1));
        let short = Duration::from_millis(999);
        assert_eq!(policy.outcome(DropReason::CallerGone, short), Outcome::Ignored);
        assert!(matches!(policy.outcome(DropReason::CallerGone, 2 * short), Outcome::Failure(Origin::Local)));
        assert!(matches!(policy.outcome(DropReason::AttemptTimeout, Duration::ZERO), Outcome::Failure(_)));
        assert_eq!(policy.outcome(DropReason::HedgeLost, 100 * short), Outcome::Ignored);
    }
}
