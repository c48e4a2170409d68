//! Selective decoding: where a stream of embeddings changes enough to be worth words.
//!
//! Two pure rules on plain slices, in f64 so that every machine cuts at the same place. [`Ward`] looks at a whole recording
//! and merges neighbours; [`Gate`] sees one embedding at a time and decides at once. Both stand on the lowest floor because
//! the model's verification and the engine's streams need the same ones, and neither may know the other.

mod segmenter;

pub use segmenter::{Decision, Held, Policy, Segmenter, Trigger};

/// A run of consecutive embeddings `[start, end)` and their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Index of the first embedding.
    pub start: usize,
    /// One past the last embedding.
    pub end: usize,
    /// Mean of the embeddings, not normalised.
    pub mean: Vec<f64>,
}

impl Segment {
    /// The embedding in the middle, where a segment is decoded; the earlier of two.
    pub fn midpoint(&self) -> usize {
        (self.start + self.end - 1) / 2
    }
}

/// One merge of two neighbouring nodes. Nodes `0..n` are the embeddings, `n + i` is what merge `i` made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// The merged nodes, the smaller number first.
    pub nodes: (usize, usize),
    /// `sqrt(2 * increase of the within-segment sum of squares)`, the distance scikit-learn reports. With temporal
    /// connectivity these do not grow from merge to merge: never sort them to cut the tree.
    pub height: f64,
}

/// Agglomerative clustering with Ward's criterion in which only neighbours in time may merge.
#[derive(Debug, Clone)]
pub struct Ward {
    /// What is left, in the order of time.
    pub segments: Vec<Segment>,
    /// The merges, in the order in which they were made.
    pub merges: Vec<Merge>,
}

/// A segment while it grows: the sum stands for the mean, so that a merge is an addition.
struct Run {
    node: usize,
    start: usize,
    end: usize,
    sum: Vec<f64>,
}

impl Run {
    fn len(&self) -> f64 {
        (self.end - self.start) as f64
    }

    /// How much the sum of squares grows when `self` and its right neighbour become one.
    fn cost(&self, next: &Run) -> f64 {
        let (a, b) = (self.len(), next.len());
        let apart: f64 = self.sum.iter().zip(&next.sum).map(|(x, y)| (x / a - y / b).powi(2)).sum();
        a * b / (a + b) * apart
    }
}

impl Ward {
    /// Merges the cheapest pair of neighbours until `segments` are left (at least one); among equals the earliest.
    ///
    /// # Panics
    /// If the embeddings differ in length.
    pub fn cluster<E: AsRef<[f32]>>(embeddings: &[E], segments: usize) -> Ward {
        let mut runs: Vec<Run> = embeddings
            .iter()
            .enumerate()
            .map(|(i, e)| Run {
                node: i,
                start: i,
                end: i + 1,
                sum: e.as_ref().iter().map(|&v| f64::from(v)).collect(),
            })
            .collect();
        assert!(runs.windows(2).all(|w| w[0].sum.len() == w[1].sum.len()), "embeddings differ in length");
        let mut costs: Vec<f64> = runs.windows(2).map(|w| w[0].cost(&w[1])).collect();
        let mut merges = Vec::new();
        while runs.len() > segments.max(1) {
            let at = cheapest(&costs);
            let right = runs.remove(at + 1);
            let left = &mut runs[at];
            merges.push(Merge {
                nodes: (left.node.min(right.node), left.node.max(right.node)),
                height: (2.0 * costs.remove(at)).sqrt(),
            });
            left.sum.iter_mut().zip(&right.sum).for_each(|(x, y)| *x += y);
            left.end = right.end;
            left.node = embeddings.len() + merges.len() - 1;
            for pair in at.saturating_sub(1)..=at {
                if pair + 1 < runs.len() {
                    costs[pair] = runs[pair].cost(&runs[pair + 1]);
                }
            }
        }
        Ward { segments: runs.into_iter().map(Segment::from).collect(), merges }
    }

    /// How many segments a distance threshold leaves, as scikit-learn counts them: one more than the merges of the
    /// complete tree whose height reaches `threshold`. `self` must have been clustered down to one segment.
    pub fn count_at(&self, threshold: f64) -> usize {
        self.merges.iter().filter(|m| m.height >= threshold).count() + 1
    }

    /// The segment of every embedding, numbered in the order of time.
    pub fn labels(&self) -> Vec<usize> {
        self.segments.iter().enumerate().flat_map(|(label, s)| std::iter::repeat_n(label, s.end - s.start)).collect()
    }
}

impl From<Run> for Segment {
    fn from(run: Run) -> Segment {
        let len = run.len();
        Segment { start: run.start, end: run.end, mean: run.sum.iter().map(|v| v / len).collect() }
    }
}

/// Index of the smallest cost, the first among equals.
fn cheapest(costs: &[f64]) -> usize {
    (1..costs.len()).fold(0, |best, i| if costs[i] < costs[best] { i } else { best })
}

/// What a new embedding is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// The embedding that was decoded last.
    Last,
    /// The mean of all embeddings since the last decode, that one included.
    Mean,
}

/// When the gate opens.
#[derive(Debug, Clone, Copy)]
pub struct GateRule {
    /// What an embedding is compared with.
    pub reference: Reference,
    /// Cosine distance (0 to 2) that an embedding must exceed.
    pub threshold: f64,
    /// Embeddings that must pass in silence after a decode.
    pub gap_min: usize,
}

/// What the gate says of one embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passage {
    /// Cosine distance to the reference before this embedding joined it; 0 for the first.
    pub distance: f64,
    /// Whether this embedding is to be decoded.
    pub open: bool,
}

/// The causal form: decodes the first embedding, then each one that has moved away from the reference.
#[derive(Debug, Clone)]
pub struct Gate {
    rule: GateRule,
    reference: Vec<f64>,
    joined: usize,
    since_decode: usize,
}

impl Gate {
    /// A gate that has seen nothing yet.
    pub fn new(rule: GateRule) -> Gate {
        Gate { rule, reference: Vec::new(), joined: 0, since_decode: 0 }
    }

    /// Takes the next embedding of the stream.
    ///
    /// # Panics
    /// If its length differs from the first one's.
    pub fn push(&mut self, embedding: &[f32]) -> Passage {
        let embedding: Vec<f64> = embedding.iter().map(|&v| f64::from(v)).collect();
        if self.joined == 0 {
            self.decode(embedding);
            return Passage { distance: 0.0, open: true };
        }
        assert_eq!(embedding.len(), self.reference.len(), "embeddings of one stream differ in length");
        let distance = cosine_distance(&embedding, &self.reference);
        self.since_decode += 1;
        let open = distance > self.rule.threshold && self.since_decode > self.rule.gap_min;
        if open {
            self.decode(embedding);
        } else if self.rule.reference == Reference::Mean {
            self.joined += 1;
            let share = self.joined as f64;
            self.reference.iter_mut().zip(&embedding).for_each(|(r, e)| *r += (e - *r) / share);
        }
        Passage { distance, open }
    }

    fn decode(&mut self, embedding: Vec<f64>) {
        (self.reference, self.joined, self.since_decode) = (embedding, 1, 0);
    }
}

/// `1 - cos(a, b)`; 1 where either has no direction.
fn cosine_distance(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    if norms > 0.0 { 1.0 - dot(a, b) / norms } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream with steps at 3 and 5.
    fn steps() -> Vec<Vec<f32>> {
        [[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]].map(Vec::from).to_vec()
    }

    fn gate(reference: Reference, threshold: f64, gap_min: usize) -> Gate {
        Gate::new(GateRule { reference, threshold, gap_min })
    }

    fn decoded(mut gate: Gate, stream: &[Vec<f32>]) -> Vec<usize> {
        (0..stream.len()).filter(|&t| gate.push(&stream[t]).open).collect()
    }

    #[test]
    fn ward_cuts_where_the_stream_steps() {
        let ward = Ward::cluster(&steps(), 3);
        assert_eq!(ward.labels(), [0, 0, 0, 1, 1, 2]);
        assert_eq!(ward.segments.iter().map(Segment::midpoint).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(ward.merges.len(), 3);
    }

    #[test]
    fn fewer_segments_only_remove_cuts() {
        let starts = |n| Ward::cluster(&steps(), n).segments.iter().map(|s| s.start).collect::<Vec<_>>();
        for n in 1..6 {
            let (coarse, fine) = (starts(n), starts(n + 1));
            assert_eq!((coarse.len(), fine.len()), (n, n + 1));
            assert!(coarse.iter().all(|s| fine.contains(s)), "{coarse:?} within {fine:?}");
        }
    }

    #[test]
    fn ward_counts_segments_by_threshold_and_survives_the_edges() {
        let tree = Ward::cluster(&steps(), 1);
        assert_eq!((tree.count_at(f64::INFINITY), tree.count_at(0.0)), (1, 6));
        assert!(Ward::cluster::<Vec<f32>>(&[], 3).segments.is_empty());
        assert_eq!(Ward::cluster(&steps()[..1], 0).segments.len(), 1);
        assert_eq!(Ward::cluster(&vec![vec![1.0f32]; 4], 3).labels(), [0, 0, 1, 2], "the earliest of equals merges");
    }

    #[test]
    fn the_gate_opens_on_drift_and_keeps_the_gap() {
        assert_eq!(decoded(gate(Reference::Last, 0.5, 0), &steps()), [0, 3, 5]);
        assert_eq!(decoded(gate(Reference::Mean, 0.5, 0), &steps()), [0, 3, 5]);
        assert_eq!(decoded(gate(Reference::Last, 0.5, 3), &steps()), [0, 4]);
        assert_eq!(decoded(gate(Reference::Last, 2.0, 0), &steps()), [0]);
    }

    #[test]
    fn a_mean_reference_follows_a_slow_turn_that_a_fixed_one_does_not() {
        let turn: Vec<Vec<f32>> = (0..40).map(|t| t as f32 * 0.05).map(|a| vec![a.cos(), a.sin()]).collect();
        let (last, mean) =
            (decoded(gate(Reference::Last, 0.2, 0), &turn), decoded(gate(Reference::Mean, 0.2, 0), &turn));
        assert!(last.len() > mean.len() && mean.len() > 1, "{last:?} {mean:?}");
    }

    #[test]
    fn an_embedding_without_direction_is_far_from_everything() {
        let mut gate = gate(Reference::Last, 0.5, 0);
        gate.push(&[1.0, 0.0]);
        assert_eq!(gate.push(&[0.0, 0.0]), Passage { distance: 1.0, open: true });
    }
}
