//! The recorded integers of W1.58A8 linears: quantisation, packing, exact sums, and the one multiplication after them.
//!
//! A ternary model is not continuous, so its linears are tested one by one from recorded inputs, where integers must be equal
//! to the last bit. Two forms: cases `{n}.*` that carry their own weights, and taps `{layer}.{linear}.*` of a model.

use half::bf16;

use super::VerifyError;
use super::compare::{Tolerance, Values};
use super::trial::{Trial, tensor};
use crate::kernel::packed::{Output, PackedMatrix};
use crate::kernel::quantize::quantize;
use crate::kernel::ternary::TernaryMatrix;
use crate::nn::linear::{Linear, Precision};
use crate::nn::weights::Weights;

/// The product of exact integers with two scales: a few f32 roundings.
const PRODUCT: Tolerance = Tolerance::rms(1e-6);
/// A scale is a mean over the weights, and only the order of its sum may differ.
const SCALE: Tolerance = Tolerance::relative(1e-6);
/// Both factors and the result were rounded to bf16 there (2^-9 each) and not here.
const BF16_PRODUCT: Tolerance = Tolerance::rms(0.05).with_cosine(0.9999);

/// Checks every case of a file that holds nothing but linears.
pub fn check_cases(trial: &mut Trial) -> Result<(), VerifyError> {
    for case in trial.golden.before(".x") {
        let has = |field: &str| trial.golden.has(&format!("{case}.{field}"));
        if has("w") || (has("w_packed") && has("w_scale") && outputs(trial, &case).is_some()) {
            check_case(trial, &case)?;
        }
    }
    Ok(())
}

fn check_case(trial: &mut Trial, case: &str) -> Result<(), VerifyError> {
    let name = |field: &str| format!("{case}.{field}");
    let x = trial.golden.values(&name("x"))?;
    let (sums, products) = multiply(trial, case, "", &floats(&x), &matrix(trial, case)?)?;
    trial.expect_numbers(&name("acc_i32"), sums, Tolerance::EXACT)?;
    for form in ["y_packed", "y_exact_f64"] {
        trial.expect_numbers(&name(form), products.clone(), PRODUCT)?;
    }
    // dequantised before the product: its sum rounds at every step, an error that grows with the root of its length
    let [_, cols] = trial.golden.axes(&name("x"))?;
    let dequantised = Tolerance::rms(2e-6 * (cols as f64 / 64.0).sqrt().max(1.0));
    for form in ["y_online", "y_offline"] {
        trial.expect_numbers(&name(form), products.clone(), dequantised)?;
    }
    if trial.golden.has(&name("w")) {
        let weights = trial.golden.values(&name("w"))?;
        let [rows, cols] = trial.golden.axes(&name("w"))?;
        expect_weights(trial, case, "", &TernaryMatrix::from_f32(rows, cols, &floats(&weights)))?;
        let matrix = TernaryMatrix::from_f32(rows, cols, &rounded(&weights));
        expect_weights(trial, case, "_from_bf16", &matrix)?;
        let (_, products) = multiply(trial, case, "_from_bf16", &rounded(&x), &matrix)?;
        trial.expect_numbers(&name("y_online_bf16"), products, BF16_PRODUCT)?;
    }
    Ok(())
}

/// Quantises the case's inputs, compares them, and multiplies: exact sums, and products.
fn multiply(
    trial: &mut Trial,
    case: &str,
    suffix: &str,
    x: &[f32],
    matrix: &TernaryMatrix,
) -> Result<(Vec<f64>, Vec<f64>), VerifyError> {
    let name = format!("{case}.x");
    let [rows, cols] = trial.golden.axes(&name)?;
    if cols != matrix.cols() {
        return Err(trial.golden.fault(&name, &format!("has {cols} columns, the weights have {}", matrix.cols())));
    }
    let x = quantize(rows, cols, x);
    trial.expect_numbers(&format!("{case}.act_int8{suffix}"), wide(x.values()), Tolerance::EXACT)?;
    trial.expect_numbers(&format!("{case}.act_scale{suffix}"), wide(x.scales()), Tolerance::EXACT)?;
    let matrix = PackedMatrix::pack(&[matrix]);
    let (mut sums, mut products) = (vec![0i32; rows * matrix.rows()], vec![0f32; rows * matrix.rows()]);
    matrix.multiply_i32(&x, &mut [&mut sums]);
    matrix.multiply(&x, &mut [Output::plain(&mut products)]);
    Ok((wide(&sums), wide(&products)))
}

fn expect_weights(trial: &mut Trial, case: &str, suffix: &str, matrix: &TernaryMatrix) -> Result<(), VerifyError> {
    let places = (0..matrix.rows()).flat_map(|row| (0..matrix.cols()).map(move |col| (row, col)));
    let signs = places.map(|(row, col)| f64::from(matrix.sign(row, col))).collect();
    trial.expect_numbers(&format!("{case}.w_ternary{suffix}"), signs, Tolerance::EXACT)?;
    trial.expect_numbers(&format!("{case}.w_packed{suffix}"), wide(matrix.packed()), Tolerance::EXACT)?;
    // recorded is 1 / mean|w|, stored is mean|w|
    trial.expect_numbers(&format!("{case}.w_scale{suffix}"), vec![1.0 / f64::from(matrix.scale)], SCALE)
}

/// Outputs of a case, which its packed weights do not tell: they hold four rows in one, padded.
fn outputs(trial: &Trial, case: &str) -> Option<usize> {
    let recorded = ["acc_i32", "y_packed", "y_exact_f64", "y_online", "y_offline"];
    recorded.iter().find_map(|field| trial.golden.shape(&format!("{case}.{field}")).ok()?.last().copied())
}

/// The weights of a case: its packed bytes if it has them, which then are what the products are made of.
fn matrix(trial: &Trial, case: &str) -> Result<TernaryMatrix, VerifyError> {
    let golden = &trial.golden;
    let (packed, scale) = (format!("{case}.w_packed"), format!("{case}.w_scale"));
    let rows = outputs(trial, case).filter(|_| golden.has(&packed) && golden.has(&scale));
    let Some(rows) = rows else {
        let [rows, cols] = golden.axes(&format!("{case}.w"))?;
        return Ok(TernaryMatrix::from_f32(rows, cols, &golden.floats(&format!("{case}.w"))?));
    };
    let [_, cols] = golden.axes(&packed)?;
    let codes = golden.ids(&packed)?.iter().map(|&code| code as u8).collect();
    let scale = golden.floats(&scale)?.first().copied().unwrap_or(f32::NAN);
    TernaryMatrix::from_packed(rows, cols, codes, 1.0 / scale).map_err(|e| golden.fault(&packed, &e.to_string()))
}

/// Checks the taps `{taps}{linear}.*` with the linears below `weights`: recorded input in, integers and output compared.
pub fn check_taps(trial: &mut Trial, taps: &str, weights: &Weights, precision: Precision) -> Result<(), VerifyError> {
    for tap in trial.golden.before(".x") {
        let Some(linear) = tap.strip_prefix(taps) else { continue };
        let segments = linear.split('.').fold(weights.clone(), |weights, segment| weights.pp(segment));
        if !segments.has("weight") {
            continue;
        }
        let x = trial.golden.values(&format!("{tap}.x"))?;
        let inputs = x.shape.last().copied().unwrap_or(1);
        let width = |field: &str| trial.golden.shape(&format!("{tap}.{field}")).ok()?.last().copied();
        let Some(outputs) = width("acc_i32").or(width("y")) else { continue };
        let x = tensor(&x, &[x.numbers.len() / inputs.max(1), inputs])?;
        let linear = Linear::load(&segments, inputs, outputs, segments.has("bias"), precision);
        segments.finish()?;
        if let Some(integers) = linear.integers(&x)? {
            trial.expect_numbers(&format!("{tap}.act_int8"), wide(&integers.act_int8), Tolerance::EXACT)?;
            trial.expect_numbers(&format!("{tap}.act_scale"), wide(&integers.act_scale), Tolerance::EXACT)?;
            trial.expect_numbers(&format!("{tap}.acc_i32"), wide(&integers.acc_i32), Tolerance::EXACT)?;
        }
        trial.expect_tensor(&format!("{tap}.y"), &linear.forward(&x)?, PRODUCT)?;
    }
    Ok(())
}

fn wide<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn floats(values: &Values) -> Vec<f32> {
    values.numbers.iter().map(|&v| v as f32).collect()
}

/// The values as a bf16 model would have seen them.
fn rounded(values: &Values) -> Vec<f32> {
    values.numbers.iter().map(|&v| bf16::from_f32(v as f32).to_f32()).collect()
}
