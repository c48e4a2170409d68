//! What can be wrong with input. One enum for the whole room, so that the floors above map it once.

/// Why input was refused. Every message names the field, its value and its bound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// More of something than a limit allows: bytes, pixels, frames.
    #[error("{field} is {value}, at most {max} allowed")]
    TooLarge {
        /// What was measured, with its unit.
        field: &'static str,
        /// Its value, as people write it.
        value: String,
        /// The limit.
        max: u64,
    },
    /// A field that holds what cannot be meant.
    #[error("{field} is {value}, must be {bound}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        bound: String,
    },
    /// Bytes that are no media we know.
    #[error("media begins with {begins}, must be JPEG, PNG, WebP, GIF, BMP or MP4")]
    UnknownFormat {
        /// The first bytes, hexadecimal.
        begins: String,
    },
    /// Media that is broken, or that uses what its decoder does not know.
    #[error("{format} cannot be decoded: {reason}")]
    Undecodable {
        /// Format told by the first bytes.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// A clip or picture without a single frame to look at.
    #[error("{field} leaves no frame of {frames}")]
    NoFrames {
        /// What took the frames away.
        field: &'static str,
        /// Frames there were.
        frames: usize,
    },
    /// Whoever asked for it lost patience.
    #[error("given up")]
    GivenUp,
    /// A preprocessor_config.json or tokenizer.json that cannot be used.
    #[error("{file}: {reason}")]
    File {
        /// Name of the file.
        file: String,
        /// What is wrong, with field and bound where there is one.
        reason: String,
    },
}
