//! Selective decoding: where a stream of embeddings changes enough to be worth words.
//!
//! Two pure rules on plain slices, in f64 so that every machine cuts at the same place. [`Ward`] looks at a whole recording
//! and merges neighbours; [`Segmenter`] sees one embedding at a time and decides at once, by its [`Policy`]. Both stand on
//! the lowest floor because the model's verification and live sessions need the same ones, and neither may know the other.

mod policy;
mod segmenter;
mod ward;

pub use policy::{Policy, PolicyError, Reference};
pub use segmenter::{Decision, Held, Segmenter, Trigger};
pub use ward::{Merge, Segment, Ward, midpoint};

/// `1 - cos(a, b)`, 0 to 2; 1 where either has no direction.
pub fn cosine_distance(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    if norms > 0.0 { (1.0 - dot(a, b) / norms).clamp(0.0, 2.0) } else { 1.0 }
}

/// The same values in f64; none where one is no finite number.
fn widened(embedding: &[f32]) -> Option<Vec<f64>> {
    embedding.iter().map(|&value| value.is_finite().then_some(f64::from(value))).collect()
}
