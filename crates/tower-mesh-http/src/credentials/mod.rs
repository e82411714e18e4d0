//! What proves to backends who calls them (feature `credentials`).

mod layer;
mod token;

pub use layer::{Bearer, BearerLayer};
pub use token::{BearerToken, InvalidToken};
