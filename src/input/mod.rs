//! From bytes to what a model takes: pixels and tokens, under limits.
//!
//! `image` turns bytes into frames and `encode` frames into bytes; `sampling` picks some of them, `clip` makes them one normalised clip with the
//! arithmetic of `resize`; `text` turns strings into tokens. Everything here takes hostile input: it answers with
//! an [`InputError`] that names field, value and bound, and never panics. What a limit is, the caller says; the
//! numbers stand in the settings.

mod clip;
pub mod encode;
mod error;
mod image;
mod resize;
mod sampling;
mod text;

pub use clip::{Clip, Frame, Preprocessor, Size};
pub use error::InputError;
pub use image::{MediaLimits, decode_media, decode_media_while};
pub use sampling::Sampling;
pub use text::{Tokenizer, Tokens, word_level};
