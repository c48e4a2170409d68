//! The figures of a stream: how many frames, windows and words, and what they took.

use crate::cli::cue::clock;
use crate::watch::Stats;

/// Decodes in a minute of the stream.
pub(super) fn per_minute(decodes: u64, duration_ms: u64) -> f64 {
    if duration_ms > 0 { decodes as f64 * 60_000.0 / duration_ms as f64 } else { 0.0 }
}

/// The share of `uniform` decodes that were not made, percent; none where nothing would have been made either.
pub(super) fn saved(decodes: u64, uniform: u64) -> Option<f64> {
    (uniform > 0).then(|| 100.0 * (1.0 - decodes as f64 / uniform as f64).max(0.0))
}

/// All of it on a few lines; `unsent` frames were dropped before the session knew of them.
pub(super) fn told(stats: &Stats, unsent: u64) -> String {
    let Stats {
        frames, frames_still, frames_encoded, frames_skipped, frames_failed, windows, windows_repeated, ..
    } = stats;
    let dropped = stats.frames_dropped + unsent;
    let come = frames + unsent;
    let rate = per_minute(stats.decodes, stats.duration_ms);
    let saved = saved(stats.decodes, stats.decodes_uniform_1hz);
    let saved = saved.map_or_else(String::new, |saved| format!(": {saved:.0} % saved"));
    let (length, decodes) = (clock(stats.duration_ms), stats.decodes);
    let (uniform, embeddings) = (stats.decodes_uniform_1hz, stats.embeddings);
    [
        format!(
            "frames   {come} in {length}; {frames_still} still, {frames_encoded} encoded, {frames_skipped} skipped, {dropped} dropped, \
             {frames_failed} failed"
        ),
        format!("windows  {windows}, of them {windows_repeated} as before; {embeddings} embeddings"),
        format!("decodes  {decodes}, {rate:.1} a minute; at a uniform 1 Hz {uniform}{saved}"),
        format!(
            "time     vision {:.0} ms, predictor {:.0} ms, words {:.0} ms",
            stats.vision_ms, stats.predictor_ms, stats.words_ms
        ),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up() {
        let stats = Stats {
            frames: 480,
            frames_still: 12,
            frames_encoded: 463,
            frames_skipped: 2,
            frames_dropped: 2,
            frames_failed: 1,
            windows: 237,
            windows_repeated: 6,
            embeddings: 237,
            decodes: 9,
            decodes_uniform_1hz: 120,
            duration_ms: 120_000,
            vision_ms: 812.4,
            predictor_ms: 120.0,
            words_ms: 13.6,
        };
        let told = told(&stats, 20);
        assert!(told.contains("500 in 00:02:00.000; 12 still, 463 encoded, 2 skipped, 22 dropped, 1 failed"), "{told}");
        assert!(told.contains("decodes  9, 4.5 a minute; at a uniform 1 Hz 120: 92 % saved"), "{told}");
        assert!(told.contains("vision 812 ms, predictor 120 ms, words 14 ms"), "{told}");
    }

    #[test]
    fn nothing_is_no_division() {
        let told = told(&Stats::default(), 0);
        assert!(told.contains("decodes  0, 0.0 a minute; at a uniform 1 Hz 0\n"), "{told}");
        assert_eq!((saved(30, 10), per_minute(3, 0)), (Some(0.0), 0.0));
    }
}
