//! From bytes to what the model eats: decoding, sampling, scaling, splitting into tokens.
//!
//! This is processor time spent on hostile bytes, so it happens off the async threads, on a bounded number of
//! blocking ones, and a panic in a decoder is an error of its request alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::error::EngineError;
use super::queue::{Admission, Load};
use super::request::{Media, MediaFrame, PixelOrder, Question};
use super::seen;
use crate::input::{Clip, Frame, InputError, MediaLimits, Preprocessor, decode_media};

/// The pool that prepares requests.
#[derive(Debug)]
pub struct Prepare {
    waiting: Admission,
    threads: Arc<Semaphore>,
    retry_after: Duration,
}

impl Prepare {
    /// At most `waiting_max` at once, of which `threads` run.
    pub fn new(waiting_max: usize, threads: usize, retry_after: Duration) -> Self {
        let waiting = Admission::new(Load { items: waiting_max, cost: 0 });
        Self { waiting, threads: Arc::new(Semaphore::new(threads)), retry_after }
    }

    /// Runs `work` when a thread is free; it does not start if the caller goes away before.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let full = EngineError::Overloaded { what: "the preparation queue", retry_after: self.retry_after };
        let waiting = self.waiting.enter(Load { items: 1, cost: 0 }).ok_or_else(|| {
            seen::refused("preparation");
            full
        })?;
        let thread = self.threads.clone().acquire_owned().await.map_err(|_| EngineError::Stopped)?;
        let running = tokio::task::spawn_blocking(move || {
            // Both are held by the thread itself: a caller that leaves does not free it.
            let _held = (waiting, thread);
            work()
        });
        running.await.unwrap_or_else(|_| Err(EngineError::Internal("preparing the request panicked".into())))
    }
}

/// Decodes what a question is about and makes it a clip.
pub fn clip(question: &Question, preprocessor: &Preprocessor, limits: &MediaLimits) -> Result<Clip, EngineError> {
    let frames = frames(&question.media, limits)?;
    preprocessor.clip(&frames, &question.sampling).map_err(|error| invalid("media", &error))
}

fn frames(media: &Media, limits: &MediaLimits) -> Result<Vec<Frame>, EngineError> {
    match media {
        Media::File(bytes) => decode_media(bytes, limits).map_err(|error| invalid("media", &error)),
        Media::Stored(stored) => {
            let bytes = stored.read()?;
            // An upload has a bound of its own, which it has kept.
            let limits = MediaLimits { bytes_max: bytes.len(), ..*limits };
            decode_media(&bytes, &limits).map_err(|error| invalid("media", &error))
        }
        Media::Frames(frames) => {
            let mut decoded_bytes = 0;
            let decode = |(at, frame): (usize, &MediaFrame)| {
                let field = format!("media.frames[{at}]");
                let frame = still(frame, limits).map_err(|error| invalid(&field, &error))?;
                decoded_bytes += frame.rgb.len() as u64;
                if decoded_bytes > limits.decode_bytes_max {
                    let problem = format!("clip takes more than {} bytes once decoded", limits.decode_bytes_max);
                    return Err(EngineError::Invalid { field, problem });
                }
                Ok(frame)
            };
            frames.iter().enumerate().map(decode).collect()
        }
    }
}

/// One frame; of an animation the first picture.
fn still(frame: &MediaFrame, limits: &MediaLimits) -> Result<Frame, InputError> {
    match frame {
        MediaFrame::Raw { width, height, order, pixels, pts_ms } => {
            let rgb = match order {
                PixelOrder::Rgb => pixels.clone(),
                PixelOrder::Bgr => {
                    pixels.as_chunks().0.iter().flat_map(|&[blue, green, red]| [red, green, blue]).collect()
                }
                PixelOrder::Gray => pixels.iter().flat_map(|&luminance| [luminance; 3]).collect(),
            };
            Ok(Frame { width: *width, height: *height, rgb, pts_ms: *pts_ms })
        }
        MediaFrame::Encoded { bytes, pts_ms } => {
            let first = decode_media(bytes, limits)?.swap_remove(0);
            Ok(Frame { pts_ms: *pts_ms, ..first })
        }
    }
}

/// The error of a field that came from outside.
pub fn invalid(field: &str, error: &InputError) -> EngineError {
    EngineError::Invalid { field: field.into(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn prepare(waiting_max: usize) -> Arc<Prepare> {
        Arc::new(Prepare::new(waiting_max, 1, Duration::from_millis(5)))
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_request_alone() {
        let prepare = prepare(1);
        let outcome: Result<(), _> = prepare.run(|| panic!("a decoder's bug")).await;
        assert!(matches!(outcome, Err(EngineError::Internal(_))), "{outcome:?}");
        assert_eq!(prepare.run(|| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn a_full_pool_refuses_at_once() {
        let prepare = prepare(1);
        let (finish, finished) = mpsc::channel::<()>();
        let busy = tokio::spawn({
            let prepare = prepare.clone();
            async move { prepare.run(move || finished.recv().map_err(|_| EngineError::Stopped)).await }
        });
        while prepare.waiting.load().items == 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(prepare.run(|| Ok(())).await, Err(EngineError::Overloaded { .. })));
        finish.send(()).expect("it waits");
        assert_eq!(busy.await.expect("no panic"), Ok(()));
        assert_eq!(prepare.run(|| Ok(())).await, Ok(()));
    }
}
