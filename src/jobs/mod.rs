//! Batch jobs over the engine: a file of rows in, parts of embeddings out, on one machine or on many.
//!
//! A job's input is cut into shards, runs of consecutive rows, once and for all ([`Shard`]); each shard becomes one part
//! of the output, whoever computes it and however often. The truth about jobs and shards stands in a [`Store`]: an
//! embedded one on one machine, a replicated one for many. What is lost by a crash is at most the shards in work:
//! a shard counts when its [`Record`] says so, and never twice.

mod attempt;
mod board;
#[cfg(feature = "nats")]
pub mod cluster;
pub mod commit;
mod errors;
#[cfg(test)]
mod fake;
pub mod files;
pub mod inputs;
mod job;
mod local;
mod pace;
pub mod parts;
mod row;
mod runner;
pub mod seen;
mod shard;
mod spec;
pub mod store;
mod turns;
mod work;

pub use attempt::attempt;
pub use board::{JobPage, JobView, Jobs, NewJob};
pub use errors::ErrorsPage;
pub use job::{Event, Job, JobId, Plan, Progress, Refused, State};
pub use local::Local;
pub use pace::{Live, Meter};
pub use row::{Done, Failed, Failure, Fault, Item, MediaFacts, MediaPlace, Ranked, Row};
pub use runner::Only;
pub use shard::{Record, Shard, Staged, StagedFile, Tally};
pub use spec::{Columns, Format, Input, InputKind, Output, OutputDtype, Rank, Segments, Spec, Vectors};
pub use store::{Store, StoreError};
pub use work::Work;
