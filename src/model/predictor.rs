//! The predictor: visual tokens and a question in, one answer embedding out. A Llama stack without causal mask over
//! [visual ; question], positions counted over both, an average over its rows, and a linear map into the shared space.
//!
//! Two forms of attention. Joint (the paper): visual tokens see the question, the stack runs over [visual ; question]
//! once a question. Prefix (ours): visual tokens see visual tokens only and each question sees them and itself, so all
//! questions about a clip share one visual pass, with the same result as one question at a time.

use super::config::{Pool, PredictorConfig, VisionConfig, VisualAttention, VisualPosition};
use super::llama::Llama;
use super::vision::Visual;
use super::{Observer, unobserved};
use crate::nn::attention::{Block, Mask, Plan};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::{LayerNorm, l2_normalize};
use crate::nn::rows;
use crate::nn::source::Source;
use crate::nn::weights::Weights;
use candle_core::{Device, Result, Tensor, bail};
use std::f32::consts::{PI, SQRT_2};
use std::ops::Range;

/// A question about one of the clips: the clip's index in the [`Visual`] and the question's tokens.
pub type Question<'a> = (usize, &'a [u32]);

/// Scene and question to answer embedding.
pub struct Predictor {
    /// Sizes and settings.
    pub config: PredictorConfig,
    /// The blocks and the token embedding.
    pub llama: Llama,
    vision_norm: Option<LayerNorm>,
    vision_proj: Linear,
    head: Linear,
    /// How visual tokens are counted: columns and rows of a frame, steps of a clip as trained.
    grid: usize,
    steps: usize,
}

/// Where the rows of a batch lie: inputs are gathered from [all visual rows ; all question rows].
struct Layout {
    order: Option<Vec<u32>>,
    positions: Vec<f32>,
    plan: Plan,
    /// Rows of each answer: its clip's and its question's.
    answers: Vec<[Range<usize>; 2]>,
}

impl Predictor {
    /// Reads the predictor for visual tokens of `vision`. Faults are noted in `weights`.
    pub fn load(weights: &Weights, config: &PredictorConfig, vision: &VisionConfig, shared_dim: usize) -> Predictor {
        let (seen, hidden) = (vision.hidden_size, config.llama.hidden_size);
        Predictor {
            // a predictor speaks no words: a stack that was published with an output head comes without it
            llama: Llama::load_silent(weights, &config.llama),
            vision_norm: config.vision_norm.then(|| LayerNorm::load(&weights.pp("vision_norm"), seen, 1e-6)),
            vision_proj: Linear::load(&weights.pp("vision_proj"), seen, hidden, true, Precision::Dense),
            head: Linear::load(&weights.pp("head"), hidden, shared_dim, true, Precision::Full),
            grid: vision.grid(),
            steps: vision.steps(),
            config: config.clone(),
        }
    }

    /// One unit row `[questions, shared]` a question, in their order.
    pub fn forward(&self, visual: &Visual, questions: &[Question]) -> Result<Tensor> {
        self.observe(visual, questions, self.config.pool, &mut unobserved)
    }

    /// [`forward`](Self::forward) with a chosen pool, showing `inputs_embeds`, `layer0` ..., `norm`, `pooled`,
    /// `embedding`. Rows stand in the order of the layout: joint, [visual ; question] one question after the other;
    /// prefix, all visual rows and then all questions.
    pub fn observe(
        &self,
        visual: &Visual,
        questions: &[Question],
        pool: Pool,
        observer: &mut Observer,
    ) -> Result<Tensor> {
        if let Some((clip, _)) = questions.iter().find(|(clip, _)| *clip >= visual.segments.len()) {
            bail!("question about clip {clip}; there are {}", visual.segments.len());
        }
        let layout = match self.config.visual_attention {
            VisualAttention::Joint => Layout::joint(visual, questions),
            VisualAttention::Prefix => Layout::prefix(visual, questions),
        };
        let x = self.inputs(visual, questions)?; // [visual + question tokens, hidden]
        let x = layout.order.as_ref().map_or(Ok(x.clone()), |order| rows::gather(&x, order))?;
        observer("inputs_embeds", &x);
        let sequence = self.llama.sequence(&layout.positions, layout.plan);
        let x = self.llama.run(x, 0..self.llama.depth(), &sequence, observer)?;
        let x = self.llama.normalize(&x)?;
        observer("norm", &x);
        let pooled = rows::mean(&x, &pooled_rows(layout.answers, pool))?; // [questions, hidden]
        observer("pooled", &pooled);
        let embedding = l2_normalize(&self.head.forward(&pooled)?)?; // [questions, shared]
        observer("embedding", &embedding);
        Ok(embedding)
    }

    /// What the linears hold.
    pub fn facts(&self) -> Vec<LayerFacts> {
        self.llama.facts().into_iter().chain([self.vision_proj.facts(), self.head.facts()]).collect()
    }

    fn inputs(&self, visual: &Visual, questions: &[Question]) -> Result<Tensor> {
        let seen = self.vision_norm.as_ref();
        let seen = seen.map_or(Source::Rows(&visual.tokens), |norm| Source::LayerNormed(norm, &visual.tokens));
        let mut seen = self.vision_proj.of(seen)?; // [visual tokens, hidden]
        if let Some(VisualPosition::Sine { std }) = self.config.visual_position {
            seen = (seen + self.sine(visual, std)?)?;
        }
        let ids: Vec<u32> = questions.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        if ids.is_empty() { Ok(seen) } else { rows::concat(&[&seen, &self.llama.embed(&ids)?]) }
    }

    /// A fixed code of (time, row, column), `std` in root mean square. Each coordinate u runs from 0 to 1 over a clip
    /// as trained; its features are cos and sin of pi u, 2 pi u and 4 pi u, so that the slowest alone tells all places
    /// apart; the 18 features are repeated over the width.
    fn sine(&self, visual: &Visual, std: f32) -> Result<Tensor> {
        let (grid, hidden) = (self.grid, self.config.llama.hidden_size);
        let rows: usize = visual.segments.iter().map(Range::len).sum();
        let mut code = Vec::with_capacity(rows * hidden);
        for i in visual.segments.iter().flat_map(|segment| 0..segment.len()) {
            let cell = i % (grid * grid);
            let place = [(i / (grid * grid), self.steps), (cell / grid, grid), (cell % grid, grid)];
            let features: [f32; 18] = std::array::from_fn(|feature| {
                let (at, of) = place[feature % 3];
                let turns = PI * (at as f32 + 0.5) / of as f32 * (1 << (feature / 6)) as f32;
                std * SQRT_2 * if feature / 3 % 2 == 0 { turns.cos() } else { turns.sin() }
            });
            code.extend((0..hidden).map(|dim| features[dim % 18]));
        }
        Tensor::from_vec(code, (rows, hidden), &Device::Cpu)
    }
}

fn pooled_rows(answers: Vec<[Range<usize>; 2]>, pool: Pool) -> Vec<Vec<Range<usize>>> {
    let rows = |[visual, question]: [Range<usize>; 2]| match pool {
        Pool::All => vec![visual, question],
        Pool::Query => vec![question],
    };
    answers.into_iter().map(rows).collect()
}

/// Where each question's rows lie behind all visual rows.
fn question_rows(visual: &Visual, questions: &[Question]) -> Vec<Range<usize>> {
    let mut end = visual.segments.last().map_or(0, |segment| segment.end);
    let mut next = |(_, ids): &Question| {
        let start = end;
        end += ids.len();
        start..end
    };
    questions.iter().map(&mut next).collect()
}

impl Layout {
    fn joint(visual: &Visual, questions: &[Question]) -> Layout {
        let (mut order, mut positions, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for ((clip, _), question) in questions.iter().zip(question_rows(visual, questions)) {
            let (start, seen) = (order.len(), visual.segments[*clip].clone());
            let middle = start + seen.len();
            answers.push([start..middle, middle..middle + question.len()]);
            positions.extend((0..seen.len() + question.len()).map(|at| at as f32));
            order.extend(seen.chain(question).map(|row| row as u32));
        }
        let sequences: Vec<_> = answers.iter().map(|[visual, question]| visual.start..question.end).collect();
        // one question about the only clip: the rows lie as they are wanted
        let moved = questions.len() != 1 || visual.segments.len() != 1;
        Layout { order: moved.then_some(order), positions, plan: Plan::full(&sequences), answers }
    }

    fn prefix(visual: &Visual, questions: &[Question]) -> Layout {
        let mut blocks = Plan::full(&visual.segments).blocks;
        let mut positions: Vec<f32> =
            visual.segments.iter().flat_map(|segment| (0..segment.len()).map(|at| at as f32)).collect();
        let mut answers = Vec::new();
        for ((clip, _), question) in questions.iter().zip(question_rows(visual, questions)) {
            let seen = visual.segments[*clip].clone();
            positions.extend((seen.len()..seen.len() + question.len()).map(|at| at as f32));
            let keys = vec![seen.clone(), question.clone()];
            blocks.push(Block { queries: question.clone(), keys, mask: Mask::Full });
            answers.push([seen, question]);
        }
        Layout { order: None, positions, plan: Plan { blocks }, answers }
    }
}
