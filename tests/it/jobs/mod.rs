//! Batch jobs: the laws of their stores, and what callers see of them.

mod cli;
mod embedded;
mod ground;
mod refused;
mod run;
pub mod samples;
mod service;
pub mod store_laws;
mod survival;
