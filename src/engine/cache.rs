//! Results worth keeping, a bounded number of items and of bytes.
//!
//! Two generations instead of a list of uses: what is asked for moves to the young one; when that has reached
//! half a bound, the old one is forgotten. Constant time, and nothing used lately is lost.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::embedding::Embedding;

/// What a cache did and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Askings that found their value.
    pub hits: u64,
    /// Askings that did not.
    pub misses: u64,
    /// Values kept.
    pub items: usize,
    /// What they take together, bytes.
    pub bytes: usize,
}

/// Keeps at most `items_max` values, rounded up to an even number, of at most `bytes_max` bytes.
#[derive(Debug)]
pub struct Cache<K, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    items_max: usize,
    bytes_max: usize,
}

/// Values, each with its bytes.
#[derive(Debug)]
struct Generation<K, V> {
    values: HashMap<K, (V, usize)>,
    bytes: usize,
}

impl<K: Eq + Hash, V> Generation<K, V> {
    fn remove(&mut self, key: &K) -> Option<(K, (V, usize))> {
        let removed = self.values.remove_entry(key)?;
        self.bytes -= removed.1.1;
        Some(removed)
    }
}

impl<K, V> Default for Generation<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), bytes: 0 }
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// An empty cache; 0 of either keeps nothing.
    pub fn new(items_max: usize, bytes_max: usize) -> Self {
        Self { young: Generation::default(), old: Generation::default(), items_max, bytes_max }
    }

    /// The value kept under `key`.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some((value, _)) = self.young.values.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = self.old.remove(key)?;
        self.insert(key, value.clone(), bytes);
        Some(value)
    }

    /// Keeps a value of `bytes`, and forgets old ones if need be; what is larger than half of all is not kept.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.old.remove(&key);
        self.young.remove(&key);
        if self.items_max == 0 || bytes > self.bytes_max / 2 {
            return;
        }
        let full = self.young.values.len() >= self.items_max.div_ceil(2);
        if full || self.young.bytes + bytes > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.values.insert(key, (value, bytes));
    }

    /// Values kept, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        (self.young.values.len() + self.old.values.len(), self.young.bytes + self.old.bytes)
    }
}

/// The embeddings of texts by their tokens, which preparation asks and the model thread fills.
#[derive(Debug)]
pub struct TextCache(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    cache: Cache<Vec<u32>, Arc<Embedding>>,
    hits: u64,
    misses: u64,
}

impl TextCache {
    /// An empty one.
    pub fn new(items_max: usize, bytes_max: usize) -> Self {
        Self(Mutex::new(Counted { cache: Cache::new(items_max, bytes_max), hits: 0, misses: 0 }))
    }

    /// The embedding of a text that somebody asks for; counted.
    pub fn asked(&self, tokens: &Vec<u32>) -> Option<Arc<Embedding>> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = counted.cache.get(tokens);
        match found {
            Some(_) => counted.hits += 1,
            None => counted.misses += 1,
        }
        found
    }

    /// The same for a text that was missing when it was asked for; not counted again.
    pub fn meanwhile(&self, tokens: &Vec<u32>) -> Option<Arc<Embedding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cache.get(tokens)
    }

    /// Keeps an embedding.
    pub fn insert(&self, tokens: Vec<u32>, embedding: Arc<Embedding>) {
        /// Of the two containers, their counts and their place in the table.
        const OVERHEAD_BYTES: usize = 160;
        let bytes = size_of_val(&tokens[..]) + size_of_val(&embedding.values[..]) + OVERHEAD_BYTES;
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.cache.insert(tokens, embedding, bytes);
    }

    /// What it did and holds.
    pub fn stats(&self) -> CacheStats {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (items, bytes) = counted.cache.kept();
        CacheStats { hits: counted.hits, misses: counted.misses, items, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::Space;

    #[test]
    fn a_cache_never_outgrows_its_items_and_keeps_what_is_used() {
        for items_max in [0, 1, 2, 7, 8] {
            let mut cache = Cache::new(items_max, 1 << 20);
            for key in 0..100 {
                cache.insert(key, key * 10, 1);
                let (kept, bytes) = cache.kept();
                assert!(kept <= items_max.next_multiple_of(2) && bytes == kept, "{items_max}: {kept} {bytes}");
                assert_eq!(cache.get(&key), (items_max > 0).then_some(key * 10));
                assert_eq!(cache.get(&0), (items_max > 0).then_some(0), "{items_max} {key}");
            }
        }
    }

    #[test]
    fn a_cache_never_outgrows_its_bytes() {
        for bytes_max in [0, 1, 10, 63, 64] {
            let mut cache = Cache::new(1000, bytes_max);
            for key in 0..100 {
                let bytes = key % 9;
                cache.insert(key, key, bytes);
                // Again, as larger values come again under their old keys.
                cache.insert(key / 2, key, bytes);
                assert!(cache.kept().1 <= bytes_max, "{bytes_max}: {:?}", cache.kept());
                assert_eq!(cache.get(&(key / 2)).is_some(), bytes <= bytes_max / 2, "{bytes_max} {key}");
            }
        }
    }

    #[test]
    fn hits_and_misses_are_counted_where_somebody_asks() {
        let texts = TextCache::new(8, 1 << 20);
        let embedding = Arc::new(Embedding { values: vec![0.5; 16], space: Space::from_bytes([1; 8]) });
        assert!(texts.asked(&vec![7]).is_none() && texts.meanwhile(&vec![7]).is_none());
        texts.insert(vec![7], embedding);
        assert!(texts.asked(&vec![7]).is_some() && texts.meanwhile(&vec![7]).is_some());
        let stats = texts.stats();
        assert_eq!((stats.hits, stats.misses, stats.items), (1, 1, 1));
        assert!(stats.bytes >= 4 + 64, "{stats:?}");
    }
}
