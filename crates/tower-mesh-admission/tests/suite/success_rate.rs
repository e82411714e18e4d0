//! Refusing by success rate.

use tower::{Layer, ServiceExt};
use tower_mesh_admission::{AdmissionLayer, OverloadReason, SuccessRateConfig};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, CallContext, Priority};
use tower_mesh_test::Inner;

use crate::{ms, now, refusal};

fn echo() -> Inner<bool, ()> {
    Inner::new(|_, good| async move { if good { Ok(()) } else { Err(BoxError::from("down")) } })
}

#[tokio::test(start_paused = true)]
async fn as_many_are_refused_as_the_rate_says_and_none_when_it_has_recovered() {
    let inner = echo();
    let config = SuccessRateConfig::builder().threshold(0.9).build().unwrap();
    let layer = AdmissionLayer::new(config, ByResult);
    let service = layer.layer(inner.clone());
    for i in 0..99 {
        assert!(service.clone().oneshot(i % 2 == 0).await.is_ok() == (i % 2 == 0), "too few to tell");
    }
    let _ = service.clone().oneshot(false).await;
    let rate = layer.snapshot(now()).success_rate.unwrap();
    assert_eq!((rate.total, rate.succeeded, rate.refused), (100, 50, 0));
    let expected = (100.0 - 50.0 / 0.9) / 101.0;
    assert!((rate.rejection - expected).abs() < 1e-9, "{}", rate.rejection);

    // Half of what gets through succeeds, so the chance stays about where it is.
    let mut refused = 0;
    for i in 0..2000 {
        let answer = service.clone().oneshot(i % 2 == 0).await;
        let is_refusal = answer.as_ref().is_err_and(|error| error.to_string().contains("too few succeed"));
        if is_refusal {
            assert_eq!(refusal(answer), Some(OverloadReason::SuccessRate));
            refused += 1;
        }
    }
    let rate = layer.snapshot(now()).success_rate.unwrap();
    assert_eq!((rate.refused, rate.total), (refused, 2100 - refused), "what is refused is not counted");
    assert_eq!(inner.calls(), 2100 - refused);
    assert!((700..1080).contains(&refused), "{refused} of 2000");

    tokio::time::advance(ms(31_000)).await;
    for _ in 0..200 {
        service.clone().oneshot(true).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn even_where_nothing_succeeds_some_get_through_and_the_important_most_of_all() {
    let config = SuccessRateConfig::builder().threshold(0.5).max_rejection(0.6).build().unwrap();
    let service = AdmissionLayer::new(config, ByResult).layer(echo());
    for _ in 0..300 {
        let _ = service.clone().oneshot(false).await;
    }
    let mut through = [0_u32; 3];
    for _ in 0..1000 {
        for (_, priority) in Priority::ALL {
            let mut call = tower_mesh_test::Stepped::new(service.clone().oneshot(false));
            let mut context = CallContext::new().with_priority(priority);
            let std::task::Poll::Ready(Err(error)) = context.lend(|| call.poll()) else {
                panic!("it fails at once")
            };
            through[priority as usize] += u32::from(error.to_string() == "down");
        }
    }
    // Refused: 60 % at most, 60 %, 36 %. Ten standard deviations either way.
    let [sheddable, normal, critical] = through;
    assert!((245..555).contains(&sheddable) && (245..555).contains(&normal), "{through:?}");
    assert!((488..792).contains(&critical) && critical > normal, "{through:?}");
}
