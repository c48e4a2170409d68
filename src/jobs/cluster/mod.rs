//! Jobs of many machines: the truth about them in a replicated bucket of NATS JetStream, their shards in a queue there.
//!
//! `connection.rs`, `bucket.rs` and `queue.rs` are what the servers are asked for; `view.rs` is what a process knows;
//! [`Replicated`] is the store, with one meaning whatever machine asks. Every server runs a [`Reconciler`], which plans
//! jobs and keeps the queue full, and every worker a [`Worker`], which takes shards from it. Whatever a message, a server
//! or a worker does, or fails to do: a shard counts when its record says so, and that is decided once.

mod bucket;
mod claim;
mod connection;
mod queue;
mod reconciler;
mod replicated;
mod shared;
mod view;
mod worker;

pub use reconciler::Reconciler;
pub use replicated::Replicated;
pub use worker::Worker;
