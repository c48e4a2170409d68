//! VL-JEPA on ordinary CPUs.
//!
//! A vision encoder and a question feed a predictor that outputs one answer embedding; a text encoder puts
//! candidate answers into the same space; a decoder turns an embedding into words when someone wants words.
//! ARCHITECTURE.md draws the floors; every arrow between the modules below points down this list.

pub mod cli;
pub mod engine;
pub mod jobs;
pub mod model;
pub mod nn;
pub mod service;
pub mod train;
pub mod watch;

pub mod allocator;
pub mod embedding;
pub mod input;
pub mod kernel;
pub mod segment;
pub mod settings;
