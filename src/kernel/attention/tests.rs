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

type Attend = fn(&Task<'_>, &mut Scratch);

/// Every instruction set of this machine, each alone.
fn instruction_sets() -> Vec<(&'static str, Attend)> {
    // SAFETY: every chip of the architecture has these vectors.
    let mut sets: Vec<(_, Attend)> = vec![("baseline", |t, s| unsafe { tile::attend::<lanes::Baseline>(t, s) })];
    // SAFETY: vectors of one need no instruction set.
    sets.push(("one lane", |t, s| unsafe { tile::attend::<f32>(t, s) }));
    #[cfg(target_arch = "x86_64")]
    {
        if width() != Width::Baseline {
            // SAFETY: whatever is wider than the baseline has AVX2 and FMA.
            sets.push(("avx2", |t, s| unsafe { avx2(t, s) }));
        }
        if width() == Width::Avx512 {
            // SAFETY: width() detected AVX-512.
            sets.push(("avx512", |t, s| unsafe { avx512(t, s) }));
        } else {
            println!("this machine cannot run attention by AVX-512");
        }
    }
    sets
}

/// Blocks about the edges of tiles (6 rows), vectors, runs (512 keys) and stretches (4096 keys).
fn edges() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |queries: usize, keys: usize, width: usize, heads: (usize, usize), mask: Mask| {
        let start = keys / 3; // two ranges of keys that do not touch
        let block = Block { queries: 1..1 + queries, keys: vec![2..2 + start, 5 + start..5 + keys], mask };
        out.push(Case {
            queries: noise((queries + 2) * heads.0 * width, keys as u64),
            keys: noise((keys + 6) * heads.1 * width, 7),
            values: noise((keys + 6) * heads.1 * width, 8),
            heads: Heads { query: heads.0, key_value: heads.1, scale: (width as f32).powf(-0.5) * 3.0 },
            width,
            plan: Plan { blocks: vec![block] },
        });
    };
    for keys in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129] {
        for queries in [1, 3, 4, 5, 6, 7, 12, 13] {
            add(queries, keys, 24, (2, 1), Mask::Full);
            add(queries, keys, 17, (1, 1), Mask::Causal);
            add(queries, keys, 8, (1, 1), Mask::Window(3));
        }
    }
    for width in [1, 16, 32, 33, 64, 80, 128, 200, 256] {
        add(7, 40, width, (3, 1), Mask::Full);
        add(2, 40, width, (1, 1), Mask::Full);
    }
    for (keys, mask) in [511, 512, 513, 1100].into_iter().zip([Mask::Full, Mask::Causal, Mask::Causal, Mask::Full]) {
        add(9, keys, 20, (1, 1), mask);
        add(1, keys, 20, (2, 1), mask);
    }
    add(600, 600, 4, (1, 1), Mask::Causal);
    add(600, 600, 4, (1, 1), Mask::Window(70));
    add(7, 4100, 4, (1, 1), Mask::Full);
    add(1, 4100, 4, (1, 1), Mask::Full);
    add(7, 4100, 4, (1, 1), Mask::Causal);
    out
}

#[test]
fn equals_the_definition_on_every_instruction_set() {
    for case in cases().into_iter().chain(edges()) {
        let expected = definition(&case);
        for (name, attend) in instruction_sets() {
            let mut out = vec![f32::NAN; case.queries.len()];
            forward_by(attend, case.inputs(), case.heads, &case.plan, &mut out);
            for (got, expected) in out.iter().zip(&expected) {
                let error = (*got as f64 - expected).abs();
                assert!(error < 3e-6, "{name}: {got} {expected} {:?} of width {}", case.plan, case.width);
            }
        }
    }
}

#[test]
fn bf16_products_are_near() {
    for case in cases().into_iter().chain(edges()) {
        let expected = definition(&case);
        let mut out = vec![f32::NAN; case.queries.len()];
        forward(case.inputs(), case.heads, &case.plan, Products::Bf16, &mut out);
        let size: f64 = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error: f64 = out.iter().zip(&expected).map(|(got, x)| (*got as f64 - x).powi(2)).sum::<f64>().sqrt();
        assert!(error <= 1e-2 * size, "{error} of {size}: {:?} of width {}", case.plan, case.width);
    }
}

#[test]
fn a_batch_equals_its_singles_and_the_number_of_tasks_changes_nothing() {
    let lens = [1, 5, 64, 16, 700, 13, 2, 17, 4];
    let rows: usize = lens.iter().sum();
    let ends = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end - len..*end)
    });
    let segments: Vec<_> = ends.collect();
    for (width, query, key_value) in [(24, 4, 2), (4, 2, 2), (6, 2, 1), (8, 4, 4), (16, 2, 1), (64, 1, 1)] {
        let heads = Heads { query, key_value, scale: 0.3 };
        let (queries, keys, values) =
            (noise(rows * query * width, 1), noise(rows * key_value * width, 2), noise(rows * key_value * width, 3));
        let inputs = Inputs { queries: &queries, keys: &keys, values: &values, width };
        let windows: fn(&[Range<usize>]) -> Plan = |segments| Plan::window(segments, 9);
        for (products, make) in [Products::F32, Products::Bf16]
            .into_iter()
            .flat_map(|products| [Plan::full, Plan::causal, windows].map(|make| (products, make)))
        {
            let mut together = vec![0.0; queries.len()];
            forward(inputs, heads, &make(&segments), products, &mut together);
            for segment in &segments {
                let mut alone = vec![0.0; queries.len()];
                threads::serial(|| forward(inputs, heads, &make(std::slice::from_ref(segment)), products, &mut alone));
                let range = segment.start * query * width..segment.end * query * width;
                assert_eq!(alone[range.clone()], together[range], "{products:?} {segment:?} {width} {heads:?}");
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_rows() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40] {
        for products in [Products::F32, Products::Bf16] {
            let (mut queries, keys, values) = (noise(20 * 16, 1), noise(20 * 16, 2), noise(20 * 16, 3));
            let heads = Heads { query: 1, key_value: 1, scale: 0.25 };
            let plan = Plan::causal(&[0..20]);
            let (mut before, mut after) = (vec![0.0; 320], vec![0.0; 320]);
            let run = |queries: &[f32], out: &mut [f32]| {
                forward(Inputs { queries, keys: &keys, values: &values, width: 16 }, heads, &plan, products, out);
            };
            run(&queries, &mut before);
            queries[7 * 16 + 3] = bad;
            run(&queries, &mut after);
            assert_eq!(before[..7 * 16], after[..7 * 16]);
            assert_eq!(before[8 * 16..], after[8 * 16..]);
            assert!(!bad.is_nan() || after[7 * 16].is_nan());
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for mut case in cases() {
        let grad = noise(case.queries.len(), 99);
        let mut out = vec![0.0; case.queries.len()];
        forward(case.inputs(), case.heads, &case.plan, Products::F32, &mut out);
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
