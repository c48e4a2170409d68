//! What the model answers when it cannot: one error at the boundary between tensors and everything above.

use crate::embedding::Space;
use crate::input::InputError;
use crate::nn::cause;

/// Why a model could not compute.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Text or pixels that cannot be prepared.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A text without any tokens has no embedding.
    #[error("text {index} has no tokens; it needs at least 1")]
    EmptyText {
        /// Which of the texts.
        index: usize,
    },
    /// More tokens than the part takes.
    #[error("{what} has {tokens} tokens; it may have at most {tokens_max}")]
    TooLong {
        /// `question` or `text`.
        what: &'static str,
        /// How many it has.
        tokens: usize,
        /// How many it may have.
        tokens_max: usize,
    },
    /// A bundle without a decoder cannot turn embeddings into words.
    #[error("this bundle has no decoder: ask with candidates")]
    NoDecoder,
    /// An embedding from elsewhere.
    #[error("embedding is of space {space} with {dimensions} dimensions; this model's is {own} with {own_dimensions}")]
    ForeignEmbedding {
        /// Where it is from.
        space: Space,
        /// How long it is.
        dimensions: usize,
        /// The model's space.
        own: Space,
        /// The dimensions of the model's space.
        own_dimensions: usize,
    },
    /// An embedding that holds no number: a weight or a pixel is not one either.
    #[error("embedding {index} holds {value}, expected finite numbers: a weight or a pixel is not finite")]
    NotFinite {
        /// Which of the embeddings.
        index: usize,
        /// Its first value that is none.
        value: f32,
    },
    /// The forward pass failed: shapes, ids outside a vocabulary.
    #[error("forward pass: {}", cause(.0))]
    Forward(#[from] candle_core::Error),
}
