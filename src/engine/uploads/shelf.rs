//! Which uploads are known, to whom, and until when: a plain struct that is given the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Who may use an upload: the holder of a key, by its name, or everybody where there are no keys.
pub type Owner = Option<Arc<str>>;

/// What is kept under names.
#[derive(Debug)]
pub struct Shelf<F>(HashMap<String, Kept<F>>);

#[derive(Debug)]
struct Kept<F> {
    file: F,
    owner: Owner,
    expires: Instant,
}

impl<F> Default for Shelf<F> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<F: Clone> Shelf<F> {
    /// Keeps a file until `expires`.
    pub fn put(&mut self, name: String, file: F, owner: Owner, expires: Instant) {
        self.0.insert(name, Kept { file, owner, expires });
    }

    /// The file of that name, as `owner` sees it at `now`: what is another's is as absent as what has expired.
    pub fn get(&self, name: &str, owner: &Owner, now: Instant) -> Option<F> {
        let kept = self.0.get(name).filter(|kept| kept.owner == *owner && kept.expires > now)?;
        Some(kept.file.clone())
    }

    /// The same, and it is not there any more.
    pub fn take(&mut self, name: &str, owner: &Owner, now: Instant) -> Option<F> {
        let file = self.get(name, owner, now)?;
        self.0.remove(name);
        Some(file)
    }

    /// Gives what has expired at `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<F> {
        self.0.extract_if(|_, kept| kept.expires <= now).map(|(_, kept)| kept.file).collect()
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.0.values().map(|kept| kept.expires).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_known_to_whom_and_until_when() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (nobody, alice): (Owner, Owner) = (None, Some("alice".into()));
        let mut shelf = Shelf::default();
        shelf.put("a".into(), 'a', alice.clone(), at(10));
        shelf.put("b".into(), 'b', nobody.clone(), at(20));
        for (name, owner, ms, expected) in [
            ("a", &alice, 9, Some('a')),
            ("a", &alice, 10, None),
            ("a", &nobody, 0, None),
            ("b", &alice, 0, None),
            ("b", &nobody, 19, Some('b')),
            ("c", &nobody, 0, None),
        ] {
            assert_eq!(shelf.get(name, owner, at(ms)), expected, "{name} {owner:?} {ms}");
        }
        assert_eq!(shelf.next_expiry(), Some(at(10)));
        assert_eq!(shelf.take("a", &nobody, at(0)), None, "not nobody's to take");
        assert_eq!((shelf.expire(at(9)), shelf.expire(at(10))), (vec![], vec!['a']));
        assert_eq!((shelf.take("b", &nobody, at(0)), shelf.take("b", &nobody, at(0))), (Some('b'), None));
        assert_eq!(shelf.next_expiry(), None);
    }
}
