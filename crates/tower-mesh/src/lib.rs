#![doc = include_str!("../README.md")]

pub mod config;

mod answer;
pub mod authorize;
mod builder;
mod builder_ext;
mod call;
mod components;
mod credentials;
mod error;
mod events;
#[cfg(feature = "tonic")]
mod grpc;
mod lifecycle;
mod measure;
mod mesh;
#[cfg(feature = "metrics")]
mod metering;
mod observer;
mod part;
mod probe;
mod rates;
mod readiness;
mod reload;
mod resolver;
mod service;
mod span;
mod stack;
mod status;
mod under_way;

pub use answer::Answer;
pub use builder::MeshBuilder;
pub use builder_ext::ServiceBuilderExt;
pub use call::MeshRequest;
pub use components::{ComponentState, ComponentStatus};
pub use config::Config;
pub use error::{Error, ErrorKind};
pub use events::{EndpointRef, Endpoints, Event, EventKind, Events, Missed, TriedAt};
#[cfg(feature = "tonic")]
pub use grpc::{Grpc, GrpcFuture, GrpcService};
pub use lifecycle::{ShutdownReport, StartError};
pub use measure::LatencyStatus;
pub use mesh::Mesh;
pub use rates::{Rate, Rates};
pub use readiness::{Readiness, Requirement, ServiceState};
pub use reload::Reloaded;
#[cfg(feature = "http")]
pub use service::HttpService;
pub use service::{Connected, MeshFuture, MeshService, ServiceHandle, Tower, With};
pub use stack::Stack;
pub use status::{
    AdmissionStatus, CircuitStatus, ConfigStatus, EndpointStatus, HealthStatus, LimitStatus, MeshState,
    MeshStatus, OutlierStatus, RetryStatus, ServiceStatus, TripStatus,
};

pub use tower_mesh_admission as admission;
pub use tower_mesh_breaker as breaker;
pub use tower_mesh_core as core;
pub use tower_mesh_discovery as discovery;
#[cfg(feature = "dns")]
pub use tower_mesh_dns as dns;
#[cfg(feature = "etcd")]
pub use tower_mesh_etcd as etcd;
pub use tower_mesh_health as health;
#[cfg(feature = "http")]
pub use tower_mesh_http as http;
pub use tower_mesh_retry as retry;
