//! The token that the requests of a service carry, as its configuration says.

#[cfg(not(feature = "credentials"))]
mod off;
#[cfg(feature = "credentials")]
mod on;

#[cfg(not(feature = "credentials"))]
pub(crate) use off::*;
#[cfg(feature = "credentials")]
pub(crate) use on::*;
