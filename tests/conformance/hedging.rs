//! When hedges start, on `retry`'s policy.

use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_retry::testing::{Ended, HedgePolicy};
use tower_mesh_tests::now;

use crate::case::{Case, Fields, Outcome, same, unknown};

struct Answer {
    attempt: usize,
    at: Tick,
    result: String,
    pushback: Option<i64>,
}

fn answer(given: &Fields, began: Tick) -> Result<Answer, String> {
    let pushback = if given.has("pushback_ms") {
        Some(given.value("pushback_ms")?.as_i64().ok_or("pushback_ms is no number")?)
    } else {
        None
    };
    Ok(Answer {
        attempt: given.small("attempt")? as usize,
        at: began + Duration::from_millis(given.whole("at_ms")?),
        result: given.text("result")?.to_owned(),
        pushback,
    })
}

fn verdict(answer: &Answer) -> Result<Verdict, String> {
    let failure = |retry| Verdict::failure(Origin::Remote, retry);
    Ok(match (answer.result.as_str(), answer.pushback) {
        ("ok", None) => Verdict::SUCCESS,
        ("fatal", None) => failure(Retry::Never),
        ("non_fatal", None) => failure(Retry::IfIdempotent),
        ("non_fatal", Some(wait)) => match u64::try_from(wait) {
            Ok(wait) => failure(Retry::IfIdempotent).with_wait(Some(Duration::from_millis(wait))),
            Err(_) => failure(Retry::Forbidden),
        },
        _ => return Err(unknown(&answer.result)),
    })
}

/// What is due at an instant starts before what is answered at it.
pub(crate) fn hedge_timeline(case: &Case) -> Outcome {
    let began = now();
    let hedges = case.given.small("max_attempts")? - 1;
    let mut policy = HedgePolicy::new(hedges, Duration::from_millis(case.given.whole("delay_ms")?), began);
    let (mut starts, mut result) = (vec![began], None);
    for row in case.given.rows("answers")? {
        let answer = answer(&row.0, began)?;
        row.done()?;
        while let Some(next) = policy.next().filter(|&next| next <= answer.at) {
            starts.push(next);
            policy.started(next);
        }
        if answer.attempt > starts.len() {
            return Err(format!("attempt {} has not started", answer.attempt));
        }
        match Ended::of(verdict(&answer)?) {
            Ended::Answer => {
                policy.stop();
                result = Some(answer);
            }
            Ended::Failed(pushback) => policy.failed(answer.at, pushback),
        }
    }
    while let Some(next) = policy.next() {
        starts.push(next);
        policy.started(next);
    }
    let starts: Vec<_> = starts.into_iter().map(|at| at.since(began).as_millis() as u64).collect();
    same("starts", &starts, &case.expect.wholes("starts_ms")?)?;
    if case.expect.has("result") {
        let answer = result.ok_or("there is no result")?;
        let at = answer.at.since(began).as_millis();
        let found = match answer.result.as_str() {
            "ok" => format!("ok at {at}"),
            // Whatever else is out when the answer is there is cancelled.
            _ => format!("error at {at}, attempt 1 cancelled"),
        };
        same("result", &found.as_str(), &case.expect.text("result")?)?;
    }
    Ok(())
}
