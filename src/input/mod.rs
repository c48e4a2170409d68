//! From bytes to what a model takes: pixels and tokens, under limits.
//!
//! `footage` turns bytes into frames, by `image` or by `video`, and `encode` frames into bytes; `sampling` picks some of
//! them, `clip` makes them one normalised clip with the arithmetic of `resize`, `picture` does the same a frame at a time; `text` turns strings into tokens. Everything here takes hostile input: it answers with
//! an [`InputError`] that names field, value and bound, and never panics. What a limit is, the caller says; the
//! numbers stand in the settings.

mod clip;
mod easel;
pub mod encode;
mod error;
mod footage;
mod image;
mod picture;
mod resize;
mod sampling;
mod shrink;
mod text;
mod video;
mod windows;

pub use clip::{Clip, Frame, Preprocessor, Size};
pub use error::InputError;
pub use footage::{Facts, Footage, MediaLimits, decode_media, decode_media_while};
pub use picture::Picture;
pub use sampling::Sampling;
pub use shrink::shrunk;
pub use text::{Tokenizer, Tokens, word_level};
pub use windows::{SEGMENTS_MAX, Windows, end_ms};
