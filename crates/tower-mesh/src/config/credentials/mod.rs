//! What proves to a service's endpoints who calls them, as a file says it.

#[cfg(not(feature = "credentials"))]
mod off;
#[cfg(feature = "credentials")]
mod on;

#[cfg(not(feature = "credentials"))]
pub(crate) use off::*;
#[cfg(feature = "credentials")]
pub(crate) use on::*;
