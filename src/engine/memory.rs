//! How much memory decoded media take, all requests together: decoders are fed by strangers, and each alone may
//! be within its bounds while together they are not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The budget; clones are the same one.
#[derive(Debug, Clone)]
pub struct Memory {
    held_bytes: Arc<Mutex<u64>>,
    bytes_max: u64,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    memory: Memory,
    bytes: u64,
}

impl Memory {
    /// A budget of which nothing is held.
    pub fn new(bytes_max: u64) -> Self {
        Self { held_bytes: Arc::default(), bytes_max }
    }

    /// All that may be held, bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// All that is held, bytes.
    pub fn held_bytes(&self) -> u64 {
        *self.lock()
    }

    /// A part that is to grow.
    pub fn hold(&self) -> Held {
        Held { memory: self.clone(), bytes: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// How much it holds, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds `bytes` from now on; false, and everything as before, when the budget has not that much.
    pub fn resize(&mut self, bytes: u64) -> bool {
        let mut held = self.memory.lock();
        let Some(others_and_this) = (*held - self.bytes).checked_add(bytes) else { return false };
        if bytes > self.bytes && others_and_this > self.memory.bytes_max {
            return false;
        }
        *held = others_and_this;
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.memory.lock() -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_never_passes_the_budget_and_comes_back() {
        let memory = Memory::new(10);
        let (mut one, mut other) = (memory.hold(), memory.hold());
        assert!(one.resize(6) && !other.resize(5) && other.resize(4));
        assert_eq!(memory.held_bytes(), 10);
        assert!(!one.resize(7) && !one.resize(u64::MAX) && one.resize(2), "smaller always fits");
        assert!(other.resize(8));
        drop(one);
        assert_eq!(memory.held_bytes(), 8);
        drop(other);
        assert_eq!(memory.held_bytes(), 0);
    }
}
