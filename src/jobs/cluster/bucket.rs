//! A bucket of keys and values, every key with a revision. What is read comes from the leader of its replicas, never
//! from one that lags behind; what is written names the revision that it replaces, so that nobody overwrites what he
//! has not seen. Laid out as NATS's own tools expect it (`nats kv`).

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::kv::{self, Watch};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream};

use super::connection::Connection;
use crate::jobs::StoreError;

/// A value as it stands.
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) revision: u64,
}

/// A bucket; cheap to clone.
#[derive(Clone)]
pub(super) struct Bucket {
    connection: Connection,
    stream: Stream,
    store: kv::Store,
    prefix: String,
}

impl Bucket {
    /// Opens the bucket called `name`, or makes it. What nobody has written again for `age_max` is forgotten, if given.
    pub(super) async fn open(
        connection: &Connection,
        name: &str,
        replicas: usize,
        age_max: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let prefix = format!("$KV.{name}.");
        let config = Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("{prefix}>")],
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            discard: DiscardPolicy::New,
            max_age: age_max.unwrap_or_default(),
            duplicate_window: age_max.unwrap_or(Duration::from_secs(120)).min(Duration::from_secs(120)),
            storage: StorageType::File,
            num_replicas: replicas,
            allow_rollup: true,
            deny_delete: true,
            ..Config::default()
        };
        let stream = connection.stream(&config).await?;
        let store = connection.insist(name, || connection.context().get_key_value(name)).await?;
        Ok(Self { connection: connection.clone(), stream, store, prefix })
    }

    /// How long a value is kept that nobody writes again.
    pub(super) fn age_max(&self) -> Duration {
        self.stream.cached_info().config.max_age
    }

    /// The value of a key, if it has one.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.last(key).await?.and_then(|(entry, gone)| (!gone).then_some(entry)))
    }

    /// The last that was said of a key, and whether it was that it is gone.
    async fn last(&self, key: &str) -> Result<Option<(Entry, bool)>, StoreError> {
        let subject = self.subject(key);
        let read = async || match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let gone = message.headers.get("KV-Operation").is_some();
                Ok(Some((Entry { value: message.payload.to_vec(), revision: message.sequence }, gone)))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error),
        };
        self.connection.insist(key, read).await
    }

    /// Gives a key its first value and returns its revision; none if it has a value, which may be this very one if an
    /// answer got lost.
    pub(super) async fn create(&self, key: &str, value: &[u8]) -> Result<Option<u64>, StoreError> {
        if let Some(revision) = self.update(key, value, 0).await? {
            return Ok(Some(revision));
        }
        match self.last(key).await? {
            Some((entry, true)) => self.update(key, value, entry.revision).await,
            _ => Ok(None),
        }
    }

    /// Gives a key another value if it is still at `revision`, and returns its next one; none if it is not, which may be
    /// because an answer got lost.
    pub(super) async fn update(&self, key: &str, value: &[u8], revision: u64) -> Result<Option<u64>, StoreError> {
        let max = self.connection.value_bytes_max();
        if value.len() > max {
            let problem = format!("{key} is of {} bytes, at most {max} fit in a message of the queue", value.len());
            return Err(self.connection.broken(problem));
        }
        let message = || PublishMessage::build().payload(value.to_vec().into());
        self.publish(key, || message().expected_last_subject_sequence(revision)).await
    }

    /// Takes a key's value away if it is still at `revision`; says whether it was.
    pub(super) async fn delete(&self, key: &str, revision: u64) -> Result<bool, StoreError> {
        let message = || PublishMessage::build().header("KV-Operation", "DEL");
        Ok(self.publish(key, || message().expected_last_subject_sequence(revision)).await?.is_some())
    }

    /// Forgets everything about all keys that match, also that they were there.
    pub(super) async fn forget(&self, keys: &str) -> Result<(), StoreError> {
        let subject = self.subject(keys);
        self.connection.insist(keys, async || self.stream.purge().filter(subject.clone()).await).await?;
        Ok(())
    }

    /// All values of all keys that match, and all that they will have.
    pub(super) async fn watch(&self, keys: &[&str]) -> Result<Watch, StoreError> {
        self.connection.insist("watch", || self.store.watch_many_with_history(keys.iter().copied())).await
    }

    /// None if the key is not at the revision expected.
    async fn publish(&self, key: &str, message: impl Fn() -> PublishMessage) -> Result<Option<u64>, StoreError> {
        let subject = self.subject(key);
        let write = async || {
            let sent = self.connection.context().send_publish(subject.clone(), message()).await;
            let acknowledged = match sent {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            match acknowledged {
                Ok(acknowledged) => Ok(Some(acknowledged.sequence)),
                Err(error) if is_conflict(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.connection.insist(key, write).await
    }

    fn subject(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn is_conflict(error: &PublishError) -> bool {
    // The servers have two codes for it.
    error.kind() == PublishErrorKind::WrongLastSequence
        || has_code(error, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// Whether the servers refused with this code.
pub(super) fn has_code(error: &PublishError, code: ErrorCode) -> bool {
    let refusal = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    refusal.is_some_and(|refusal| refusal.error_code() == code)
}
