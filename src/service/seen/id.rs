//! The id of a request: the client's own if it is fit to be logged, otherwise one of ours.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

/// The metadata in which ids come and go.
pub const HEADER: &str = "x-request-id";

/// A longer one of a client is not taken, bytes.
const BYTES_MAX: usize = 128;

/// Every call carries one among its extensions; log, metadata and error details tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::service) struct RequestId(String);

impl RequestId {
    /// The id that `headers` bring, or a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| sane(id));
        brought.map_or_else(Self::fresh, |id| Self(id.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 128 bits that no two calls share: a count, hashed with two keys that this process drew.
    fn fresh() -> Self {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [0, 1].map(|key| KEYS[key].hash_one(count));
        Self(format!("{high:016x}{low:016x}"))
    }
}

fn sane(id: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=BYTES_MAX).contains(&id.len()) && id.bytes().all(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_of_the_client_is_kept_and_any_other_replaced() {
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, http::HeaderValue::from_bytes(id).expect("a header value"));
            RequestId::of(&headers).0
        };
        for kept in ["a", "3f2b-11/x:y", &"x".repeat(BYTES_MAX)] {
            assert_eq!(of(kept.as_bytes()), kept);
        }
        for replaced in ["", "two words", "\"quoted\"", "tab\t", &"x".repeat(BYTES_MAX + 1)] {
            let id = of(replaced.as_bytes());
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{replaced:?}: {id}");
        }
        assert_eq!(of(b"\xff\xfe").len(), 32);
        assert_ne!(RequestId::fresh(), RequestId::fresh());
    }
}
