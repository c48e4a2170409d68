//! A generated stream as the model sees it: an embedding a window, as live sessions and long clips cut it.

use std::ops::Range;
use std::sync::Arc;

use crate::input::{Clip, Footage, Frame, InputError, Preprocessor, Sampling, Windows};
use crate::segment::Ward;
use crate::train::evaluate::{EvaluateError, Rows, Subject};
use crate::train::world::{Annotation, Stream};

/// How a stream is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Windows of the stream.
    pub windows: Windows,
    /// Pixels of a drawn frame's side.
    pub side: usize,
}

/// A stream with the embeddings of all its windows.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Length, milliseconds.
    pub duration_ms: u64,
    /// Everything that is true of it.
    pub annotations: Vec<Annotation>,
    /// From when to when each window goes, milliseconds.
    pub windows: Vec<[u64; 2]>,
    /// An embedding a window.
    pub rows: Rows,
    /// How its embeddings cluster, down to one segment.
    pub tree: Ward,
}

/// Clips a forward pass.
const BATCH: usize = 16;

impl Recording {
    /// Looks at a whole stream with one question. A window that the end cuts short is left out, unless it is the only one.
    pub fn make(
        subject: &dyn Subject,
        preprocessor: &Preprocessor,
        stream: &Stream,
        question: &[u32],
        view: &View,
    ) -> Result<Recording, EvaluateError> {
        let side = view.side as u32;

        let frame = |(index, rgb)| Frame { width: side, height: side, rgb, pts_ms: stream.frame_ms(index) as u64 };
        let frames: Vec<Frame> = stream.frames(view.side).enumerate().map(frame).collect();
        let footage = Footage::of(&frames);
        let mut windows = view.windows.of(footage.times())?;
        let whole = |window: &[u64; 2]| window[1] - window[0] == view.windows.window_ms;
        if windows.iter().any(whole) {
            windows.retain(whole);
        }
        let rows = look(subject, preprocessor, &footage, &windows, question)?;
        let (duration_ms, annotations) = (stream.duration_ms, stream.annotations.clone());
        Ok(Recording::new(duration_ms, annotations, windows, rows))
    }

    /// Of embeddings that are known.
    ///
    /// # Panics
    /// If there are more or fewer of them than windows, or if they differ in length.
    pub fn new(duration_ms: u64, annotations: Vec<Annotation>, windows: Vec<[u64; 2]>, rows: Rows) -> Recording {
        assert_eq!(windows.len(), rows.len(), "an embedding a window");
        let tree = Ward::cluster(&rows, 1);
        Recording { duration_ms, annotations, windows, rows, tree }
    }

    /// The time that an embedding stands for, milliseconds: the middle of its window.
    pub fn middle_ms(&self, index: usize) -> u64 {
        let [start, end] = self.windows[index];
        start + (end - start) / 2
    }

    /// The mean of a run of embeddings, of unit length where it has a direction.
    pub fn pooled(&self, run: &Range<usize>) -> Vec<f32> {
        if run.len() == 1 {
            return self.rows[run.start].clone();
        }
        let width = self.rows.first().map_or(0, Vec::len);
        let sum = |d: usize| self.rows[run.clone()].iter().map(|row| f64::from(row[d])).sum::<f64>();
        let mean: Vec<f64> = (0..width).map(sum).collect();
        let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        mean.into_iter().map(|value| (value * scale) as f32).collect()
    }
}

/// The embedding of every window, a batch of clips at a time.
fn look(
    subject: &dyn Subject,
    preprocessor: &Preprocessor,
    footage: &Footage,
    windows: &[[u64; 2]],
    question: &[u32],
) -> Result<Rows, EvaluateError> {
    let sampling = |&[start, end]: &[u64; 2]| Sampling {
        start_ms: Some(start),
        end_ms: Some(end.max(start + 1)),
        ..Sampling::default()
    };
    let samplings: Vec<Sampling> = windows.iter().map(sampling).collect();
    let (mut rows, mut batch, mut failed) = (Rows::new(), Vec::<Arc<Clip>>::new(), None);
    let mut flush = |batch: &mut Vec<Arc<Clip>>| {
        let made = subject.predict(batch, &vec![question; batch.len()]);
        batch.clear();
        made.map(|made| rows.extend(made))
    };
    let mut each = |_: usize, clip: Clip| {
        batch.push(Arc::new(clip));
        if batch.len() < BATCH {
            return Ok(());
        }
        flush(&mut batch).map_err(|reason| {
            failed = Some(reason);
            InputError::GivenUp
        })
    };
    let gone_through = preprocessor.clips_of(footage, &samplings, &mut |_| true, &mut each);
    if let Some(reason) = failed {
        return Err(EvaluateError::Model(reason));
    }
    gone_through?;
    if !batch.is_empty() {
        flush(&mut batch).map_err(EvaluateError::Model)?;
    }
    Ok(rows)
}
