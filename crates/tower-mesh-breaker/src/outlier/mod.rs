//! Ejection among peers: the set decides about its member.
//!
//! A circuit asks whether an endpoint is bad; this asks whether it is worse than the others. [`Outliers`] is one set of endpoints, those of one service.
//! Every endpoint in it counts its calls, and an outlier is ejected for a while: the balancer passes it by ([`Reason::Ejected`](tower_mesh_core::Reason)).
//! No call is refused for it.
//!
//! ```
//! use tower_mesh_breaker::outlier::{OutlierConfig, Outliers};
//! use tower_mesh_core::EndpointHandle;
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let (outliers, driver) = Outliers::new(OutlierConfig::default());
//! let driver = tokio::spawn(driver);
//!
//! // In the stack of each endpoint; with a breaker there too, `BreakerLayer::ejecting` does without another layer.
//! let endpoint = EndpointHandle::new("10.0.0.1:8080".parse().unwrap());
//! let layer = outliers.watching(&endpoint);
//! assert_eq!(outliers.status().members.len(), 1);
//!
//! drop((outliers, layer, endpoint));
//! driver.await.unwrap(); // It ends with the last handle and the last endpoint.
//! # }
//! ```

mod config;
mod driver;
mod layer;
mod member;
mod set;
mod tally;

pub use config::{Dialect, OutlierConfig, OutlierConfigBuilder};
pub use driver::OutlierDriver;
pub use layer::{Outlier, OutlierFuture, OutlierGuard, OutlierLayer};
pub use set::{MemberStatus, OutlierEvent, OutlierStatus, Outliers, RuleCounts};

pub use crate::policy::outlier as policy;
pub(crate) use member::Member;
