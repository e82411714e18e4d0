#![doc = include_str!("../README.md")]

mod config;
mod error;
mod policy;

mod connections;
mod key;
mod resolver;

mod registration;

pub use config::{EtcdConfig, EtcdConfigBuilder};
pub use error::{EtcdError, EtcdErrorKind};
pub use registration::{
    InvalidRegistration, NotRemoved, Registration, RegistrationDriver, RegistrationState, RegistrationStatus,
};
pub use resolver::EtcdResolver;
