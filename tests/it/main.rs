//! The integration tests, one binary.

mod architecture;
mod bitlinear;
mod bits_laws;
mod bundled;
mod cli;
#[cfg(feature = "nats")]
mod cluster;
mod engine;
mod evaluate_stream;
mod faults;
mod fuzz;
mod golden;
mod hostile;
mod input;
mod job_attempts;
mod jobs;
mod load;
mod model_laws;
mod preprocess;
mod process;
mod segments;
mod service;
mod settings;
mod tiny;
mod train;
mod verify;
mod watch;
mod watch_command;
mod watch_sessions;
