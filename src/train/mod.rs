//! The trainer: data, losses, optimiser, checkpoints, evaluation.
//!
//! It builds the model's own parts over trainable variables; nothing here is needed to answer questions.

pub mod checkpoint;
pub mod data;
pub mod dense;
pub mod evaluate;
pub mod lines;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod parts;
pub mod recipe;
pub mod schedule;
pub mod session;
pub mod step;
pub mod stream;
pub mod subjects;
pub mod trainer;
pub mod world;
