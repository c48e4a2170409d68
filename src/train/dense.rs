//! Dense labels from the generator as a helper for the vision encoder: for every token what lies on it.
//!
//! They stand for the paper's pretrained encoder; without them a model from scratch answers at chance. Two linear
//! heads read the tokens; they are in the checkpoint but not in the bundle.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::loss::{Labels, cross_entropy};
use super::world::{
    BACKGROUND_CLASSES, COLOUR_CLASSES, COUNT_CLASSES, DenseLabels, EVENT_CLASSES, MOTION_CLASSES, SHAPE_CLASSES,
    SIZE_CLASSES,
};
use crate::model::vision::Visual;
use crate::nn::linear::{Linear, Precision};
use crate::nn::rows;
use crate::nn::weights::Weights;

/// The columns of the token head: colour, shape, motion, size.
const TOKEN_COLUMNS: [Range<usize>; 4] = columns([COLOUR_CLASSES, SHAPE_CLASSES, MOTION_CLASSES, SIZE_CLASSES]);
/// Shape is the last to be learnt, so it counts double.
const TOKEN_WEIGHTS: [f32; 4] = [1.0, 2.0, 1.0, 1.0];
/// The columns of the clip head: background, count, event (and none).
const CLIP_COLUMNS: [Range<usize>; 4] = columns([BACKGROUND_CLASSES, COUNT_CLASSES, EVENT_CLASSES, 0]);
/// Weight of what is said of the whole clip.
const CLIP_WEIGHT: f32 = 0.3;
/// Weight of a token without an object.
const EMPTY_WEIGHT: f32 = 0.15;

const fn columns(widths: [usize; 4]) -> [Range<usize>; 4] {
    let [a, b, c, d] = widths;
    [0..a, a..a + b, a + b..a + b + c, a + b + c..a + b + c + d]
}

/// The two heads.
pub struct DenseHeads {
    token: Linear,
    clip: Linear,
}

/// The dense loss of some clips.
pub struct DenseLoss {
    /// A scalar whose gradient is the gradient of `weight * loss`; its value means nothing.
    pub surrogate: Tensor,
    /// The loss, without the weight.
    pub value: f32,
    /// Share of right tokens among those with an object: colour, shape, motion, size.
    pub accuracy: [f32; 4],
}

impl DenseHeads {
    /// Heads over tokens of width `hidden`.
    pub fn load(weights: &Weights, hidden: usize) -> DenseHeads {
        let head = |name: &str, outputs| Linear::load(&weights.pp(name), hidden, outputs, true, Precision::Dense);
        DenseHeads { token: head("token", TOKEN_COLUMNS[3].end), clip: head("clip", CLIP_COLUMNS[3].end) }
    }

    /// The loss of clips with their labels, times `weight`.
    pub fn loss(&self, visual: &Visual, labels: &[&DenseLabels], weight: f32) -> Result<DenseLoss> {
        let token_logits = self.token.forward(&visual.tokens)?; // [tokens, classes]
        let groups: Vec<_> = visual.segments.iter().map(|segment| vec![segment.clone()]).collect();
        let clip_logits = self.clip.forward(&rows::mean(&visual.tokens, &groups)?)?; // [clips, classes]
        let (on_tokens, mut value, accuracy) = token_loss(&token_logits, labels, weight)?;
        let (on_clips, clip_value) = clip_loss(&clip_logits, labels, weight)?;
        value += clip_value;
        Ok(DenseLoss { surrogate: (on_tokens + on_clips)?, value, accuracy })
    }
}

fn token_loss(logits: &Tensor, labels: &[&DenseLabels], weight: f32) -> Result<(Tensor, f32, [f32; 4])> {
    let gather = |of: fn(&DenseLabels) -> &Vec<u8>| labels.iter().flat_map(|l| of(l).iter().copied()).collect();
    let classes: [Vec<u8>; 4] =
        [gather(|l| &l.colour), gather(|l| &l.shape), gather(|l| &l.motion), gather(|l| &l.size)];
    let share = |class: &u8| if *class == 0 { EMPTY_WEIGHT } else { 1.0 };
    let weights: Vec<f32> = classes[0].iter().map(share).collect();
    let (width, values) = (TOKEN_COLUMNS[3].end, logits.flatten_all()?.to_vec1::<f32>()?);
    assert_eq!(values.len(), weights.len() * width, "the generator's grid is the vision encoder's");
    let mut slope = vec![0.0; values.len()];
    let (mut value, mut accuracy) = (0.0, [0.0; 4]);
    for (kind, columns) in TOKEN_COLUMNS.iter().enumerate() {
        let labels = Labels { columns: columns.clone(), classes: &classes[kind], weights: &weights };
        let scale = TOKEN_WEIGHTS[kind];
        value += scale * cross_entropy(&values, width, &labels, weight * scale, &mut slope);
        accuracy[kind] = right_share(&values, width, &labels);
    }
    Ok((surrogate(logits, slope)?, value, accuracy))
}

fn clip_loss(logits: &Tensor, labels: &[&DenseLabels], weight: f32) -> Result<(Tensor, f32)> {
    let gather = |of: fn(&DenseLabels) -> u8| labels.iter().map(|l| of(l)).collect::<Vec<u8>>();
    let classes = [gather(|l| l.background), gather(|l| l.count), gather(|l| l.event)];
    let weights = vec![1.0; labels.len()];
    let (width, values) = (CLIP_COLUMNS[3].end, logits.flatten_all()?.to_vec1::<f32>()?);
    let mut slope = vec![0.0; values.len()];
    let mut value = 0.0;
    for (columns, classes) in CLIP_COLUMNS.iter().zip(&classes) {
        let labels = Labels { columns: columns.clone(), classes, weights: &weights };
        value += CLIP_WEIGHT * cross_entropy(&values, width, &labels, weight * CLIP_WEIGHT, &mut slope);
    }
    Ok((surrogate(logits, slope)?, value))
}

/// A scalar with the gradient `slope` at `x`: it hands a gradient that was worked out by hand back to the graph.
pub fn surrogate(x: &Tensor, slope: Vec<f32>) -> Result<Tensor> {
    let slope = Tensor::from_vec(slope, x.shape(), x.device())?;
    (x * slope)?.sum_all()
}

/// Share of rows of full weight whose highest column is their class.
fn right_share(logits: &[f32], width: usize, labels: &Labels) -> f32 {
    let (mut right, mut all) = (0usize, 0usize);
    let rows = labels.classes.iter().zip(labels.weights).enumerate();
    for (row, (&class, _)) in rows.filter(|(_, (_, weight))| **weight == 1.0) {
        let line = &logits[row * width + labels.columns.start..row * width + labels.columns.end];
        right += usize::from(line.iter().all(|&l| l <= line[usize::from(class)]));
        all += 1;
    }
    right as f32 / all.max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn a_surrogate_has_the_given_gradient() {
        let x = Var::new(&[[1.0f32, 2.0]], &Device::Cpu).expect("a row");
        let scalar = surrogate(&x, vec![0.5, -3.0]).expect("a scalar");
        let gradients = scalar.backward().expect("a gradient");
        let slope = gradients.get(&x).expect("reached").to_vec2::<f32>().expect("a row");
        assert_eq!(slope, vec![vec![0.5, -3.0]]);
    }

    #[test]
    fn columns_follow_each_other() {
        let parts: Vec<usize> = TOKEN_COLUMNS.iter().map(ExactSizeIterator::len).collect();
        assert_eq!(parts, [COLOUR_CLASSES, SHAPE_CLASSES, MOTION_CLASSES, SIZE_CLASSES]);
        assert_eq!(TOKEN_COLUMNS[3].end, parts.iter().sum::<usize>());
    }
}
