//! The integration tests, one binary.

mod architecture;
mod bitlinear;
mod bundled;
mod cli;
mod engine;
mod golden;
mod input;
mod load;
mod model_laws;
mod preprocess;
mod service;
mod settings;
mod train;
mod verify;
