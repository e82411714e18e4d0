//! Where a call has been.

/// The endpoints that one call has been sent to, by [key](crate::EndpointHandle::key), oldest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Filled from the front; no key is 0.
    keys: [u32; Tried::MAX],
}

impl Tried {
    /// How many are remembered: the latest.
    pub const MAX: usize = 4;

    pub(super) fn add(&mut self, key: u32) {
        match self.keys.iter_mut().find(|slot| **slot == 0) {
            Some(free) => *free = key,
            None => {
                self.keys.rotate_left(1);
                self.keys[Self::MAX - 1] = key;
            }
        }
    }

    /// The keys.
    pub fn keys(&self) -> &[u32] {
        let len = self.keys.iter().position(|&key| key == 0).unwrap_or(Self::MAX);
        &self.keys[..len]
    }

    /// Whether none was tried.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys[0] == 0
    }

    /// Whether `key` is among them.
    #[inline]
    pub fn contains(&self, key: u32) -> bool {
        self.keys.contains(&key)
    }
}
