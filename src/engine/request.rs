//! What the engine is asked and what it answers: plain structs, for the engine knows no protocol.
//!
//! The service fills them from protobuf, the commands from files; everything in them has been checked against
//! the limits that need no decoding.

use std::time::{Duration, Instant};

use super::trail::Trail;
use super::uploads::Stored;
use crate::embedding::Embedding;
use crate::input::Sampling;
use crate::model::decoder::DecodeOptions;

/// Whose work goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// A live session.
    Watch,
    /// Work that has time.
    Job,
}

impl Class {
    /// All of them, the first to go first; each is its own index.
    pub const ALL: [Class; 3] = [Class::Interactive, Class::Watch, Class::Job];

    /// Its name as logs and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Watch => "watch",
            Self::Job => "job",
        }
    }
}

/// What becomes of work for which there is no room now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Full {
    /// It is refused, with the time after which to come again.
    #[default]
    Refuse,
    /// It waits until its deadline: for whoever bounds by other means how much may wait.
    Wait,
}

/// What belongs to every call, whatever it asks.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its place among others.
    pub class: Class,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// What it does where there is no room.
    pub full: Full,
    /// What it leaves behind for those who watch.
    pub trail: Trail,
}

impl Call {
    /// A call of somebody who waits until `deadline`.
    pub fn interactive(deadline: Instant) -> Self {
        Self { class: Class::Interactive, deadline, full: Full::Refuse, trail: Trail::default() }
    }
}

/// What a question is about.
#[derive(Debug, Clone)]
pub enum Media {
    /// A whole image, animation or video file.
    File(Vec<u8>),
    /// The frames of a clip, in the order they are shown.
    Frames(Vec<MediaFrame>),
    /// A whole image, animation or video file that was sent ahead.
    Stored(Stored),
}

/// One frame of a clip.
#[derive(Debug, Clone)]
pub enum MediaFrame {
    /// A still image file.
    Encoded {
        /// The file.
        bytes: Vec<u8>,
        /// When it is shown, milliseconds.
        pts_ms: u64,
    },
    /// Pixels, row by row.
    Raw {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// What the bytes of a pixel are.
        order: PixelOrder,
        /// `width * height` pixels.
        pixels: Vec<u8>,
        /// When it is shown, milliseconds.
        pts_ms: u64,
    },
}

impl MediaFrame {
    /// When it is shown, milliseconds.
    pub fn pts_ms(&self) -> u64 {
        match self {
            Self::Encoded { pts_ms, .. } | Self::Raw { pts_ms, .. } => *pts_ms,
        }
    }

    /// What it takes as it came, bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Encoded { bytes, .. } | Self::Raw { pixels: bytes, .. } => bytes.len(),
        }
    }
}

/// The bytes of a raw pixel, one a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Luminance.
    Gray,
}

impl PixelOrder {
    /// Bytes a pixel.
    pub fn channels(self) -> u64 {
        match self {
            PixelOrder::Rgb | PixelOrder::Bgr => 3,
            PixelOrder::Gray => 1,
        }
    }
}

/// A question about an image or a clip.
#[derive(Debug, Clone)]
pub struct Question {
    /// What it is about.
    pub media: Media,
    /// Which frames are looked at.
    pub sampling: Sampling,
    /// The question in words.
    pub text: String,
}

/// How a question is to be answered in words.
#[derive(Debug, Clone)]
pub enum Manner {
    /// By the nearest of these texts.
    Choose(Vec<String>),
    /// By the decoder.
    Speak(DecodeOptions),
}

/// A predicted answer, or the embedding of a text.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// A point of the shared space.
    pub embedding: Embedding,
    /// What it took.
    pub usage: Usage,
    /// How long it took.
    pub timing: Timing,
}

/// An answer in words.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The best candidate, or what the decoder said.
    pub text: String,
    /// Every candidate in the order given; empty when the decoder spoke.
    pub choices: Vec<Choice>,
    /// The predicted embedding, what it took and how long it took.
    pub embedded: Embedded,
}

/// A candidate and how well it fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The candidate as given.
    pub text: String,
    /// Probability among the candidates, 0 to 1.
    pub score: f32,
    /// Cosine to the predicted embedding, -1 to 1.
    pub cosine: f32,
}

/// What a piece of work consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens that the vision encoder made.
    pub visual_tokens: usize,
    /// Tokens of the question or text.
    pub text_tokens: usize,
    /// Frames decoded.
    pub frames_decoded: usize,
    /// Frames that the model looked at.
    pub frames_used: usize,
    /// Whether a text was cut to the model's longest.
    pub truncated: bool,
    /// The clip as it came, if it is about one.
    pub clip: Option<ClipFacts>,
}

/// What decoding tells of a picture or a clip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClipFacts {
    /// Pixels in a row of the first frame.
    pub width: u32,
    /// Rows of the first frame.
    pub height: u32,
    /// Frames there are.
    pub frames: u64,
    /// When the last frame is shown, milliseconds since the clip's start.
    pub duration_ms: u64,
}

/// Where the time went. A stage that a batch shares counts in full for each of its requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Decoding, sampling, scaling, splitting into tokens.
    pub prepare: Duration,
    /// Waiting for the model.
    pub queue: Duration,
    /// The vision encoder.
    pub vision: Duration,
    /// The predictor.
    pub predictor: Duration,
    /// The text encoder.
    pub text: Duration,
    /// The decoder.
    pub decoder: Duration,
    /// From arrival to answer.
    pub total: Duration,
}

impl Timing {
    /// The stages under the names that all surfaces show, in the order they run, the total last; milliseconds.
    pub fn stages_ms(&self) -> [(&'static str, f64); 7] {
        [
            ("prepare", self.prepare),
            ("queue", self.queue),
            ("vision", self.vision),
            ("predictor", self.predictor),
            ("text", self.text),
            ("decoder", self.decoder),
            ("total", self.total),
        ]
        .map(|(stage, time)| (stage, time.as_secs_f64() * 1e3))
    }
}
