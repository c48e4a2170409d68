//! The queue of shards: one stream, a message a shard, gone when the shard is done. A message carries what a worker
//! needs to find the shard, never media.
//!
//! A subject names rank, space, job, generation and shard. The servers hold at most one message a subject, so that a
//! shard that is queued twice is queued once; workers take only the spaces of their models, high ranks first; and a
//! job's messages can be taken out together. A message that is handed out comes again when nobody has been heard of it
//! for the lease. One that comes after its asker has lost patience, or has gone, is kept here for the next one who asks:
//! left alone it would wait out the lease and count as a try.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::{Message, Subscriber};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use super::bucket::has_code;
use super::connection::Connection;
use super::shared::encoded;
use crate::jobs::{JobId, Rank, Shard, StoreError};
use crate::settings::ClusterSettings;

/// Messages of one rank and space that are handed out at once, to all workers together.
const HANDED_OUT_MAX: i64 = 1 << 14;
/// How long the servers remember what was queued, to know it again.
const REMEMBERED: Duration = Duration::from_secs(120);
/// Time after which the servers forget how far the workers of a space are, if there are none; shards are not forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Time in which the servers must say that there is a shard, or that there is none.
const PULL_MAX: Duration = Duration::from_secs(3);
/// Time in which an answer that is late is still waited for; meanwhile nobody else asks.
const LATE_MAX: Duration = Duration::from_secs(10);
/// High ranks first.
const RANKS: [Rank; 3] = [Rank::High, Rank::Normal, Rank::Low];

/// What a message says: a shard that is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ticket {
    pub(super) job: JobId,
    pub(super) generation: u32,
    pub(super) shard: Shard,
}

/// The queue; cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    connection: Connection,
    stream: Stream,
    name: String,
    lease: Duration,
    consumers: Arc<Mutex<BTreeMap<String, PullConsumer>>>,
    /// Held by the one who asks the servers.
    asking: Arc<Mutex<()>>,
    /// What they have handed out and nobody has taken.
    handed: Arc<std::sync::Mutex<Vec<Delivery>>>,
}

/// A shard that was handed out to this process, which says so until this is dropped.
pub(super) struct Delivery {
    pub(super) ticket: Ticket,
    /// How often it was handed out, this time included.
    pub(super) deliveries: u64,
    acker: Arc<Acker>,
    heart: JoinHandle<()>,
}

impl Queue {
    pub(super) async fn open(connection: &Connection, settings: &ClusterSettings) -> Result<Self, StoreError> {
        let name = settings.name.clone();
        let config = Config {
            name: format!("{name}-work"),
            subjects: vec![format!("{name}.work.>")],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: settings.replicas,
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            duplicate_window: REMEMBERED,
            ..Config::default()
        };
        let stream = connection.stream(&config).await?;
        let lease = Duration::from_millis(settings.lease_ms);
        let connection = connection.clone();
        let (consumers, asking, handed) = Default::default();
        Ok(Self { connection, stream, name, lease, consumers, asking, handed })
    }

    /// Queues shards of one job; those that are queued already stay as they are.
    pub(super) async fn publish(&self, rank: Rank, space: &str, all: &[Ticket]) -> Result<(), StoreError> {
        let publish = |ticket: Ticket| async move {
            let Ticket { job, generation, shard } = &ticket;
            let subject = format!("{}.{}.{space}.{job}.{generation}.{}", self.prefix(), word(rank), shard.index);
            let name = format!("{job}.{generation}.{}", shard.index);
            let send = async || {
                let message = PublishMessage::build().payload(encoded(&ticket).into()).message_id(&name);
                let sent = self.connection.context().send_publish(subject.clone(), message).await?.await;
                match sent {
                    Err(error) if is_there(&error) => Ok(()),
                    sent => sent.map(|_| ()),
                }
            };
            self.connection.insist("a shard is queued", send).await
        };
        let sending = futures::stream::iter(all.iter().cloned().map(publish)).buffer_unordered(32);
        sending.try_collect::<Vec<()>>().await?;
        // Workers that have nothing to do look at once, not when they would by themselves.
        let client = self.connection.context().client();
        let woken = client.publish(self.wake_subject(), Vec::new().into()).await;
        woken.map_err(|error| self.connection.broken(error.to_string()))
    }

    /// The shards of a job that are queued or handed out.
    pub(super) async fn queued(&self, job: &JobId, generation: u32) -> Result<BTreeSet<u32>, StoreError> {
        let subject = format!("{}.*.*.{job}.{generation}.*", self.prefix());
        let ask = async || {
            let mut found = BTreeSet::new();
            let mut subjects = self.stream.info_with_subjects(&subject).await.map_err(|error| error.to_string())?;
            while let Some((subject, _)) = subjects.try_next().await.map_err(|error| error.to_string())? {
                found.extend(subject.rsplit('.').next().and_then(|shard| shard.parse::<u32>().ok()));
            }
            Ok::<_, String>(found)
        };
        self.connection.insist("queued shards", ask).await
    }

    /// Takes all messages of a job out, or those of one generation; whoever works on one is not told by this.
    pub(super) async fn forget(&self, job: &JobId, generation: Option<u32>) -> Result<(), StoreError> {
        let generation = generation.map_or("*".into(), |generation| generation.to_string());
        let subject = format!("{}.*.*.{job}.{generation}.*", self.prefix());
        let purge = async || self.stream.purge().filter(subject.clone()).await;
        self.connection.insist("shards are taken out", purge).await?;
        Ok(())
    }

    /// Hands out the next shard of these spaces, if there is one, high ranks first.
    pub(super) async fn next(&self, spaces: &[String]) -> Result<Option<Delivery>, StoreError> {
        for rank in RANKS {
            for space in spaces {
                if let Some(delivery) = self.handed().pop() {
                    return Ok(Some(delivery));
                }
                let name = format!("{}-{space}", word(rank));
                if let Err(problem) = self.pull(&name, rank, space).await {
                    // It is looked up again: the servers may have forgotten it.
                    self.consumers.lock().await.remove(&name);
                    return Err(self.connection.broken(problem));
                }
            }
        }
        Ok(self.handed().pop())
    }

    /// What was handed out and not taken, once nobody asks any more: for who asks no more.
    pub(super) async fn rest(&self) -> Vec<Delivery> {
        let _nobody_asks = self.asking.lock().await;
        std::mem::take(&mut *self.handed())
    }

    fn handed(&self) -> std::sync::MutexGuard<'_, Vec<Delivery>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves whenever shards have been queued.
    pub(super) async fn wakes(&self) -> Result<Subscriber, StoreError> {
        let subscribed = self.connection.context().client().subscribe(self.wake_subject()).await;
        subscribed.map_err(|error| self.connection.broken(error.to_string()))
    }

    /// Asks the servers for one shard. Whoever stops waiting for the answer loses nothing: it lies ready when it comes.
    async fn pull(&self, name: &str, rank: Rank, space: &str) -> Result<(), String> {
        let late = |_| "no answer in time".to_owned();
        let (told, answer) = oneshot::channel();
        let ask = async {
            let asking = self.asking.clone().lock_owned().await;
            let consumer = self.consumer(name, rank, space).await?;
            let queue = self.clone();
            tokio::spawn(async move {
                // Whoever asked may have gone.
                let _ = told.send(queue.pulled(&consumer).await);
                drop(asking);
            });
            answer.await.map_err(|error| error.to_string())?
        };
        tokio::time::timeout(PULL_MAX, ask).await.map_err(late)?
    }

    async fn pulled(&self, consumer: &PullConsumer) -> Result<(), String> {
        let next = async {
            let mut batch = consumer.fetch().max_messages(1).messages().await.map_err(|error| error.to_string())?;
            batch.next().await.transpose().map_err(|error| error.to_string())
        };
        let next = tokio::time::timeout(LATE_MAX, next).await.map_err(|error| error.to_string())?;
        if let Some(message) = next? {
            let delivery = self.delivery(message).await.map_err(|error| error.to_string())?;
            self.handed().extend(delivery);
        }
        Ok(())
    }

    async fn consumer(&self, name: &str, rank: Rank, space: &str) -> Result<PullConsumer, String> {
        if let Some(consumer) = self.consumers.lock().await.get(name) {
            return Ok(consumer.clone());
        }
        let config = pull::Config {
            durable_name: Some(name.into()),
            filter_subject: format!("{}.{}.{space}.>", self.prefix(), word(rank)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.lease,
            max_ack_pending: HANDED_OUT_MAX,
            inactive_threshold: FORGOTTEN_AFTER,
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        self.consumers.lock().await.insert(name.into(), consumer.clone());
        Ok(consumer)
    }

    async fn delivery(&self, message: async_nats::jetstream::Message) -> Result<Option<Delivery>, StoreError> {
        let deliveries = message.info().map(|info| info.delivered.unsigned_abs());
        let deliveries = deliveries.map_err(|error| self.connection.broken(error.to_string()))?;
        let (Message { payload, subject, .. }, acker) = message.split();
        let acker = Arc::new(acker);
        match serde_json::from_slice(&payload) {
            Ok(ticket) => {
                let heart = tokio::spawn(beat(acker.clone(), self.lease / 3));
                Ok(Some(Delivery { ticket, deliveries, acker, heart }))
            }
            Err(error) => {
                tracing::error!(%subject, %error, "a message is no shard; it is thrown away");
                let thrown = acker.ack_with(AckKind::Term).await;
                thrown.map(|()| None).map_err(|error| self.connection.broken(error.to_string()))
            }
        }
    }

    fn prefix(&self) -> String {
        format!("{}.work", self.name)
    }

    fn wake_subject(&self) -> String {
        format!("{}.wake", self.name)
    }
}

impl Delivery {
    /// The shard is done, or of no use: it does not come again.
    pub(super) async fn done(self) {
        self.tell(AckKind::Ack).await;
    }

    /// Another worker may have it now, or this one again.
    pub(super) async fn give_up(self, after: Option<Duration>) {
        self.tell(AckKind::Nak(after)).await;
    }

    async fn tell(&self, kind: AckKind) {
        self.heart.abort();
        // If it gets lost, the lease ends, and the shard comes again: whoever gets it finds its record.
        if let Err(error) = self.acker.ack_with(kind).await {
            tracing::debug!(%error, "the queue was not told");
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

/// Says for ever that a shard is being worked on. A task: however busy the model is, it runs on time.
async fn beat(acker: Arc<Acker>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = acker.ack_with(AckKind::Progress).await {
            tracing::debug!(%error, "the queue was not told that a shard is being worked on");
        }
    }
}

/// Whether a message was refused because its subject has one. The servers have one code for all that they do not store.
fn is_there(error: &PublishError) -> bool {
    has_code(error, ErrorCode::STREAM_STORE_FAILED) && error.to_string().contains("per subject")
}

fn word(rank: Rank) -> &'static str {
    match rank {
        Rank::High => "high",
        Rank::Normal => "normal",
        Rank::Low => "low",
    }
}
