//! Every loop of this machine against sums in f64 of the rounded numbers, around every tile edge.

use super::*;

fn floats(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn all_loops<C: Cell>() -> Vec<Loops<C>> {
    let all = vec![portable::baseline_loops(), portable::best(), Loops::best()];
    println!("{} with {:?}", C::NAME, all.iter().map(|loops| loops.name).collect::<Vec<_>>());
    all
}

/// What a float becomes in a cell.
fn kept<C: Cell>(value: f32) -> f64 {
    let mut cell = [C::default()];
    C::round(&[value], &mut cell);
    f64::from(cell[0].column(0))
}

/// The product in f64, and the sum of magnitudes that bounds its error.
fn definition<C: Cell>(x: &[f32], weights: &[f32]) -> (f64, f64) {
    let terms = x.iter().zip(weights).map(|(x, weight)| kept::<C>(*x) * kept::<C>(*weight));
    terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
}

#[test]
fn every_loop_sums_what_was_rounded_on_every_shape_around_a_tile_edge() {
    check_shapes::<f32>();
    check_shapes::<Pair>();
}

fn check_shapes<C: Cell>() {
    let shapes = [(1, vec![1]), (2, vec![31, 2]), (7, vec![32]), (64, vec![33, 64, 5]), (129, vec![70])];
    for loops in all_loops::<C>() {
        for rows in [1, 2, 3, 4, 5, 11, 12, 13, 25, 200] {
            shapes.iter().for_each(|(cols, stack)| check(loops, rows, *cols, stack));
        }
    }
}

fn check<C: Cell>(loops: Loops<C>, rows: usize, cols: usize, stack: &[usize]) {
    let x = floats(rows * cols, 1);
    let weights: Vec<Vec<f32>> = stack.iter().map(|&rows| floats(rows * cols, 7 + rows as u64)).collect();
    let matrices: Vec<_> = weights.iter().zip(stack).map(|(w, &rows)| Matrix::new(w, rows, cols)).collect();
    let packed = PackedDense::pack_for(loops, &matrices);
    let mut input = DenseRows::default();
    input.assign(rows, cols, &x);
    let bias: Vec<Vec<f32>> = stack.iter().map(|&outputs| floats(outputs, 3)).collect();
    let residual: Vec<Vec<f32>> = stack.iter().map(|&outputs| floats(rows * outputs, 5)).collect();
    let mut values: Vec<Vec<f32>> = stack.iter().map(|&outputs| vec![f32::NAN; rows * outputs]).collect();
    let mut outputs: Vec<_> = values.iter_mut().map(|values| Output::plain(values)).collect();
    for (index, output) in outputs.iter_mut().enumerate() {
        // The first has neither, the second a bias, the third both.
        output.bias = (index > 0).then_some(&bias[index]);
        output.residual = (index > 1).then_some(&residual[index]);
    }
    packed.multiply(&input, &mut outputs);
    for (index, &outputs) in stack.iter().enumerate() {
        for place in 0..rows * outputs {
            let (m, n) = (place / outputs, place % outputs);
            let (sum, size) = definition::<C>(&x[m * cols..][..cols], &weights[index][n * cols..][..cols]);
            let bias = if index > 0 { f64::from(bias[index][n]) } else { 0.0 };
            let residual = if index > 1 { f64::from(residual[index][place]) } else { 0.0 };
            let (expected, bound) = (sum + bias + residual, (size + 2.0) * (cols + 4) as f64 * 1.2e-7);
            let (name, got) = (loops.name, f64::from(values[index][place]));
            assert!((got - expected).abs() <= bound, "{name} {rows}x{cols} {stack:?}: {got} for {expected}");
        }
    }
}

#[test]
fn whole_numbers_are_exact_on_every_loop_and_thread() {
    check_whole_numbers::<f32>();
    check_whole_numbers::<Pair>();
}

fn check_whole_numbers<C: Cell>() {
    let (rows, outputs, cols) = (50, 300, 500);
    let whole = |count, seed| floats(count, seed).iter().map(|v| (v * 16.0).round()).collect::<Vec<f32>>();
    let (x, weights) = (whole(rows * cols, 1), whole(outputs * cols, 2));
    let mut input = DenseRows::default();
    input.assign(rows, cols, &x);
    let dot = |m: usize, n: usize| (0..cols).map(|k| x[m * cols + k] * weights[n * cols + k]).sum::<f32>();
    let expected: Vec<f32> = (0..rows * outputs).map(|place| dot(place / outputs, place % outputs)).collect();
    let three_threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    for loops in all_loops::<C>() {
        let packed = PackedDense::pack_for(loops, &[Matrix::new(&weights, outputs, cols)]);
        let mut values = vec![f32::NAN; rows * outputs];
        three_threads.install(|| packed.multiply(&input, &mut [Output::plain(&mut values)]));
        assert_eq!(values, expected, "{} on three threads", loops.name);
        values.fill(f32::NAN);
        threads::serial(|| packed.multiply(&input, &mut [Output::plain(&mut values)]));
        assert_eq!(values, expected, "{} on one", loops.name);
    }
}

#[test]
fn a_row_gives_the_same_bits_whatever_stands_beside_it() {
    check_rows_alone::<f32>();
    check_rows_alone::<Pair>();
}

fn check_rows_alone<C: Cell>() {
    let (rows, outputs, cols) = (29, 40, 131);
    let (x, weights) = (floats(rows * cols, 1), floats(outputs * cols, 2));
    for loops in all_loops::<C>() {
        let packed = PackedDense::pack_for(loops, &[Matrix::new(&weights, outputs, cols)]);
        let product = |x: &[f32]| {
            let (mut input, mut values) = (DenseRows::default(), vec![f32::NAN; x.len() / cols * outputs]);
            input.assign(x.len() / cols, cols, x);
            packed.multiply(&input, &mut [Output::plain(&mut values)]);
            values
        };
        let alone: Vec<f32> = x.chunks(cols).flat_map(product).collect();
        assert_eq!(product(&x), alone, "{}", loops.name);
    }
}

#[test]
fn rounding_goes_to_even_and_keeps_what_is_no_number() {
    let half = |bits: u32| rounded(f32::from_bits(bits));
    assert_eq!([half(0x3f80_8000), half(0x3f81_8000), half(0x3f80_8001)], [0x3f80, 0x3f82, 0x3f81]);
    assert_eq!([rounded(f32::INFINITY), rounded(-0.0), rounded(f32::MAX)], [0x7f80, 0x8000, 0x7f80]);
    assert!([f32::NAN, f32::from_bits(0x7f80_0001)].iter().all(|nan| kept::<Pair>(*nan).is_nan()));
}

#[test]
fn rows_made_in_place_are_the_rows_given_and_memory_is_reused_without_a_trace() {
    let x = floats(40 * 33, 9);
    let (mut given, mut made) = (DenseRows::<Pair>::default(), DenseRows::default());
    given.assign(40, 33, &x);
    made.assign(50, 64, &floats(50 * 64, 1));
    made.assign_from(40, 33, |row, buffer| buffer.copy_from_slice(&x[row * 33..][..33]));
    assert_eq!(given.cells, made.cells);
    made.assign(0, 33, &[]);
    PackedBf16::pack(&[Matrix::new(&x, 40, 33)]).multiply(&made, &mut [Output::plain(&mut [])]);
    made.assign(2, 0, &[]);
    let mut values = [f32::NAN; 6];
    PackedBf16::pack(&[Matrix::new(&[], 3, 0)]).multiply(&made, &mut [Output::plain(&mut values)]);
    assert_eq!(values, [0.0; 6]);
}
