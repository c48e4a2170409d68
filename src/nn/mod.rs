//! Layers, each with its forward and its backward.
//!
//! A batch of sequences is one matrix `[tokens, width]`: the rows of the first sequence, then of the second, and so on.
//! There is no padding inside the model. Linear layers run over all rows at once; attention gets a [`attention::Plan`]
//! that says which rows see which. So "padding changes nothing" and "a batch equals its singles" hold by construction.

pub mod activation;
pub mod attention;
pub mod linear;
pub mod norm;
mod op;
pub mod rope;
pub mod rows;
pub mod source;
pub mod table;
pub mod weights;

use candle_nn::Module;

/// Our layers are modules as candle's are, so they stand in `candle_nn` containers beside each other.
macro_rules! modules {
    ($($layer:ty),*) => {$(
        impl Module for $layer {
            fn forward(&self, x: &candle_core::Tensor) -> candle_core::Result<candle_core::Tensor> {
                <$layer>::forward(self, x)
            }
        }
    )*};
}

modules!(linear::Linear, norm::LayerNorm, norm::RmsNorm);

/// What went wrong in a tensor operation, without the stack trace that candle may have put behind it: traces name
/// files of the machine that built the program, and are of no use to who reads the message.
pub fn cause(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => cause(inner),
        other => other,
    }
}

#[cfg(test)]
mod tests;
