//! A part as lines of JSON, one object a row. Every object has the same fields, so that readers find the same columns in
//! every part; numbers are written in as few digits as read back to the same value of their type.

use serde::Serialize;

use super::{Layout, Values};
use crate::embedding::{Embedding, Space};
use crate::jobs::Done;

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    row: u64,
    embedding: Values,
    space: Space,
    media_bytes: Option<u64>,
    media_width: Option<u32>,
    media_height: Option<u32>,
    media_frames: Option<u64>,
    media_duration_ms: Option<u64>,
    #[serde(flatten)]
    segment: Option<Segment>,
    #[serde(flatten)]
    ranked: Option<Ranked<'a>>,
    truncated: bool,
    status: &'static str,
}

#[derive(Serialize)]
struct Segment {
    segment_start_ms: Option<u64>,
    segment_end_ms: Option<u64>,
}

#[derive(Serialize)]
struct Ranked<'a> {
    answer: Option<&'a str>,
    scores: Option<&'a [f32]>,
}

/// The lines so far.
#[derive(Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    pub fn push(&mut self, layout: &Layout, done: &Done, embedding: &Embedding) {
        let Done { row, ref id, segment_ms, media, ref ranked, truncated, .. } = *done;
        let line = Line {
            id,
            row,
            embedding: Values::of(embedding, layout.vectors.dtype),
            space: embedding.space,
            media_bytes: media.map(|media| media.bytes),
            media_width: media.map(|media| media.width),
            media_height: media.map(|media| media.height),
            media_frames: media.map(|media| media.frames),
            media_duration_ms: media.map(|media| media.duration_ms),
            segment: layout.segments.map(|_| Segment {
                segment_start_ms: segment_ms.map(|[start, _]| start),
                segment_end_ms: segment_ms.map(|[_, end]| end),
            }),
            ranked: (!layout.candidates.is_empty()).then(|| Ranked {
                answer: ranked.as_ref().map(|ranked| &*ranked.answer),
                scores: ranked.as_ref().map(|ranked| &*ranked.scores),
            }),
            truncated,
            status: "OK",
        };
        serde_json::to_writer(&mut self.bytes, &line).expect("a row is JSON, and memory takes it");
        self.bytes.push(b'\n');
    }

    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
