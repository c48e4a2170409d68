//! VL-JEPA's parts and what holds them together: configs, the vision encoder, the predictor, the text encoders, the
//! decoder, and the bundle on disk. Forward passes are written once and serve training and inference; above this
//! floor there are no tensors.

pub mod bundle;
pub mod config;
pub mod decoder;
pub mod error;
pub mod export;
pub mod facts;
pub mod files;
pub mod llama;
pub mod precision;
pub mod predictor;
pub mod preset;
pub mod rehearsal;
pub mod text;
pub mod verify;
pub mod vision;
pub mod vl_jepa;

use candle_core::Tensor;

/// Is shown every stage of a forward pass by name (`layer0`, `norm`, `pooled` ...); `verify` compares them.
pub type Observer<'a> = dyn FnMut(&str, &Tensor) + 'a;

/// The observer of those who want the result only.
pub fn unobserved(_stage: &str, _value: &Tensor) {}
