#![doc = include_str!("../README.md")]

mod config;
mod policy;
mod question;

mod answer;
mod ask;
mod error;
mod resolver;

pub use config::{DnsConfig, DnsConfigBuilder, Families};
pub use error::{DnsError, DnsErrorKind, SetupError};
pub use question::InvalidQuestion;
pub use resolver::DnsResolver;
