#![doc = include_str!("../README.md")]

pub mod config;

mod builder;
mod call;
mod components;
mod error;
mod events;
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
mod resolver;
mod service;
mod span;
mod status;
mod under_way;

pub use builder::MeshBuilder;
pub use call::MeshRequest;
pub use components::{ComponentState, ComponentStatus};
pub use config::Config;
pub use error::{Error, ErrorKind};
pub use events::{EndpointRef, Endpoints, Event, EventKind, Events, Missed, TriedAt};
pub use lifecycle::{ShutdownReport, StartError};
pub use measure::LatencyStatus;
pub use mesh::Mesh;
pub use rates::{Rate, Rates};
pub use readiness::{Readiness, Requirement, ServiceState};
pub use service::{Connected, MeshFuture, MeshService, ServiceHandle, Tower, With};
pub use status::{
    CircuitStatus, EndpointStatus, HealthStatus, MeshState, MeshStatus, OutlierStatus, RetryStatus,
    ServiceStatus, TripStatus,
};

pub use tower_mesh_breaker as breaker;
pub use tower_mesh_core as core;
pub use tower_mesh_discovery as discovery;
pub use tower_mesh_health as health;
#[cfg(feature = "http")]
pub use tower_mesh_http as http;
pub use tower_mesh_retry as retry;
