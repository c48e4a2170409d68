//! Cutting a whole recording: agglomerative clustering with Ward's criterion (Ward, J. H., 1963) in which only neighbours
//! in time may merge.
//!
//! Runs of embeddings are a linked list in the order of time; the pairs wait in a heap, and one whose runs have merged
//! with others since is thrown away when it comes up. So n embeddings of d dimensions take O(n (d + log n)).

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

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
        midpoint(&(self.start..self.end))
    }
}

/// The embedding in the middle of a run that is not empty; the earlier of two.
pub fn midpoint(run: &Range<usize>) -> usize {
    (run.start + run.end - 1) / 2
}

/// One merge of two neighbouring nodes. Nodes `0..n` are the embeddings, `n + i` is what merge `i` made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// The merged nodes, the smaller number first.
    pub nodes: (usize, usize),
    /// Index of the embedding before which there was a cut until then.
    pub at: usize,
    /// `sqrt(2 * increase of the within-segment sum of squares)`, the distance scikit-learn reports. With temporal
    /// connectivity these do not grow from merge to merge: never sort them to cut the tree.
    pub height: f64,
}

/// A recording that has been cut.
#[derive(Debug, Clone)]
pub struct Ward {
    /// What is left, in the order of time.
    pub segments: Vec<Segment>,
    /// The merges, in the order in which they were made.
    pub merges: Vec<Merge>,
}

/// A segment while it grows: the sum stands for the mean, so that a merge is an addition.
#[derive(Clone)]
struct Run {
    node: usize,
    start: usize,
    end: usize,
    sum: Vec<f64>,
    /// Slots of the neighbours; a run's slot is the index of its first embedding.
    previous: Option<usize>,
    next: Option<usize>,
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

/// Two neighbours that may merge, as they were when the cost was taken.
struct Pair {
    cost: f64,
    left: usize,
    nodes: (usize, usize),
}

impl Ord for Pair {
    /// The greatest is the cheapest, among equals the earliest; a cost that is no number comes last of all.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |pair: &Self| if pair.cost.is_nan() { f64::INFINITY } else { pair.cost };
        let (own, others) = ((self.cost.is_nan(), order(self)), (other.cost.is_nan(), order(other)));
        others.0.cmp(&own.0).then(others.1.total_cmp(&own.1)).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Ward {
    /// Merges the cheapest pair of neighbours until `segments` are left (at least one); among equals the earliest.
    ///
    /// # Panics
    /// If the embeddings differ in length.
    pub fn cluster<E: AsRef<[f32]>>(embeddings: &[E], segments: usize) -> Ward {
        let mut list = List::new(embeddings);
        let mut merges = Vec::new();
        while embeddings.len() - merges.len() > segments.max(1) {
            let Some(merge) = list.merge(embeddings.len() + merges.len()) else { break };
            merges.push(merge);
        }
        Ward { segments: list.runs.into_iter().flatten().map(Segment::from).collect(), merges }
    }

    /// How many segments a distance threshold leaves, as scikit-learn counts them: one more than the merges of the
    /// complete tree whose height reaches `threshold`. `self` must have been clustered down to one segment.
    pub fn count_at(&self, threshold: f64) -> usize {
        self.merges.iter().filter(|m| m.height >= threshold).count() + 1
    }

    /// The runs that [`cluster`](Self::cluster) leaves for `segments`, without clustering again, in the order of time. Cuts
    /// that `self` has no more stay gone: cluster down to one segment for any number of them.
    pub fn cut(&self, segments: usize) -> Vec<Range<usize>> {
        let embeddings = self.segments.last().map_or(0, |last| last.end);
        let merged = embeddings.saturating_sub(segments.max(1)).min(self.merges.len());
        let mut begins = vec![true; embeddings];
        for merge in &self.merges[..merged] {
            begins[merge.at] = false;
        }
        let starts: Vec<usize> = (0..embeddings).filter(|&at| begins[at]).collect();
        let ends = starts.iter().skip(1).copied().chain([embeddings]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// The segment of every embedding, numbered in the order of time.
    pub fn labels(&self) -> Vec<usize> {
        self.segments.iter().enumerate().flat_map(|(label, s)| std::iter::repeat_n(label, s.end - s.start)).collect()
    }
}

/// The runs as a list, and the pairs that may merge.
struct List {
    /// By slot; none where the run has been merged into the one before.
    runs: Vec<Option<Run>>,
    pairs: BinaryHeap<Pair>,
}

impl List {
    fn new<E: AsRef<[f32]>>(embeddings: &[E]) -> List {
        let run = |(i, e): (usize, &E)| Run {
            node: i,
            start: i,
            end: i + 1,
            sum: e.as_ref().iter().map(|&v| f64::from(v)).collect(),
            previous: i.checked_sub(1),
            next: (i + 1 < embeddings.len()).then_some(i + 1),
        };
        let runs: Vec<Run> = embeddings.iter().enumerate().map(run).collect();
        assert!(runs.windows(2).all(|w| w[0].sum.len() == w[1].sum.len()), "embeddings differ in length");
        let pair = |w: &[Run]| Pair { cost: w[0].cost(&w[1]), left: w[0].start, nodes: (w[0].node, w[1].node) };
        let pairs = runs.windows(2).map(pair).collect();
        List { runs: runs.into_iter().map(Some).collect(), pairs }
    }

    /// Merges the cheapest pair into `node`; none is left where there is one run.
    fn merge(&mut self, node: usize) -> Option<Merge> {
        loop {
            let Pair { cost, left: slot, nodes } = self.pairs.pop()?;
            let stands = |run: &Run, node: usize| run.node == node;
            let Some(left) = self.runs[slot].as_ref().filter(|run| stands(run, nodes.0)) else { continue };
            let Some(at) = left.next else { continue };
            let Some(right) = self.runs[at].take_if(|run| stands(run, nodes.1)) else { continue };
            let merge = Merge { nodes: (nodes.0.min(nodes.1), nodes.0.max(nodes.1)), at, height: (2.0 * cost).sqrt() };
            if let Some(left) = &mut self.runs[slot] {
                left.sum.iter_mut().zip(&right.sum).for_each(|(x, y)| *x += y);
                (left.end, left.next, left.node) = (right.end, right.next, node);
            }
            if let Some(after) = right.next.and_then(|after| self.runs[after].as_mut()) {
                after.previous = Some(slot);
            }
            let before = self.runs[slot].as_ref().and_then(|run| run.previous);
            before.into_iter().chain([slot]).for_each(|left| self.wait(left));
            return Some(merge);
        }
    }

    /// Notes the pair that begins at a slot.
    fn wait(&mut self, slot: usize) {
        let run = |slot: usize| self.runs[slot].as_ref();
        let Some((left, right)) = run(slot).and_then(|left| Some((left, run(left.next?)?))) else { return };
        self.pairs.push(Pair { cost: left.cost(right), left: slot, nodes: (left.node, right.node) });
    }
}

impl From<Run> for Segment {
    fn from(run: Run) -> Segment {
        let len = run.len();
        Segment { start: run.start, end: run.end, mean: run.sum.iter().map(|v| v / len).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream with steps at 3 and 5.
    fn steps() -> Vec<Vec<f32>> {
        [[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]].map(Vec::from).to_vec()
    }

    /// The meaning: looks at all pairs before every merge.
    fn plainly(embeddings: &[Vec<f32>], segments: usize) -> (Vec<Segment>, Vec<(usize, usize, u64)>) {
        let wide = |e: &Vec<f32>| e.iter().map(|&v| f64::from(v)).collect();
        let whole = |(i, e): (usize, &Vec<f32>)| Run {
            node: i,
            start: i,
            end: i + 1,
            sum: wide(e),
            previous: None,
            next: None,
        };
        let mut runs: Vec<Run> = embeddings.iter().enumerate().map(whole).collect();
        let mut merges = Vec::new();
        while runs.len() > segments.max(1) {
            let costs: Vec<f64> = runs.windows(2).map(|w| w[0].cost(&w[1])).collect();
            let at = (1..costs.len()).fold(0, |best, i| if costs[i] < costs[best] { i } else { best });
            let right = runs.remove(at + 1);
            let left = &mut runs[at];
            let nodes = (left.node.min(right.node), left.node.max(right.node));
            merges.push((nodes.0, nodes.1, (2.0 * costs[at]).sqrt().to_bits()));
            left.sum.iter_mut().zip(&right.sum).for_each(|(x, y)| *x += y);
            (left.end, left.node) = (right.end, embeddings.len() + merges.len() - 1);
        }
        (runs.into_iter().map(Segment::from).collect(), merges)
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
        let empty = Ward::cluster::<Vec<f32>>(&[], 3);
        assert!(empty.segments.is_empty() && empty.cut(2).is_empty());
        assert_eq!(Ward::cluster(&steps()[..1], 0).segments.len(), 1);
        assert_eq!(Ward::cluster(&vec![vec![1.0f32]; 4], 3).labels(), [0, 0, 1, 2], "the earliest of equals merges");
        assert_eq!(Ward::cluster(&vec![Vec::<f32>::new(); 4], 2).labels(), [0, 0, 0, 1], "without dimensions");
    }

    #[test]
    fn what_is_no_number_merges_last() {
        let mut stream = steps();
        stream[1] = vec![f32::NAN, 0.0];
        let ward = Ward::cluster(&stream, 3);
        assert_eq!(ward.labels(), [0, 1, 2, 2, 2, 2]);
        assert_eq!(Ward::cluster(&stream, 1).merges.len(), 5, "and it does end");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Values of few levels, so that there are ties.
        #[test]
        fn the_heap_gives_what_looking_at_all_pairs_gives(
            stream in (1..4usize).prop_flat_map(|d| prop::collection::vec(prop::collection::vec(-2..3i8, d), 0..40)),
            segments in 0..8usize,
        ) {
            let stream: Vec<Vec<f32>> =
                stream.iter().map(|e| e.iter().map(|&v| f32::from(v) * 0.37).collect()).collect();
            let ward = Ward::cluster(&stream, segments);
            let (expected, merges) = plainly(&stream, segments);
            let found: Vec<_> = ward.merges.iter().map(|m| (m.nodes.0, m.nodes.1, m.height.to_bits())).collect();
            prop_assert_eq!(found, merges);
            prop_assert_eq!(&ward.segments, &expected);
            let tree = Ward::cluster(&stream, 1);
            let runs: Vec<_> = expected.iter().map(|s| s.start..s.end).collect();
            prop_assert_eq!(tree.cut(segments), runs);
        }
    }

    /// Hours of stream: `cargo test --release --lib segment::ward -- --ignored --nocapture` tells the time.
    #[test]
    #[ignore = "a measurement"]
    fn ten_hours_at_one_a_second() {
        let value = |i: u64| (scatter(i) >> 40) as f32 / (1u64 << 24) as f32;
        let stream: Vec<Vec<f32>> = (0..36_000u64)
            .map(|t| (0..128).map(|d| value(t / 40 * 128 + d) + 0.1 * value(t * 128 + d)).collect())
            .collect();
        let started = std::time::Instant::now();
        let ward = Ward::cluster(&stream, 1);
        println!("{} embeddings of 128: {:?}", stream.len(), started.elapsed());
        assert_eq!(ward.cut(900).len(), 900);
    }

    fn scatter(x: u64) -> u64 {
        let x = (x.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}
