//! Every layer's gradient against finite differences, and its values against candle's own operations.

#![allow(clippy::single_range_in_vec_init)] // groups of rows are lists of ranges

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::activation::Activation;
use super::attention::{Heads, Plan, attention};
use super::linear::{Linear, Precision, WeightScale};
use super::norm::{LayerNorm, RmsNorm, l2_normalize};
use super::rope::{Rotary, inverse_frequencies};
use super::rows;
use super::weights::{Init, Mode, Weights};

fn noise(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&Weights::fresh(seed, Mode::Infer).get(shape, "noise", Init::Normal(1.0))).expect("a variable")
}

/// Compares the gradient of `sum(f(variables) * g)` with central differences at a few elements of each variable.
fn check(name: &str, variables: &[&Var], f: impl Fn() -> Result<Tensor>) {
    let y = f().expect(name);
    let g = noise(77, y.dims());
    let loss = || (f()? * g.as_tensor())?.to_dtype(DType::F64)?.sum_all();
    let gradients = loss().and_then(|loss| loss.backward()).expect(name);
    for (which, variable) in variables.iter().enumerate() {
        let gradient: Vec<f32> =
            gradients.get(variable).expect("a gradient").flatten_all().and_then(|g| g.to_vec1()).expect(name);
        let values: Vec<f32> = variable.flatten_all().and_then(|v| v.to_vec1()).expect(name);
        let at = |index: usize, by: f32| -> f64 {
            let mut moved = values.clone();
            moved[index] += by;
            variable.set(&Tensor::from_vec(moved, variable.dims(), &Device::Cpu).expect(name)).expect(name);
            loss().and_then(|loss| loss.to_scalar::<f64>()).expect(name)
        };
        for index in (0..values.len()).step_by(values.len() / 7 + 1) {
            let expected = (at(index, 2e-3) - at(index, -2e-3)) / 4e-3;
            at(index, 0.0);
            let got = f64::from(gradient[index]);
            assert!((got - expected).abs() < 5e-3 * (1.0 + expected.abs()), "{name} {which}[{index}] {got} {expected}");
        }
    }
}

#[test]
fn gradients_of_the_layers() {
    let weights = Weights::fresh(5, Mode::Train);
    let x = noise(1, &[5, 24]);
    let with = |weights: &Weights| -> Vec<Var> { weights.variables().into_iter().map(|(_, var)| var).collect() };
    let linear = Linear::load(&weights.pp("linear"), 24, 7, true, Precision::Dense);
    let layer_norm = LayerNorm::load(&weights.pp("ln"), 24, 1e-6);
    let rms_norm = RmsNorm::load(&weights.pp("rms"), 8, 1e-6, true);
    let variables = with(&weights);
    assert_eq!(variables.len(), 5);
    check("linear", &[&x, &variables[0], &variables[1]], || linear.forward(&x));
    check("layer norm", &[&x, &variables[2], &variables[3]], || layer_norm.forward(&x));
    check("rms norm", &[&x, &variables[4]], || rms_norm.forward(&x));
    check("l2", &[&x], || l2_normalize(&x));
    let up = noise(2, &[5, 24]);
    for kind in [Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Relu2] {
        check("activation", &[&x], || kind.apply(&x));
        check("gate", &[&x, &up], || kind.gate(&x, &up));
    }
    let half = Rotary::half_split(&[0.0, 1.0, 2.0, 0.0, 1.0], &inverse_frequencies(8, 100.0));
    check("half-split rotary", &[&x], || half.apply(&x, 3));
    let three = Rotary::three_axis(&[[0.0, 1.0, 2.0]; 5], 12, 100.0);
    check("three-axis rotary", &[&x], || three.apply(&x, 2));
    check("gather", &[&x], || rows::gather(&x, &[1, 1, 4, 0]));
    check("mean", &[&x], || rows::mean(&x, &[vec![0..2, 4..5], vec![], vec![1..5]]));
}

#[test]
fn gradients_of_attention() {
    let (q, k, v) = (noise(1, &[5, 24]), noise(2, &[5, 12]), noise(3, &[5, 12]));
    let heads = Heads { query: 4, key_value: 2, scale: 0.4 };
    let plan = Arc::new(Plan::causal(&[0..2, 2..5]));
    check("attention", &[&q, &k, &v], || attention(&q, &k, &v, heads, &plan));
}

#[test]
fn a_ternary_layer_serves_what_it_trained() {
    let weights = Weights::fresh(9, Mode::Train);
    let trained = Linear::load(&weights, 40, 13, false, Precision::Ternary(WeightScale::Divides));
    let tensors = weights.variables().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    let served = Weights::from_tensors(tensors, Mode::Infer);
    let served = Linear::load(&served, 40, 13, false, Precision::Ternary(WeightScale::Divides));
    let x = noise(3, &[6, 40]);
    let (a, b) = (trained.forward(&x).expect("trained"), served.forward(&x).expect("served"));
    let gap = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("a gap");
    assert!(gap < 1e-5, "{gap}");
    let integers = served.integers(&x).expect("integers").expect("ternary");
    assert_eq!((integers.act_int8.len(), integers.acc_i32.len()), (240, 78));
    assert!(served.facts().bytes < 40 * 13 * 4, "{:?}: no f32 copy", served.facts());
}

#[test]
fn the_straight_through_gradient_is_that_of_the_rounded_product() {
    let weights = Weights::fresh(9, Mode::Train);
    let layer = Linear::load(&weights, 16, 3, false, Precision::Ternary(WeightScale::Divides));
    let x = noise(3, &[4, 16]);
    let y = layer.forward(&x).expect("a product");
    let gradients = y.sum_all().and_then(|loss| loss.backward()).expect("gradients");
    let (_, master) = weights.variables().remove(0);
    let dx: Vec<Vec<f32>> = gradients.get(&x).expect("of x").to_vec2().expect("a matrix");
    let w: Vec<Vec<f32>> = master.to_vec2().expect("a matrix");
    let mean = w.iter().flatten().map(|w| w.abs()).sum::<f32>() / 48.0;
    for row in &dx {
        for (column, &got) in row.iter().enumerate() {
            let sum: f32 = w.iter().map(|w| (w[column] / mean).round_ties_even().clamp(-1.0, 1.0) * mean).sum();
            assert!((got - sum).abs() < 1e-5, "{got} {sum}");
        }
    }
    assert!(gradients.get(&master).is_some());
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let weights = Weights::fresh(1, Mode::Infer);
    let x = noise(1, &[2, 5]);
    let linear = Linear::load(&weights, 4, 3, true, Precision::Dense);
    assert!(linear.forward(&x).is_err());
    let ternary = Linear::load(&weights.pp("t"), 4, 3, false, Precision::Ternary(WeightScale::Divides));
    assert!(ternary.forward(&x).is_err());
    assert!(LayerNorm::load(&weights, 4, 1e-6).forward(&x).is_err());
    assert!(rows::gather(&x, &[2]).is_err());
    assert!(rows::mean(&x, &[vec![1..3]]).is_err());
    let plan = Arc::new(Plan::full(&[0..3]));
    assert!(attention(&x, &x, &x, Heads { query: 1, key_value: 1, scale: 1.0 }, &plan).is_err());
}

/// The largest difference between what two modules make of `x`.
fn gap(x: &Tensor, ours: &dyn candle_nn::Module, theirs: &dyn candle_nn::Module) -> f32 {
    let difference = || (ours.forward(x)? - theirs.forward(x)?)?.abs()?.max_all()?.to_scalar::<f32>();
    difference().expect("two results of one shape")
}

#[test]
fn values_equal_candles_own_layers() {
    let weights = Weights::fresh(5, Mode::Infer);
    let x = noise(1, &[6, 48]);
    let parameter = |name: &str, shape: &[usize], init| weights.get(shape, name, init);
    let linear = Linear::load(&weights.pp("l"), 48, 20, true, Precision::Dense);
    let (w, b) = (parameter("l.weight", &[20, 48], Init::FanIn(0.7)), parameter("l.bias", &[20], Init::Zeros));
    assert!(gap(&x, &linear, &candle_nn::Linear::new(w, Some(b))) < 1e-5);
    let (w, b) = (parameter("n.weight", &[48], Init::Ones), parameter("n.bias", &[48], Init::Zeros));
    let layer_norm = LayerNorm::load(&weights.pp("n"), 48, 1e-6);
    assert!(gap(&x, &layer_norm, &candle_nn::LayerNorm::new(w.clone(), b, 1e-6)) < 1e-5);
    let rms_norm = RmsNorm::load(&weights.pp("n"), 48, 1e-6, false);
    assert!(gap(&x, &rms_norm, &candle_nn::RmsNorm::new(w, 1e-6)) < 1e-5);
    let pairs = [
        (Activation::GeluErf, candle_nn::Activation::Gelu),
        (Activation::GeluTanh, candle_nn::Activation::GeluPytorchTanh),
        (Activation::Silu, candle_nn::Activation::Silu),
        (Activation::Relu2, candle_nn::Activation::Relu2),
    ];
    for (ours, theirs) in pairs {
        let ours = candle_nn::func(move |x| ours.apply(x));
        assert!(gap(&x, &ours, &theirs) < 2e-6, "{theirs:?}");
    }
}
