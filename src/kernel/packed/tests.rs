//! Stacks of both kinds of weights: exact on every instruction set, around every edge, and on the worst inputs.

use super::*;
use crate::kernel::quantize::quantize;
use crate::kernel::ternary::COLS_MAX;
use proptest::prelude::*;

/// A small generator, so that every run sees the same numbers.
fn noise(seed: usize) -> impl FnMut() -> usize {
    let mut state = seed as u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as usize
    }
}

fn signs(count: usize, seed: usize) -> Vec<i8> {
    let mut next = noise(seed);
    (0..count).map(|_| (next() % 3) as i8 - 1).collect()
}

fn int8s(count: usize, seed: usize) -> Vec<i8> {
    let mut next = noise(seed);
    (0..count).map(|_| (next() % 255) as i16 - 127).map(|value| value as i8).collect()
}

fn bytes(rows: usize, cols: usize, seed: usize) -> QuantizedRows {
    let mut next = noise(seed);
    let values = (0..rows * cols).map(|_| (next() % 256) as u8 as i8).collect();
    QuantizedRows::from_values(cols, values, (1..=rows).map(|row| row as f32 * 0.75).collect())
}

/// The definition: `[x.rows(), rows]`.
fn definition(rows: usize, weights: &[i8], x: &QuantizedRows) -> Vec<i32> {
    let dot = |m: usize, n: usize| {
        let activations = &x.values()[m * x.cols()..][..x.cols()];
        let pairs = activations.iter().zip(&weights[n * x.cols()..]);
        pairs.map(|(value, weight)| i32::from(*value) * i32::from(*weight)).sum()
    };
    (0..x.rows() * rows).map(|index| dot(index / rows, index % rows)).collect()
}

/// Packs for every instruction set of this machine; says which it lacks.
fn pack_all<W: Weights>(stack: &[&W]) -> Vec<Packed<W>> {
    let pack = |isa| Packed::pack_for(isa, stack).inspect_err(|refused| println!("{refused}")).ok();
    #[allow(unused_mut)]
    let mut all: Vec<_> = Isa::ALL.into_iter().filter_map(pack).collect();
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = isa::Avx512Vnni::detect() {
        all.push(Packed::pack_with(Box::new(crate::kernel::avxvnni::Twin(token)), stack));
    }
    all
}

/// Demands the exact sums, and the same float bits, of every instruction set.
fn assert_exact<W: Weights>(matrix: &W, weights: &[i8], batches: &[QuantizedRows]) {
    let [rows, _] = matrix.shape();
    let packed = pack_all(&[matrix]);
    for x in batches {
        let expected = definition(rows, weights, x);
        let mut floats = Vec::new();
        for packed in &packed {
            let mut sums = vec![i32::MIN; expected.len()];
            packed.multiply_i32(x, &mut [&mut sums]);
            assert!(sums == expected, "{packed:?} times {} rows", x.rows());
            let mut out = vec![f32::NAN; expected.len()];
            packed.multiply(x, &mut [Output::plain(&mut out)]);
            floats.push(out.iter().map(|out| out.to_bits()).collect::<Vec<_>>());
        }
        assert!(floats.iter().all(|bits| *bits == floats[0]), "{rows} rows times {} rows", x.rows());
    }
}

fn assert_ternary_exact(rows: usize, signs: &[i8], batches: &[QuantizedRows]) {
    assert_exact(&TernaryMatrix::from_signs(rows, batches[0].cols(), signs, 0.037), signs, batches);
}

fn assert_int8_exact(rows: usize, values: &[i8], batches: &[QuantizedRows]) {
    let scales = (0..rows).map(|row| 0.01 + row as f32 / 7.0).collect();
    assert_exact(&Int8Matrix::from_values(rows, batches[0].cols(), values.to_vec(), scales), values, batches);
}

#[test]
fn every_instruction_set_is_exact_around_every_edge() {
    for cols in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 257, 2048] {
        let heights = [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 33];
        let batches: Vec<_> = heights.into_iter().map(|height| bytes(height, cols, height)).collect();
        for rows in [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 65] {
            assert_ternary_exact(rows, &signs(rows * cols, cols), &batches);
            assert_int8_exact(rows, &int8s(rows * cols, cols), &batches);
        }
    }
}

#[test]
fn every_tile_height_is_exact() {
    let batches: Vec<_> = (1..=40).map(|height| bytes(height, 35, height)).collect();
    assert_ternary_exact(37, &signs(37 * 35, 1), &batches);
    assert_int8_exact(37, &int8s(37 * 35, 1), &batches);
}

#[test]
fn the_worst_inputs_do_not_wrap() {
    for cols in [64, 1024, 1040, COLS_MAX] {
        for value in [127, -128, -127, 0] {
            let mut values = vec![value; 2 * cols];
            values[cols..].fill(0);
            let x = QuantizedRows::from_values(cols, values, vec![1.0, 1.0]);
            let batches = [x, QuantizedRows::from_values(cols, vec![value; cols], vec![1.0])];
            for sign in [1, 0] {
                assert_ternary_exact(2, &[vec![sign; cols], vec![-sign; cols]].concat(), &batches);
                assert_int8_exact(2, &[vec![sign * 127; cols], vec![-127 * sign; cols]].concat(), &batches);
            }
        }
    }
}

#[test]
fn nothing_times_anything_is_fine() {
    for (rows, cols, height) in [(0, 5, 3), (3, 5, 0), (3, 0, 2), (0, 0, 0)] {
        assert_ternary_exact(rows, &signs(rows * cols, 1), &[bytes(height, cols, 1)]);
        assert_int8_exact(rows, &int8s(rows * cols, 1), &[bytes(height, cols, 1)]);
    }
}

#[test]
fn a_stack_equals_its_matrices() {
    let cols = 70;
    let matrices =
        [33, 1, 64].map(|rows| TernaryMatrix::from_signs(rows, cols, &signs(rows * cols, rows), rows as f32));
    let stack: Vec<_> = matrices.iter().collect();
    let x = bytes(14, cols, 2);
    let empty = || matrices.each_ref().map(|matrix| vec![f32::NAN; 14 * matrix.rows()]);
    let mut singles = empty();
    for (matrix, out) in matrices.iter().zip(&mut singles) {
        PackedMatrix::pack(&[matrix]).multiply(&x, &mut [Output::plain(out)]);
    }
    for packed in pack_all(&stack) {
        let mut outputs = empty();
        packed.multiply(&x, &mut outputs.each_mut().map(|out| Output::plain(out)));
        assert_eq!(outputs, singles, "{packed:?}");
        assert_eq!(packed.rows(), 98);
    }
}

#[test]
fn bias_and_then_residual_are_added() {
    let (rows, cols, height) = (45, 20, 13);
    let values = int8s(rows * cols, 1);
    let scales: Vec<f32> = (0..rows).map(|row| 0.1 + row as f32 * 0.013).collect();
    let matrix = Int8Matrix::from_values(rows, cols, values.clone(), scales.clone());
    let x = bytes(height, cols, 3);
    let bias: Vec<f32> = (0..rows).map(|row| row as f32 * 1e3).collect();
    let residual: Vec<f32> = (0..rows * height).map(|index| index as f32 * -0.3).collect();
    let expected = |(index, sum): (usize, i32)| {
        let (m, n) = (index / rows, index % rows);
        let product = sum as f32 * (scales[n] * (1.0 / f64::from(x.scales()[m])) as f32);
        product + bias[n] + residual[index]
    };
    let expected: Vec<f32> = definition(rows, &values, &x).into_iter().enumerate().map(expected).collect();
    for packed in pack_all(&[&matrix]) {
        let mut values = vec![f32::NAN; expected.len()];
        let output = Output { values: &mut values, bias: Some(&bias), residual: Some(&residual) };
        packed.multiply(&x, &mut [output]);
        assert_eq!(values, expected, "{packed:?}");
    }
}

#[test]
fn threads_and_blocks_change_nothing() {
    let (rows, cols) = (257, 100);
    let matrix = TernaryMatrix::from_signs(rows, cols, &signs(rows * cols, 3), 1.0);
    let packed = PackedMatrix::pack(&[&matrix]);
    let x = bytes(BLOCK_TILES * TILE_ROWS * 2 + 5, cols, 4);
    assert!(x.rows() * rows * cols >= WORTH_SPREADING);
    let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("threads");
    let mut expected = vec![0; x.rows() * rows];
    threads(1).install(|| packed.multiply_i32(&x, &mut [&mut expected]));
    for count in [2, 3, 5] {
        let mut spread = vec![0; x.rows() * rows];
        threads(count).install(|| packed.multiply_i32(&x, &mut [&mut spread]));
        assert!(spread == expected, "{count} threads");
    }
}

#[test]
fn a_batch_equals_singles() {
    let matrix = TernaryMatrix::from_signs(40, 50, &signs(2000, 5), 0.1);
    let packed = PackedMatrix::pack(&[&matrix]);
    let mut next = noise(6);
    let x: Vec<f32> = (0..19 * 50).map(|_| next() as f32 - 8e6).collect();
    let mut batch = vec![0.0; 19 * 40];
    packed.multiply(&quantize(19, 50, &x), &mut [Output::plain(&mut batch)]);
    for (x, batch) in x.chunks(50).zip(batch.chunks(40)) {
        let mut single = vec![0.0; 40];
        packed.multiply(&quantize(1, 50, x), &mut [Output::plain(&mut single)]);
        assert_eq!(single, batch);
    }
}

#[test]
fn a_row_that_is_not_finite_gives_nan() {
    let ternary = PackedMatrix::pack(&[&TernaryMatrix::from_signs(2, 2, &[1, 0, 0, 1], 1.0)]);
    let int8 = PackedInt8::pack(&[&Int8Matrix::from_values(2, 2, vec![1, 0, 0, 1], vec![1.0; 2])]);
    let x = quantize(3, 2, &[1.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 0.0]);
    let mut out = [[0.0; 6]; 2];
    ternary.multiply(&x, &mut [Output::plain(&mut out[0])]);
    int8.multiply(&x, &mut [Output::plain(&mut out[1])]);
    for out in out {
        assert!(out[..4].iter().all(|out| out.is_nan()));
        assert_eq!(out[4..], [1.0, 0.0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_shape_is_exact(rows in 1usize..80, cols in 1usize..300, height in 1usize..40, seed: u16) {
        let x = [bytes(height, cols, seed.into())];
        assert_ternary_exact(rows, &signs(rows * cols, seed.into()), &x);
        assert_int8_exact(rows, &int8s(rows * cols, seed.into()), &x);
    }
}
