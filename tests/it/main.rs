//! The integration tests, one binary.

mod architecture;
mod bitlinear;
mod cli;
mod engine;
mod golden;
mod input;
mod model_laws;
mod preprocess;
mod service;
mod train;
mod verify;
