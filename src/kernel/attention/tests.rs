//! Attention against its definition in f64, and its gradients against finite differences.

#![allow(clippy::single_range_in_vec_init)] // lists of ranges are meant

use super::*;

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Case {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: Heads,
    width: usize,
    plan: Plan,
}

impl Case {
    fn inputs(&self) -> Inputs<'_> {
        Inputs { queries: &self.queries, keys: &self.keys, values: &self.values, width: self.width }
    }
}

fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (width, heads, key_heads) in [(4, 2, 1), (12, 4, 4), (16, 4, 2), (32, 2, 2), (50, 1, 1)] {
        let plans = vec![
            Plan::full(&[0..5, 5..70]),
            Plan::causal(&[0..7, 7..70]),
            Plan::window(&[0..70], 5),
            Plan {
                blocks: vec![
                    Block { queries: 0..64, keys: vec![0..64], mask: Mask::Full },
                    Block { queries: 64..66, keys: vec![0..64, 64..66], mask: Mask::Full },
                    Block { queries: 66..70, keys: vec![3..20, 66..70], mask: Mask::Causal },
                ],
            },
            Plan { blocks: vec![Block { queries: 2..4, keys: vec![], mask: Mask::Full }] },
            Plan { blocks: vec![Block { queries: 69..70, keys: vec![0..40], mask: Mask::Causal }] },
        ];
        for (seed, plan) in plans.into_iter().enumerate() {
            let seed = seed as u64 + 1;
            out.push(Case {
                queries: noise(70 * heads * width, seed),
                keys: noise(70 * key_heads * width, seed + 10),
                values: noise(70 * key_heads * width, seed + 20),
                heads: Heads { query: heads, key_value: key_heads, scale: (width as f32).powf(-0.5) * 2.0 },
                width,
                plan,
            });
        }
    }
    out
}

fn definition(case: &Case) -> Vec<f64> {
    let (d, heads) = (case.width, case.heads);
    let group = heads.query / heads.key_value;
    let mut out = vec![0.0; case.queries.len()];
    for block in &case.plan.blocks {
        let keys: Vec<usize> = block.key_rows().collect();
        for (i, query) in block.queries.clone().enumerate() {
            for head in 0..heads.query {
                let at = (query * heads.query + head) * d;
                let sees = |j: usize| match block.mask {
                    Mask::Full => true,
                    Mask::Causal => j as i64 <= i as i64 + keys.len() as i64 - block.queries.len() as i64,
                    Mask::Window(w) => i.abs_diff(j) < w,
                };
                let key = |j: usize| (keys[j] * heads.key_value + head / group) * d;
                let score = |j: usize| -> f64 {
                    let sum: f64 = (0..d).map(|c| case.queries[at + c] as f64 * case.keys[key(j) + c] as f64).sum();
                    (sum * heads.scale as f64).exp()
                };
                let weights: Vec<f64> = (0..keys.len()).map(|j| if sees(j) { score(j) } else { 0.0 }).collect();
                let total: f64 = weights.iter().sum();
                if total > 0.0 {
                    for c in 0..d {
                        let value = |j: usize| case.values[key(j) + c] as f64;
                        out[at + c] = (0..keys.len()).map(|j| weights[j] / total * value(j)).sum();
                    }
                }
            }
        }
    }
    out
}

#[test]
fn equals_the_definition() {
    for case in cases() {
        let mut out = vec![f32::NAN; case.queries.len()];
        forward(case.inputs(), case.heads, &case.plan, &mut out);
        for (got, expected) in out.iter().zip(definition(&case)) {
            assert!((*got as f64 - expected).abs() < 3e-6, "{got} {expected} {:?}", case.plan);
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for mut case in cases() {
        let grad = noise(case.queries.len(), 99);
        let mut out = vec![0.0; case.queries.len()];
        forward(case.inputs(), case.heads, &case.plan, &mut out);
        let (mut dq, mut dk, mut dv) =
            (vec![0.0; case.queries.len()], vec![0.0; case.keys.len()], vec![0.0; case.values.len()]);
        backward(case.inputs(), (case.heads, &case.plan), (&out, &grad), (&mut dq, &mut dk, &mut dv));
        let loss = |case: &Case| -> f64 { definition(case).iter().zip(&grad).map(|(y, g)| y * *g as f64).sum() };
        let step = 1e-3f32;
        for (which, gradient) in [dq, dk, dv].iter().enumerate() {
            for index in (0..gradient.len()).step_by(gradient.len() / 5 + 1) {
                let field = |case: &mut Case, by: f32| match which {
                    0 => case.queries[index] += by,
                    1 => case.keys[index] += by,
                    _ => case.values[index] += by,
                };
                field(&mut case, step);
                let above = loss(&case);
                field(&mut case, -2.0 * step);
                let below = loss(&case);
                field(&mut case, step);
                let expected = (above - below) / (2.0 * step as f64);
                let got = gradient[index] as f64;
                assert!((got - expected).abs() < 2e-3 * (1.0 + expected.abs()), "{which} {index} {got} {expected}");
            }
        }
    }
}
