//! Selective decoding against recordings of scikit-learn's clustering and of the causal gate.
//!
//! `embeddings` is the stream; `ward{n}.*`, `ward.*`, `ward_threshold.*` and `gate_{reference}_{threshold}_{gap}.*` are what
//! became of it. Labels, starts and decisions are exact, since both sides sum in f64.

use super::VerifyError;
use super::compare::{Tolerance, Values};
use super::trial::Trial;
use crate::segment::{Policy, Reference, Segment, Segmenter, Ward};

/// Distances, heights and means in f64: only the order of a sum may differ.
const SUMS: Tolerance = Tolerance::relative(1e-9);

/// Checks every clustering and every gate of the file.
pub fn check(trial: &mut Trial) -> Result<(), VerifyError> {
    let about_streams = |name: &str| name.starts_with("ward") || name.starts_with("gate_");
    if !(trial.golden.has("embeddings") && trial.golden.names().any(about_streams)) {
        return Ok(());
    }
    let [_, dim] = trial.golden.axes("embeddings")?;
    let embeddings = trial.golden.floats("embeddings")?;
    let stream: Vec<&[f32]> = embeddings.chunks(dim.max(1)).collect();
    clusterings(trial, &stream)?;
    for gate in trial.golden.before(".decode") {
        if let Some(rule) = rule(&gate) {
            check_gate(trial, &stream, &gate, rule)?;
        }
    }
    Ok(())
}

fn clusterings(trial: &mut Trial, stream: &[&[f32]]) -> Result<(), VerifyError> {
    for name in trial.golden.before(".starts") {
        if let Some(count) = name.strip_prefix("ward").and_then(|n| n.parse().ok()) {
            let ward = Ward::cluster(stream, count);
            let each = |value: &dyn Fn(&Segment) -> usize| ward.segments.iter().map(|s| value(s) as f64).collect();
            trial.expect_numbers(&format!("{name}.starts"), each(&|s| s.start), Tolerance::EXACT)?;
            trial.expect_numbers(&format!("{name}.midpoints"), each(&Segment::midpoint), Tolerance::EXACT)?;
            trial.expect_numbers(&format!("{name}.labels"), floats(&ward.labels()), Tolerance::EXACT)?;
            let means = ward.segments.iter().flat_map(|s| s.mean.clone()).collect();
            trial.expect_numbers(&format!("{name}.means"), means, SUMS)?;
            expect_partition(trial, &format!("{name}.sklearn_labels"), &ward)?;
        }
    }
    let tree = Ward::cluster(stream, 1);
    let nodes = tree.merges.iter().flat_map(|m| [m.nodes.0 as f64, m.nodes.1 as f64]).collect();
    trial.expect_numbers("ward.children", nodes, Tolerance::EXACT)?;
    trial.expect_numbers("ward.distances", tree.merges.iter().map(|m| m.height).collect(), SUMS)?;
    if trial.golden.has("ward_threshold.value") {
        let threshold = trial.golden.values("ward_threshold.value")?;
        let threshold = threshold.numbers.first().copied().unwrap_or(f64::INFINITY);
        expect_partition(trial, "ward_threshold.labels", &Ward::cluster(stream, tree.count_at(threshold)))?;
    }
    Ok(())
}

/// Compares labels whose numbers mean nothing: equal if they part the stream in the same way. The computed labels are
/// written in the recorded numbering, where a segment takes the number that its first embedding has there.
fn expect_partition(trial: &mut Trial, name: &str, ward: &Ward) -> Result<(), VerifyError> {
    if !trial.golden.has(name) {
        return Ok(());
    }
    let recorded = trial.golden.values(name)?.numbers;
    let number = |segment: &Segment| recorded.get(segment.start).copied().unwrap_or(-1.0);
    let mut labels = Vec::with_capacity(recorded.len());
    let mut seen = Vec::new();
    for segment in &ward.segments {
        // a number that an earlier segment has taken would join two segments that we keep apart
        let label = if seen.contains(&number(segment)) { -1.0 } else { number(segment) };
        seen.push(label);
        labels.resize(labels.len() + segment.end - segment.start, label);
    }
    trial.expect_numbers(name, labels, Tolerance::EXACT)
}

/// `gate_mean_0.5_4` -> mean reference, threshold 0.5, 4 embeddings in silence after each that is decoded. An embedding is
/// recorded by its index, which stands for its time here.
fn rule(name: &str) -> Option<Policy> {
    let mut words = name.strip_prefix("gate_")?.split('_');
    let reference = match words.next()? {
        "last" => Reference::Last,
        "mean" => Reference::Mean,
        _ => return None,
    };
    let threshold = words.next()?.parse().ok()?;
    let silent: u64 = words.next()?.parse().ok()?;
    let policy = Policy {
        reference,
        threshold,
        calm: None,
        unsettled_max_ms: 0,
        smoothing: 0.0,
        gap_min_ms: silent.checked_add(1)?,
        silence_max_ms: None,
        per_minute_max: None,
    };
    (words.next().is_none() && policy.check().is_ok()).then_some(policy)
}

fn check_gate(trial: &mut Trial, stream: &[&[f32]], name: &str, policy: Policy) -> Result<(), VerifyError> {
    let mut segmenter = Segmenter::new(policy);
    let made: Vec<_> = (0u64..).zip(stream).map(|(at, embedding)| segmenter.push(at, embedding)).collect();
    let open: Vec<usize> = (0..made.len()).filter(|&t| made[t].trigger.is_some()).collect();
    let decode = Values { shape: vec![open.len()], numbers: floats(&open) };
    trial.expect(&format!("{name}.decode"), &decode, Tolerance::EXACT)?;
    trial.expect_numbers(&format!("{name}.distance"), made.iter().map(|d| d.drift).collect(), SUMS)
}

fn floats(whole: &[usize]) -> Vec<f64> {
    whole.iter().map(|&v| v as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_read_from_its_name() {
        let gate = rule("gate_mean_0.25_4").expect("a gate");
        assert_eq!((gate.reference, gate.threshold, gate.gap_min_ms), (Reference::Mean, 0.25, 5));
        for name in [
            "gate_mean_0.5",
            "gate_median_0.5_0",
            "gate_last_x_0",
            "gate_last_0.5_0_1",
            "gate_last_NaN_0",
            "last_0.5_0",
        ] {
            assert!(rule(name).is_none(), "{name}");
        }
    }
}
