//! The 1.6-bit format holds what it was given, and its products are those of the 2-bit format, bit for bit.

use super::*;
use crate::kernel::packed::PackedMatrix;
use crate::kernel::quantize::quantize;

/// A small generator, so that every run sees the same numbers.
fn noise(seed: usize) -> impl FnMut() -> usize {
    let mut state = seed as u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as usize
    }
}

fn matrix(rows: usize, cols: usize, scale: f32) -> TernaryMatrix {
    let mut next = noise(rows * 1000 + cols);
    let signs: Vec<i8> = (0..rows * cols).map(|_| (next() % 3) as i8 - 1).collect();
    TernaryMatrix::from_signs(rows, cols, &signs, scale)
}

fn bytes(rows: usize, cols: usize) -> QuantizedRows {
    let mut next = noise(rows + cols);
    let values = (0..rows * cols).map(|_| (next() % 256) as u8 as i8).collect();
    QuantizedRows::from_values(cols, values, (1..=rows).map(|row| row as f32 * 0.75).collect())
}

/// The definition: `[x.rows(), rows]`.
fn definition(matrix: &TernaryMatrix, x: &QuantizedRows) -> Vec<i32> {
    let dot = |m: usize, n: usize| {
        let values = &x.values()[m * x.cols()..][..x.cols()];
        values.iter().enumerate().map(|(k, value)| i32::from(*value) * i32::from(matrix.sign(n, k))).sum()
    };
    (0..x.rows() * matrix.rows()).map(|index| dot(index / matrix.rows(), index % matrix.rows())).collect()
}

/// Demands the exact sums of every instruction set of this machine, and the floats of two bits a weight.
fn assert_exact(matrix: &TernaryMatrix, batches: &[QuantizedRows]) {
    let two_bits = PackedMatrix::pack_for(Isa::Scalar, &[matrix]).expect("it runs everywhere");
    for isa in Isa::ALL {
        let Ok(trits) = TritMatrix::pack_for(isa, &[matrix]).inspect_err(|refused| println!("{refused}")) else {
            continue;
        };
        for x in batches {
            let mut sums = vec![i32::MIN; x.rows() * matrix.rows()];
            trits.multiply_i32(x, &mut [&mut sums]);
            assert!(sums == definition(matrix, x), "{trits:?} times {} rows", x.rows());
            let (mut floats, mut expected) = (vec![f32::NAN; sums.len()], vec![f32::NAN; sums.len()]);
            trits.multiply(x, &mut [Output::plain(&mut floats)]);
            two_bits.multiply(x, &mut [Output::plain(&mut expected)]);
            assert_eq!(floats, expected, "{trits:?} times {} rows", x.rows());
        }
    }
}

#[test]
fn every_byte_decodes_to_its_codes() {
    for index in 0..243u32 {
        let code = |digit: usize| (index / 3u32.pow(digit as u32) % 3) as u8;
        let byte = (0..DIGITS).map(|digit| code(digit) * PLACES[digit]).sum();
        let mut codes = [Words([0; LANES]); DIGITS];
        decode(&[Trits([[byte; 4]; LANES]); CLASSES], &mut codes);
        for (digit, words) in codes.iter().enumerate() {
            assert_eq!(words.0, [u32::from(code(digit)) * 0x5555_5555; LANES], "digit {digit} of {byte}");
        }
    }
}

#[test]
fn every_instruction_set_is_exact_around_every_edge() {
    for cols in [1, 3, 4, 5, 7, 15, 16, 17, 33, 64, 100, 257, 2048] {
        let batches = [1, 2, 13].map(|rows| bytes(rows, cols));
        for rows in [1, 2, 31, 32, 33, 65, 159, 160, 161, 333] {
            assert_exact(&matrix(rows, cols, 0.037), &batches);
        }
    }
}

#[test]
fn the_worst_inputs_do_not_wrap() {
    for cols in [4, 1024, COLS_MAX] {
        for (sign, value) in [(1, 127), (1, -128), (-1, 127), (-1, -127), (-1, -128), (0, -128), (1, 0)] {
            let matrix = TernaryMatrix::from_signs(2, cols, &[vec![sign; cols], vec![-sign; cols]].concat(), 1.0);
            assert_exact(&matrix, &[QuantizedRows::from_values(cols, vec![value; cols], vec![1.0])]);
        }
    }
}

#[test]
fn a_stack_equals_its_matrices_with_bias_and_residual() {
    let (left, right, x) = (matrix(200, 70, 0.5), matrix(7, 70, 3.0), bytes(1, 70));
    let (bias, residual) = (vec![0.25; 200], (0..7).map(|index| index as f32).collect::<Vec<_>>());
    let (mut first, mut second, mut plain) = (vec![0.0; 200], vec![0.0; 7], vec![0.0; 207]);
    TritMatrix::pack(&[&left, &right]).multiply(
        &x,
        &mut [
            Output { values: &mut first, bias: Some(&bias), residual: None },
            Output { values: &mut second, bias: None, residual: Some(&residual) },
        ],
    );
    TritMatrix::pack(&[&left]).multiply(&x, &mut [Output::plain(&mut plain[..200])]);
    TritMatrix::pack(&[&right]).multiply(&x, &mut [Output::plain(&mut plain[200..])]);
    let added = bias.iter().chain(&residual);
    let expected: Vec<f32> = plain.iter().zip(added).map(|(product, added)| product + added).collect();
    assert_eq!([first, second].concat(), expected);
}

#[test]
fn threads_change_nothing() {
    let matrix = matrix(2100, 2000, 1.0);
    let (trits, x) = (TritMatrix::pack(&[&matrix]), bytes(1, 2000));
    assert!(matrix.rows() * matrix.cols() >= WORTH_SPREADING);
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let three_threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    let (mut spread, mut serial) = (vec![0; matrix.rows()], vec![0; matrix.rows()]);
    three_threads.install(|| trits.multiply_i32(&x, &mut [&mut spread]));
    one_thread.install(|| trits.multiply_i32(&x, &mut [&mut serial]));
    assert!(spread == serial && serial == definition(&matrix, &x));
}

#[test]
fn nothing_times_anything_is_fine() {
    for (rows, cols, height) in [(0, 5, 1), (3, 5, 0), (3, 0, 1), (3, 0, 2), (0, 0, 0)] {
        assert_exact(&matrix(rows, cols, 1.0), &[bytes(height, cols)]);
    }
}

#[test]
fn a_row_that_is_not_finite_gives_nan() {
    let mut out = [0.0; 2];
    TritMatrix::pack(&[&matrix(2, 3, 1.0)])
        .multiply(&quantize(1, 3, &[f32::NAN, 1.0, 0.0]), &mut [Output::plain(&mut out)]);
    assert!(out.iter().all(|out| out.is_nan()));
}

#[test]
fn a_weight_takes_eight_fifths_of_a_bit() {
    let trits = TritMatrix::pack(&[&matrix(320, 400, 1.0)]);
    assert_eq!(trits.bytes() * 5, 320 * 400);
}
