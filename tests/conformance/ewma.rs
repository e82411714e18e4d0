//! Averages that forget, on `core::ewma`, and how loaded an endpoint looks, on a balancer.

use std::time::Duration;

use http_body_util::Empty;
use tower::{Service, service_fn};
use tower_mesh_core::ewma::{Decay, Ewma, PeakEwma, load};
use tower_mesh_core::{BoxError, CallEnd, EndpointHandle, classify};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryLayer, FixedList, pick};
use tower_mesh_http::Classifier;
use tower_mesh_tests::{ms, now, seconds};

use crate::case::{Case, Outcome, number, op, same, unknown, whole};

pub(crate) fn ema(case: &Case) -> Outcome {
    let mut average = Ewma::new(Duration::from_nanos(case.given.whole("window")?));
    let mut values = Vec::new();
    for update in case.given.list("updates")? {
        match update.as_array().map(Vec::as_slice) {
            Some([at, sample]) => {
                let (at, sample) = whole(at).zip(number(sample)).ok_or_else(|| unknown(update))?;
                average.observe(at, sample);
            }
            None if update == "reset" => average.reset(),
            _ => return Err(unknown(update)),
        }
        values.push(average.get().unwrap_or(0.0));
    }
    case.all_close("value", &values, &case.expect.numbers("values")?)
}

pub(crate) fn ewma_linkerd(case: &Case) -> Outcome {
    let mut average = Ewma::new(Duration::from_secs(case.given.whole("decay_s")?));
    let mut values = Vec::new();
    for value in case.given.list("ops")? {
        let (name, [at, sample]) = op(value)? else {
            return Err(unknown(value));
        };
        let (at, sample) = at.as_f64().zip(sample.as_f64()).ok_or_else(|| unknown(value))?;
        let at = Duration::from_secs_f64(at).as_nanos() as u64;
        match name {
            "add" => average.observe(at, sample),
            "add_peak" => average.observe_peak(at, sample),
            _ => return Err(unknown(value)),
        }
        values.push(average.get().unwrap_or(0.0));
    }
    case.all_close("value", &values, &case.expect.numbers("values")?)
}

pub(crate) fn peak_ewma_load(case: &Case) -> Outcome {
    case.given.whole("tau_ns")?;
    let mut loads = Vec::new();
    for row in case.given.rows("rows")? {
        loads.push(load(row.0.number("cost_ns")?, row.0.whole("pending")?));
        row.done()?;
    }
    case.all_close("load", &loads, &case.expect.numbers("load")?)
}

pub(crate) fn peak_ewma_trace(case: &Case) -> Outcome {
    let decay = Decay::new(Duration::from_nanos(case.given.whole("tau_ns")?));
    let average = PeakEwma::default();
    let mut costs = Vec::new();
    for value in case.given.list("ops")? {
        let at = match op(value)? {
            ("end", [at, rtt]) => {
                let (at, rtt) = whole(at).zip(number(rtt)).ok_or_else(|| unknown(value))?;
                average.observe(at, rtt, decay);
                at
            }
            ("get", [at]) => whole(at).ok_or_else(|| unknown(value))?,
            _ => return Err(unknown(value)),
        };
        costs.push(average.get(at, decay));
    }
    case.all_close("cost", &costs, &case.expect.numbers("cost")?)
}

/// Ten endpoints that answer within a millisecond and one that never does, and a thousand calls.
pub(crate) fn peak_ewma_property(case: &Case) -> Outcome {
    let nodes = case.given.text("nodes")?;
    if nodes != "N fast + one that never answers" {
        return Err(unknown(&nodes));
    }
    const SILENT: usize = 10;
    let endpoints: Vec<_> =
        (0..=SILENT).map(|i| EndpointHandle::new(format!("e{i}:1").parse().expect("an address"))).collect();
    let (decay, mut at) = (Decay::new(seconds(10)), now());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..1000 {
        let load = |i: usize| endpoints[i].load(at, decay);
        let picked =
            pick::p2c(endpoints.len(), || random.u64(..), |_| true, load).ok_or("none was picked")?.first;
        endpoints[picked].started();
        if picked != SILENT {
            at = at + ms(1);
            endpoints[picked].observe_latency(endpoints[picked].latency_epoch(), at, 1_000_000, decay);
            endpoints[picked].finished(CallEnd::Answered(classify::Outcome::Success));
        }
    }
    same("calls", &endpoints[SILENT].counts().started, &case.expect.whole("requests_to_silent_node")?)
}

/// What a balancer takes an answer's latency to be: one call over HTTP to one endpoint.
pub(crate) fn load_bias(case: &Case) -> Outcome {
    let max_hint = case.given.whole("max_hint_ms")?;
    if max_hint != 300_000 {
        return Err(unknown(&max_hint));
    }
    let penalty = ms(case.given.whole("penalty_ms")?);
    let mut observed = Vec::new();
    for row in case.given.rows("rows")? {
        let (status, rtt) = (row.0.whole("status")?, ms(row.0.whole("rtt_ms")?));
        let mut answer = http::Response::builder().status(u16::try_from(status).map_err(|_| "no status")?);
        if let Some(hint) = row.0.whole_or_null("hint_ms")? {
            if !hint.is_multiple_of(1000) {
                return Err(unknown(&hint));
            }
            answer = answer.header("retry-after", hint / 1000);
        }
        row.done()?;
        let answer = answer.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
        observed.push(observed_latency(answer, rtt, penalty).as_secs_f64() * 1e3);
    }
    case.all_close("observed", &observed, &case.expect.numbers("observed_ms")?)
}

/// The latency that a balancer has learned after one call with this `answer`, which took `rtt`.
pub(crate) fn observed_latency(
    answer: http::Response<Empty<bytes::Bytes>>,
    rtt: Duration,
    penalty: Duration,
) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let list = FixedList::new(["a:1".parse().expect("an address")]).expect("one is no duplicate");
        let config = DiscoveryConfig::builder().failure_penalty(penalty).build().expect("in range");
        let (layer, driver) = DiscoveryLayer::with_config(&list, "users".parse().expect("a name"), config);
        let mut service = layer.classify(Classifier::default()).connect(move |_: &EndpointHandle| {
            let answer = answer.clone();
            service_fn(move |()| {
                let answer = answer.clone();
                async move {
                    tokio::time::advance(rtt).await;
                    Ok::<_, BoxError>(answer)
                }
            })
        });
        let mut driver = tower_mesh_test::Stepped::new(driver);
        assert!(driver.poll().is_pending());
        // An empty body ends with its head.
        let _ended = service.call(()).await.expect("answered");
        let endpoint = service.status().endpoints[0].clone();
        endpoint.latency(now(), Decay::new(config.latency_decay())).unwrap_or_default()
    })
}
