//! Results worth keeping, a bounded number of them.
//!
//! Two generations instead of a list of uses: what is asked for moves to the young one; when that has reached
//! half the bound, the old one is forgotten. Constant time, and nothing used lately is lost.

use std::collections::HashMap;
use std::hash::Hash;

/// Keeps at most `items_max` values, rounded up to an even number.
#[derive(Debug)]
pub struct Cache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    items_max: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    /// An empty cache; 0 keeps nothing.
    pub fn new(items_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), items_max }
    }

    /// The value kept under `key`.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// Keeps a value, and forgets old ones if need be.
    pub fn insert(&mut self, key: K, value: V) {
        if self.items_max == 0 {
            return;
        }
        if self.young.len() >= self.items_max.div_ceil(2) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_never_outgrows_its_bound_and_keeps_what_is_used() {
        for items_max in [0, 1, 2, 7, 8] {
            let mut cache = Cache::new(items_max);
            for key in 0..100 {
                cache.insert(key, key * 10);
                let kept = cache.young.len() + cache.old.len();
                assert!(kept <= items_max.next_multiple_of(2), "{items_max}: {kept}");
                assert_eq!(cache.get(&key), (items_max > 0).then_some(key * 10));
                assert_eq!(cache.get(&0), (items_max > 0).then_some(0), "{items_max} {key}");
            }
        }
    }
}
