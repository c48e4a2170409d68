//! The losses, with their gradients written out.
//!
//! They look at a few thousand numbers a step, so they are plain loops over slices: exact to test against
//! finite differences, and free of a graph. The trainer hands the gradients back to the parts' graphs.

use std::collections::HashMap;

/// The predictions and answers of one batch, rows of unit length.
pub struct Pairing<'a> {
    /// [questions, dim] predicted embeddings.
    pub predictions: &'a [f32],
    /// [answers, dim] embeddings of the batch's different answer texts.
    pub answers: &'a [f32],
    /// For every question the row of its answer.
    pub targets: &'a [usize],
    /// Width of a row.
    pub dim: usize,
}

/// Value and gradients of a loss over a [`Pairing`].
#[derive(Clone, Debug, Default)]
pub struct PairingLoss {
    /// The loss.
    pub value: f32,
    /// Share of questions whose nearest answer of the batch is the right one.
    pub accuracy: f32,
    /// Gradient of the predictions, [questions, dim].
    pub predictions: Vec<f32>,
    /// Gradient of the answers, [answers, dim].
    pub answers: Vec<f32>,
    /// Gradient of the logarithm of the scale.
    pub log_scale: f32,
}

/// Bi-directional InfoNCE over candidates: `0.5 * (row + column)`.
///
/// Row: cross-entropy of each prediction over the different answers of the batch. Column: for each answer the mean
/// log-softmax, over all predictions, of those that have it. Questions with equal texts share one answer row, so
/// they are positives of each other by construction. (arXiv 2512.10942; the recipe's candidates form.)
pub fn info_nce(pairing: &Pairing, scale: f32) -> PairingLoss {
    let Pairing { predictions, answers, targets, dim } = *pairing;
    let (rows, columns) = (targets.len(), answers.len() / dim);
    assert_eq!(predictions.len(), rows * dim, "one prediction a question");
    let logits = product(predictions, answers, dim, scale);
    let mut slope = vec![0.0f32; rows * columns]; // d loss / d logits
    let mut counts = vec![0usize; columns];
    targets.iter().for_each(|&t| counts[t] += 1);
    let answered = counts.iter().filter(|&&c| c > 0).count();
    let (mut value, mut correct) = (0.0f64, 0usize);
    for (row, &target) in targets.iter().enumerate() {
        let line = &logits[row * columns..][..columns];
        let total = log_sum_exp(line.iter().copied());
        let weight = 0.5 / rows as f64;
        value += weight * (total - f64::from(line[target]));
        for (column, &logit) in line.iter().enumerate() {
            slope[row * columns + column] += (weight * (f64::from(logit) - total).exp()) as f32;
        }
        slope[row * columns + target] -= weight as f32;
        correct += usize::from(line.iter().all(|&logit| logit <= line[target]));
    }
    for (column, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let line = || (0..rows).map(|row| logits[row * columns + column]);
        let total = log_sum_exp(line());
        let weight = 0.5 / answered as f64;
        for (row, logit) in line().enumerate() {
            slope[row * columns + column] += (weight * (f64::from(logit) - total).exp()) as f32;
            if targets[row] == column {
                value += weight / count as f64 * (total - f64::from(logit));
                slope[row * columns + column] -= (weight / count as f64) as f32;
            }
        }
    }
    let mut loss = spread_slope(&slope, pairing, scale);
    loss.log_scale = slope.iter().zip(&logits).map(|(s, l)| s * l).sum();
    loss.value = value as f32;
    loss.accuracy = correct as f32 / rows.max(1) as f32;
    loss
}

/// Carries the slope of the logits [questions, answers] back to both sides.
fn spread_slope(slope: &[f32], pairing: &Pairing, scale: f32) -> PairingLoss {
    let Pairing { predictions, answers, dim, .. } = *pairing;
    let columns = answers.len() / dim;
    let mut loss = PairingLoss {
        predictions: vec![0.0; predictions.len()],
        answers: vec![0.0; answers.len()],
        ..PairingLoss::default()
    };
    for (row, line) in slope.chunks_exact(columns).enumerate() {
        for (column, &s) in line.iter().enumerate() {
            let (at, to) = (row * dim, column * dim);
            axpy(scale * s, &answers[to..to + dim], &mut loss.predictions[at..at + dim]);
            axpy(scale * s, &predictions[at..at + dim], &mut loss.answers[to..to + dim]);
        }
    }
    loss
}

/// `weight` times the mean over the answers of the sum over the others of `2 * relu(cos - margin)^2`, with its gradient
/// [answers, dim]. It keeps different answers from falling onto each other while they cannot be told apart yet.
pub fn spread(answers: &[f32], dim: usize, margin: f32, weight: f32) -> (f32, Vec<f32>) {
    let count = answers.len() / dim;
    let mut gradient = vec![0.0; answers.len()];
    let mut value = 0.0;
    let cosines = product(answers, answers, dim, 1.0);
    let each = weight / (count * count.saturating_sub(1)).max(1) as f32;
    for i in 0..count {
        for j in (0..count).filter(|&j| j != i) {
            let over = cosines[i * count + j] - margin;
            if over > 0.0 {
                value += each * 2.0 * over * over;
                let from = &answers[j * dim..(j + 1) * dim];
                axpy(8.0 * each * over, from, &mut gradient[i * dim..(i + 1) * dim]);
            }
        }
    }
    (value, gradient)
}

/// One softmax over some of the columns of a table of logits, with a class and a weight for each row.
pub struct Labels<'a> {
    /// The columns of this softmax.
    pub columns: std::ops::Range<usize>,
    /// The class of every row, counted from the first of `columns`.
    pub classes: &'a [u8],
    /// The weight of every row; rows of weight 0 count for nothing.
    pub weights: &'a [f32],
}

/// Adds `weight * cross-entropy` (mean by row weight) to `slope`, the gradient of the whole table `[rows, width]`.
/// Returns the plain cross-entropy.
pub fn cross_entropy(logits: &[f32], width: usize, labels: &Labels, weight: f32, slope: &mut [f32]) -> f32 {
    let mass: f32 = labels.weights.iter().sum();
    if mass == 0.0 {
        return 0.0;
    }
    let mut value = 0.0f64;
    for (row, (&class, &share)) in labels.classes.iter().zip(labels.weights).enumerate() {
        let span = row * width + labels.columns.start..row * width + labels.columns.end;
        let share = share / mass;
        let line = &logits[span.clone()];
        let total = log_sum_exp(line.iter().copied());
        value += f64::from(share) * (total - f64::from(line[usize::from(class)]));
        for (into, &logit) in slope[span.clone()].iter_mut().zip(line) {
            *into += weight * share * (f64::from(logit) - total).exp() as f32;
        }
        slope[span.start + usize::from(class)] -= weight * share;
    }
    value as f32
}

/// Cross-entropy of next tokens: `targets` over the full width of `[rows, width]`, mean over rows; value and gradient.
pub fn next_token(logits: &[f32], width: usize, targets: &[u32]) -> (f32, Vec<f32>) {
    let each = 1.0 / targets.len().max(1) as f32;
    let mut slope = vec![0.0; logits.len()];
    let mut value = 0.0f64;
    for (row, &target) in targets.iter().enumerate() {
        let line = &logits[row * width..][..width];
        let total = log_sum_exp(line.iter().copied());
        value += total - f64::from(line[target as usize]);
        for (into, &logit) in slope[row * width..][..width].iter_mut().zip(line) {
            *into = each * (f64::from(logit) - total).exp() as f32;
        }
        slope[row * width + target as usize] -= each;
    }
    (value as f32 * each, slope)
}

/// Collects equal keys: the different ones in order of first sight, and for every input the index of its key.
pub fn unique<K: Clone + Eq + std::hash::Hash>(keys: &[K]) -> (Vec<K>, Vec<usize>) {
    let mut seen = HashMap::new();
    let mut different = Vec::new();
    let index = |key: &K| {
        *seen.entry(key.clone()).or_insert_with(|| {
            different.push(key.clone());
            different.len() - 1
        })
    };
    let indices = keys.iter().map(index).collect();
    (different, indices)
}

/// `scale * a b^T` for rows of width `dim`: [rows of a, rows of b].
fn product(a: &[f32], b: &[f32], dim: usize, scale: f32) -> Vec<f32> {
    let line = |x: &[f32]| b.chunks_exact(dim).map(|y| scale * dot(x, y)).collect::<Vec<_>>();
    a.chunks_exact(dim).flat_map(line).collect()
}

/// The dot product, in eight partial sums so that it can be vectorised.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (heads, tails) = (a.chunks_exact(8).zip(b.chunks_exact(8)), a.len() / 8 * 8);
    for (x, y) in heads {
        (0..8).for_each(|i| sums[i] += x[i] * y[i]);
    }
    let rest: f32 = a[tails..].iter().zip(&b[tails..]).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

fn axpy(factor: f32, x: &[f32], into: &mut [f32]) {
    into.iter_mut().zip(x).for_each(|(i, x)| *i += factor * x);
}

fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f64 {
    let peak = f64::from(values.clone().fold(f32::NEG_INFINITY, f32::max));
    values.map(|v| (f64::from(v) - peak).exp()).sum::<f64>().ln() + peak
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTIONS: [f32; 6] = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0];
    const ANSWERS: [f32; 4] = [0.8, 0.6, 0.0, 1.0];
    const TARGETS: [usize; 3] = [0, 0, 1];

    fn loss(predictions: &[f32], answers: &[f32], scale: f32) -> PairingLoss {
        info_nce(&Pairing { predictions, answers, targets: &TARGETS, dim: 2 }, scale)
    }

    #[test]
    fn equal_texts_are_positives() {
        // Logits at scale 1: [.8 0], [.96 .8], [.6 1]; row: ln(1+e^-.8), ln(1+e^-.16), ln(1+e^-.4).
        let row = (0.371_100_67 + 0.616_347_2 + 0.513_015_25) / 3.0;
        // Column 0 has two positives, .8 and .96 of {.8 .96 .6}; column 1 one, 1 of {0 .8 1}.
        let total0 = (0.8f64.exp() + 0.96f64.exp() + 0.6f64.exp()).ln();
        let total1 = (1.0 + 0.8f64.exp() + 1.0f64.exp()).ln();
        let column = 0.5 * ((total0 - 0.88) + (total1 - 1.0));
        let expected = 0.5 * (row + column);
        let loss = loss(&PREDICTIONS, &ANSWERS, 1.0);
        assert!((f64::from(loss.value) - expected).abs() < 1e-6, "{} {expected}", loss.value);
        assert_eq!(loss.accuracy, 1.0);
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (scale, step) = (3.0f32, 1e-3f32);
        let exact = loss(&PREDICTIONS, &ANSWERS, scale);
        let check = |name: &str, gradient: f32, value: &dyn Fn(f32) -> f32| {
            let numeric = (value(step) - value(-step)) / (2.0 * step);
            assert!((numeric - gradient).abs() < 2e-3, "{name}: {gradient}, numeric {numeric}");
        };
        for i in 0..PREDICTIONS.len() {
            let moved = |by| {
                let mut p = PREDICTIONS;
                p[i] += by;
                loss(&p, &ANSWERS, scale).value
            };
            check("prediction", exact.predictions[i], &moved);
        }
        for i in 0..ANSWERS.len() {
            let moved = |by| {
                let mut a = ANSWERS;
                a[i] += by;
                loss(&PREDICTIONS, &a, scale).value
            };
            check("answer", exact.answers[i], &moved);
            let (_, slope) = spread(&ANSWERS, 2, 0.1, 0.7);
            let moved = |by| {
                let mut a = ANSWERS;
                a[i] += by;
                spread(&a, 2, 0.1, 0.7).0
            };
            check("spread", slope[i], &moved);
        }
        check("scale", exact.log_scale, &|by| loss(&PREDICTIONS, &ANSWERS, scale * by.exp()).value);
    }

    #[test]
    fn spread_leaves_far_answers_alone() {
        let (value, slope) = spread(&[1.0, 0.0, 0.0, 1.0], 2, 0.5, 1.0);
        assert_eq!((value, slope), (0.0, vec![0.0; 4]));
        let (value, _) = spread(&[1.0, 0.0, 1.0, 0.0], 2, 0.5, 1.0);
        assert!((value - 0.5).abs() < 1e-6, "two equal rows: 2 * 0.5^2, got {value}");
    }

    #[test]
    fn cross_entropy_by_hand() {
        // Columns 1..3 of width 3; row weights 1 and 3; row 0 even: ln 2; row 1 sure of class 1: ln(1+e^-2).
        let logits = [9.0, 0.0, 0.0, -9.0, 1.0, 3.0];
        let labels = Labels { columns: 1..3, classes: &[0, 1], weights: &[1.0, 3.0] };
        let mut slope = [0.0; 6];
        let value = cross_entropy(&logits, 3, &labels, 2.0, &mut slope);
        assert!((value - (0.25 * std::f32::consts::LN_2 + 0.75 * 0.126_928)).abs() < 1e-5, "{value}");
        assert_eq!((slope[0], slope[3]), (0.0, 0.0), "columns outside are untouched");
        assert!((slope[1] + 0.25).abs() < 1e-6 && (slope[2] - 0.25).abs() < 1e-6, "{slope:?}");
        let nobody = Labels { columns: 1..3, classes: &[0, 1], weights: &[0.0, 0.0] };
        assert_eq!(cross_entropy(&logits, 3, &nobody, 1.0, &mut slope), 0.0);
    }

    #[test]
    fn next_token_agrees_with_labels() {
        let logits = [0.3, -1.0, 2.0, 0.0, 0.5, 0.1];
        let (value, slope) = next_token(&logits, 3, &[2, 0]);
        let mut expected = [0.0; 6];
        let labels = Labels { columns: 0..3, classes: &[2, 0], weights: &[1.0, 1.0] };
        let other = cross_entropy(&logits, 3, &labels, 1.0, &mut expected);
        assert!((value - other).abs() < 1e-6);
        assert!(slope.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn unique_keeps_first_sight() {
        assert_eq!(unique(&["b", "a", "b"]), (vec!["b", "a"], vec![0, 1, 0]));
    }

    #[test]
    fn dot_of_odd_lengths() {
        let a: Vec<f32> = (0..11).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), 385.0);
    }
}
