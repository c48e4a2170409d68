//! Selective decoding measured: how much of what happens on long streams is said at which decode rate.
//!
//! The experiment of VL-JEPA (Chen et al., 2025, section on selective decoding) on generated streams, where what is true at
//! every moment is known. A [`Recording`] is a stream as the model sees it, an embedding a window; a way ([`uniform`],
//! [`ward`], [`gate`]) chooses what of it is put into words; every stretch of the stream is paired with the text nearest in
//! time and scored by CIDEr-D ([`Cider`]) and by exact words. [`study`] does all of it; the causal rule's figures are chosen
//! on streams of their own.

mod choose;
mod cider;
mod curve;
mod recording;
mod score;
mod separation;
mod study;
mod table;
mod ways;
mod words;

#[cfg(test)]
mod tests;

pub use choose::{Chosen, KEPT};
pub use cider::Cider;
pub use curve::{Curve, Point, Way};
pub use recording::{Recording, View};
pub use score::Score;
pub use separation::Separation;
pub use study::{Ratio, Study, StudySettings, VoiceReport, study};
pub use ways::{Said, Spot, gate, uniform, ward};
pub use words::Voice;
