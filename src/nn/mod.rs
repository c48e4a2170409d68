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
pub mod weights;

#[cfg(test)]
mod tests;
