//! The trainer: data, losses, optimiser, checkpoints, evaluation.

pub mod world;
