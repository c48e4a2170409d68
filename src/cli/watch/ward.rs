//! The cut of a recording that has been seen whole: a first session looks at all of it and says nothing, Ward's rule cuts
//! each question's embeddings where they change most, and a second session puts the mean of every segment into words.

use anyhow::{bail, ensure};

use super::run::{self, Ending, Interrupt};
use super::show::Shown;
use super::source::Feed;
use crate::cli::client::Sessions;
use crate::embedding::Embedding;
use crate::segment::Ward;
use crate::watch::{Event, Finished, Input, Seen, Span, Spec, Spoken, Trigger};

/// All embeddings that are kept, bytes.
const EMBEDDINGS_BYTES_MAX: usize = 256 << 20;

/// How many segments there are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cut {
    Segments(usize),
    PerMinute(f64),
}

impl Cut {
    /// For a stream of this length; at least one.
    fn count(self, duration_ms: u64) -> usize {
        match self {
            Self::Segments(segments) => segments,
            // A cast saturates.
            Self::PerMinute(rate) => ((duration_ms as f64 / 60_000.0 * rate).round() as usize).max(1),
        }
    }
}

/// What was seen, a list a question.
#[derive(Debug, Default)]
struct Kept {
    questions: Vec<Vec<(Span, Embedding)>>,
    bytes: usize,
}

/// A segment of one question's stream.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    query: usize,
    span: Span,
    mean: Embedding,
}

impl Kept {
    /// Keeps one more; fails where that would be too much.
    fn add(&mut self, seen: &Seen) -> anyhow::Result<()> {
        if self.questions.len() <= seen.query {
            self.questions.resize_with(seen.query + 1, Vec::new);
        }
        ensure!(!seen.embedding.values.is_empty(), "the session sends no embeddings, which --decode ward needs");
        let question = &mut self.questions[seen.query];
        if let Some((_, first)) = question.first() {
            let (dimensions, found) = (first.values.len(), seen.embedding.values.len());
            ensure!(found == dimensions, "an embedding has {found} dimensions, those before it {dimensions}");
        }
        self.bytes += size_of_val(&seen.embedding.values[..]);
        if self.bytes > EMBEDDINGS_BYTES_MAX {
            bail!(
                "--decode ward keeps all embeddings, over {EMBEDDINGS_BYTES_MAX} bytes at {} s of the stream: \
                 look at less of it (--limit), or less often (--stride), or use --decode drift",
                seen.span.ms[1] / 1000
            );
        }
        question.push((seen.span, seen.embedding.clone()));
        Ok(())
    }

    /// All segments of all questions in the order in which they begin.
    fn pieces(&self, cut: Cut) -> Vec<Piece> {
        let mut pieces: Vec<Piece> =
            (0..).zip(&self.questions).flat_map(|(query, seen)| pieces_of(query, seen, cut)).collect();
        pieces.sort_by_key(|piece| (piece.span.ms[0], piece.query));
        pieces
    }
}

fn pieces_of(query: usize, seen: &[(Span, Embedding)], cut: Cut) -> Vec<Piece> {
    let (Some((first, one)), Some((last, _))) = (seen.first(), seen.last()) else { return vec![] };
    let values: Vec<&[f32]> = seen.iter().map(|(_, embedding)| &embedding.values[..]).collect();
    let segments = Ward::cluster(&values, cut.count(last.ms[1].saturating_sub(first.ms[0]))).segments;
    // Windows overlap: two segments meet in the middle between the centres of the windows beside the cut.
    let centre = |at: usize| seen[at].0.ms.map(u128::from).iter().sum::<u128>() / 2;
    let border = |at: usize| ((centre(at - 1) + centre(at)) / 2) as u64;
    let piece = |segment: &crate::segment::Segment| {
        let (start, end) = (segment.start, segment.end);
        let start_ms = if start == 0 { first.ms[0] } else { border(start) };
        let end_ms = if end == seen.len() { last.ms[1] } else { border(end) };
        let mean = segment.mean.iter().map(|&value| value as f32).collect();
        let seq = [seen[start].0.seq[0], seen[end - 1].0.seq[1]];
        let span = Span { seq, ms: [start_ms, end_ms.max(start_ms)] };
        Piece { query, span, mean: Embedding::normalized(mean, one.space) }
    };
    segments.iter().map(piece).collect()
}

/// Watches a source to its end, cuts it, and shows what each segment says.
pub(super) async fn watch(
    feed: Feed,
    sessions: &Sessions,
    spec: Spec,
    cut: Cut,
    interrupt: &mut Interrupt,
    shown: &mut Shown,
) -> anyhow::Result<Ending> {
    let mut kept = Kept::default();
    let mut tell = |event: &Event, unsent| {
        if let Event::Seen(seen) = event {
            kept.add(seen)?;
        }
        shown.tell(event, unsent)
    };
    let mut ending = run::watch(feed, sessions, spec.clone(), true, interrupt, &mut tell).await?;
    let pieces = kept.pieces(cut);
    let sound = ending.finished.as_ref().is_some_and(|finished| finished.error.is_none());
    if sound && !pieces.is_empty() {
        let unsent = ending.unsent;
        let mut tell = |event: &Event| shown.tell(event, unsent);
        match speak(sessions, spec, pieces, interrupt, &mut tell).await {
            Ok(second) => add(&mut ending, second),
            Err(fault) => {
                ending.fault.get_or_insert(fault);
            }
        }
    }
    Ok(ending)
}

/// The second session did nothing but words.
fn add(ending: &mut Ending, second: Option<Finished>) {
    if let (Some(Finished { stats, error }), Some(second)) = (&mut ending.finished, second) {
        stats.decodes += second.stats.decodes;
        stats.words_ms += second.stats.words_ms;
        *error = error.take().or(second.error);
    }
}

/// Puts segments into words, one after the other.
async fn speak(
    sessions: &Sessions,
    spec: Spec,
    pieces: Vec<Piece>,
    interrupt: &mut Interrupt,
    tell: &mut dyn FnMut(&Event) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Finished>> {
    let Some((sender, mut events)) = run::begin(sessions, spec, false, interrupt).await? else { return Ok(None) };
    let mut pieces = pieces.into_iter();
    // By a signal that comes while words are made; one that came before has done its work.
    let (mut stopped, mut cut_short) = (false, false);
    let mut asked: Option<Piece> = None;
    loop {
        if asked.is_none() && !stopped {
            asked = pieces.next().filter(|_| !cut_short);
            let input = match &asked {
                None => Input::Stop,
                Some(Piece { query, span, mean }) => {
                    Input::Speak { query: *query, embedding: mean.clone(), range_ms: span.ms }
                }
            };
            stopped = asked.is_none();
            // What is over tells so by its events.
            let _ = sender.send(input).await;
        }
        let event = tokio::select! {
            event = events.next() => event?,
            () = interrupt.come() => {
                cut_short = true;
                continue;
            }
        };
        let Some(event) = event else { bail!("the session ended without a last word") };
        match &event.event {
            Event::Finished(finished) => return Ok(Some(finished.clone())),
            Event::Spoken(spoken) => {
                // One that is told twice, because a call broke, is shown once.
                if let Some(piece) = asked.take_if(|piece| answers(piece, spoken)) {
                    let spoken = Spoken { segment: piece.span, ..spoken.clone() };
                    tell(&Event::Spoken(spoken))?;
                }
            }
            Event::Failed(failed) => {
                asked = None;
                tell(&Event::Failed(failed.clone()))?;
            }
            Event::Seen(_) | Event::Dropped(_) => {}
        }
    }
}

fn answers(piece: &Piece, spoken: &Spoken) -> bool {
    spoken.trigger == Trigger::Speak && spoken.query == piece.query && spoken.segment.ms == piece.span.ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::Space;
    use crate::engine::Timing;

    const SPACE: Space = Space::from_bytes([7; 8]);

    fn seen(query: usize, at: u64, values: &[f32]) -> Seen {
        let span = Span { seq: [at, at + 7], ms: [at * 500, at * 500 + 2000] };
        let embedding = Embedding { values: values.to_vec(), space: SPACE };
        Seen { query, span, drift: 0.0, repeated: false, embedding, timing: Timing::default() }
    }

    #[test]
    fn segments_meet_without_gap_and_overlap() {
        let mut kept = Kept::default();
        for at in 0..12 {
            let values = if at < 5 { [1.0, 0.0] } else { [0.0, 1.0] };
            kept.add(&seen(1, at, &values)).expect("room");
            kept.add(&seen(0, at, &[1.0, at as f32])).expect("room");
        }
        let pieces = kept.pieces(Cut::Segments(2));
        let of = |query| pieces.iter().filter(|piece| piece.query == query).collect::<Vec<_>>();
        let second = of(1);
        // Centres of windows 4 and 5 are at 3000 and 3500.
        assert_eq!(second.iter().map(|piece| piece.span.ms).collect::<Vec<_>>(), [[0, 3250], [3250, 7500]]);
        assert_eq!(second.iter().map(|piece| piece.span.seq).collect::<Vec<_>>(), [[0, 11], [5, 18]]);
        assert_eq!(second[1].mean.values, [0.0, 1.0]);
        assert_eq!(of(0).len(), 2);
        assert!(pieces.is_sorted_by_key(|piece| piece.span.ms[0]));
        assert_eq!(kept.pieces(Cut::Segments(100)).len(), 24, "no more than windows");
        assert!(Kept::default().pieces(Cut::Segments(3)).is_empty());
    }

    #[test]
    fn a_rate_counts_minutes() {
        let count = |rate, ms| Cut::PerMinute(rate).count(ms);
        assert_eq!([count(6.0, 120_000), count(6.0, 0), count(0.5, 30_000), count(1.0, 90_001)], [12, 1, 1, 2]);
    }

    #[test]
    fn too_much_is_refused() {
        let mut kept = Kept { bytes: EMBEDDINGS_BYTES_MAX - 8, ..Kept::default() };
        kept.add(&seen(0, 0, &[1.0, 0.0])).expect("just fits");
        let error = kept.add(&seen(0, 9, &[1.0, 0.0])).expect_err("too much").to_string();
        assert!(error.contains("at 6 s of the stream") && error.contains("--limit"), "{error}");
        assert!(Kept::default().add(&seen(0, 0, &[])).is_err());
        let mut kept = Kept::default();
        kept.add(&seen(0, 0, &[1.0, 0.0])).expect("room");
        assert!(kept.add(&seen(0, 0, &[1.0])).expect_err("shorter").to_string().contains("1 dimensions"));
    }
}
