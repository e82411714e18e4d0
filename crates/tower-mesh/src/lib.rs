#![doc = include_str!("../README.md")]

pub mod config;

mod builder;
mod call;
mod error;
mod events;
mod lifecycle;
mod mesh;
mod part;
mod probe;
mod readiness;
mod resolver;
mod service;
mod status;
mod trace;
mod under_way;

pub use builder::MeshBuilder;
pub use call::MeshRequest;
pub use config::Config;
pub use error::{Error, ErrorKind};
pub use events::{EndpointRef, Endpoints, Event, EventKind, Events, Missed, TriedAt};
pub use lifecycle::{ShutdownReport, StartError};
pub use mesh::Mesh;
pub use readiness::{Readiness, Requirement, ServiceState};
pub use service::{Connected, MeshFuture, MeshService, ServiceHandle, Tower, With};
pub use status::{
    CircuitStatus, EndpointStatus, HealthStatus, MeshState, MeshStatus, OutlierStatus, RetryStatus,
    ServiceStatus,
};

pub use trace::{AttemptFuture, Attempts};

pub use tower_mesh_breaker as breaker;
pub use tower_mesh_core as core;
pub use tower_mesh_discovery as discovery;
pub use tower_mesh_health as health;
#[cfg(feature = "http")]
pub use tower_mesh_http as http;
pub use tower_mesh_retry as retry;
