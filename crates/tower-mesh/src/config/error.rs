//! Why a configuration was not taken.

use std::fmt;

use tower_mesh_core::BoxError;
use tower_mesh_core::error::{InvalidConfig, Mistake};

/// A configuration that is not used. Whatever was in use before stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// Its path.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not TOML, not JSON or not YAML; or it is YAML, and this build reads none.
    Malformed {
        /// The path of the file, if it was read from one.
        path: Option<String>,
        /// What the parser says, with the place.
        error: BoxError,
    },
    /// It says something that cannot be.
    Invalid(InvalidConfig),
    /// Another [reload](crate::Mesh::reload) is under way.
    Busy,
}

impl ConfigError {
    /// The mistakes, if it could be read at all.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Invalid(invalid) => invalid.mistakes(),
            Self::Unreadable { .. } | Self::Malformed { .. } | Self::Busy => &[],
        }
    }
}

impl From<InvalidConfig> for ConfigError {
    fn from(invalid: InvalidConfig) -> Self {
        Self::Invalid(invalid)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "cannot read configuration {path}: {error}"),
            Self::Malformed { path: Some(path), error } => {
                write!(f, "cannot parse configuration {path}: {error}")
            }
            Self::Malformed { path: None, error } => write!(f, "cannot parse configuration: {error}"),
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Busy => f.write_str("another reload is under way"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Malformed { error, .. } => Some(&**error),
            Self::Invalid(invalid) => Some(invalid),
            Self::Busy => None,
        }
    }
}
