//! Batch jobs: the laws of their stores, and what callers see of them.

mod embedded;
mod run;
pub mod samples;
pub mod store_laws;
