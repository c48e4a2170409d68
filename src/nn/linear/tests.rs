//! Laws of layers in serving: a source is read as its rows would be, a stack gives what its layers give alone, a
//! residual is added; and what rounding to bytes costs.

use super::*;
use crate::nn::activation::Activation;
use crate::nn::norm::{LayerNorm, RmsNorm};

const TERNARY: Precision = Precision::Ternary(WeightScale::Divides);

/// Every way in which serving holds weights.
const WAYS: [(Precision, Dense); 4] = [
    (Precision::Dense, Dense::F32),
    (Precision::Dense, Dense::Bf16),
    (Precision::Dense, Dense::Int8),
    (TERNARY, Dense::Int8),
];

fn noise(seed: u64, shape: &[usize]) -> Tensor {
    Weights::fresh(seed, Mode::Infer).get(shape, "noise", Init::Normal(1.0))
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32 values")
}

#[test]
fn a_source_is_read_as_its_rows_would_be() {
    let weights = Weights::fresh(3, Mode::Infer);
    let (x, up) = (noise(1, &[7, 40]), noise(2, &[7, 40]));
    let (layer_norm, rms_norm) = (LayerNorm::load(&weights, 40, 1e-6), RmsNorm::load(&weights, 40, 1e-6, true));
    let sources = [
        Source::Rows(&x),
        Source::LayerNormed(&layer_norm, &x),
        Source::RmsNormed(&rms_norm, &x),
        Source::Activated(Activation::GeluErf, &x),
        Source::Gated(Activation::Silu, [&x, &up], None),
        Source::Gated(Activation::Relu2, [&x, &up], Some(&rms_norm)),
    ];
    for (precision, dense) in WAYS {
        let linear = Linear::load(&weights.pp("l").holding(dense), 40, 33, true, precision);
        for source in sources {
            let rows = source.tensor().expect("rows");
            let (made, read) = (linear.forward(&rows).expect("made"), linear.of(source).expect("read"));
            assert_eq!(values(&made), values(&read), "{precision:?}");
        }
        let narrow = noise(4, &[7, 39]);
        assert!(linear.forward(&narrow).is_err(), "{precision:?}");
        assert!(linear.of(Source::Gated(Activation::Silu, [&x, &narrow], None)).is_err(), "{precision:?}");
    }
}

#[test]
fn a_stack_gives_what_its_layers_give_alone() {
    let x = noise(1, &[5, 48]);
    for (precision, dense) in WAYS {
        let weights = Weights::fresh(5, Mode::Infer).holding(dense);
        // the last one is held in another way where the others are bytes
        let places = [(weights.pp("q"), 31), (weights.pp("k"), 64), (weights.pp("v").fine(), 1)];
        let alone = places.each_ref().map(|(place, outputs)| Linear::load(place, 48, *outputs, true, precision));
        let stack = Linear::stack(places, 48, true, precision);
        let products = stack.products(Source::Rows(&x)).expect("a product of each");
        for (product, alone) in products.iter().zip(&alone) {
            assert_eq!(values(product), values(&alone.forward(&x).expect("alone")), "{precision:?}");
        }
        let parameters: usize = alone.iter().map(|layer| layer.facts().parameters).sum();
        assert_eq!(stack.facts().parameters, parameters);
    }
}

#[test]
fn a_residual_is_added() {
    let weights = Weights::fresh(7, Mode::Infer);
    let (x, residual) = (noise(1, &[9, 20]), noise(2, &[9, 35]));
    for (precision, dense) in WAYS {
        let linear = Linear::load(&weights.pp("l").holding(dense), 20, 35, true, precision);
        let added = linear.onto(&residual, Source::Rows(&x)).expect("a sum");
        let alone = linear.forward(&x).expect("a product");
        let sum: Vec<f32> = values(&alone).iter().zip(values(&residual)).map(|(y, r)| y + r).collect();
        assert_eq!(values(&added), sum, "{precision:?}");
        assert!(linear.onto(&x, Source::Rows(&x)).is_err(), "a residual of another shape");
    }
}

#[test]
fn narrow_weights_keep_the_direction_and_a_part_of_the_memory() {
    let exact = Weights::fresh(9, Mode::Infer);
    let x = noise(1, &[6, 256]);
    let load = |weights: Weights| Linear::load(&weights, 256, 128, true, Precision::Dense);
    for (dense, parts, least) in [(Dense::Bf16, 1.9, 0.99999), (Dense::Int8, 3.0, 0.9995)] {
        let (exact, narrow) = (load(exact.clone()), load(exact.clone().holding(dense)));
        assert!(narrow.facts().bytes as f64 * parts < exact.facts().bytes as f64, "{:?}", narrow.facts());
        let (exact, narrow) = (exact.forward(&x).expect("f32"), narrow.forward(&x).expect("narrow"));
        for (exact, narrow) in values(&exact).chunks(128).zip(values(&narrow).chunks(128)) {
            let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
            let cosine = dot(exact, narrow) / (dot(exact, exact) * dot(narrow, narrow)).sqrt();
            assert!(cosine > least && cosine < 1.0 - 1e-9, "{dense:?}: {cosine}");
        }
    }
}

#[test]
fn what_is_missing_is_a_fault_and_no_panic() {
    for (precision, dense) in WAYS {
        let nothing = Weights::from_tensors(std::collections::HashMap::new(), Mode::Infer).holding(dense);
        let places = [("q", 31), ("k", 7)].map(|(name, outputs)| (nothing.pp(name), outputs));
        Linear::stack(places, 48, true, precision);
        let text = nothing.finish().expect_err("faults").to_string();
        for name in ["q.weight", "k.weight", "q.bias", "k.bias"] {
            assert!(text.contains(name), "{precision:?}: {text}");
        }
    }
}
