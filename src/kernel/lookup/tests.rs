//! The fused product equals the definition, bit for bit, wherever its parts meet.

use super::codes::Codes;
use super::product::{Fused, Part, Weights, multiply};
use super::*;
use crate::kernel::isa::Isa;
use crate::kernel::micro::{BLOCK, CLASSES, LANES, TILE_ROWS, Words};
use crate::kernel::packed::{Output, PackedMatrix};
use crate::kernel::quantize::QuantizedRows;
use crate::kernel::ternary::TernaryMatrix;
use proptest::prelude::*;

/// Signs `[rows, cols]` as panels.
fn panels(rows: usize, cols: usize, sign: impl Fn(usize) -> i8) -> Vec<Words> {
    let blocks = cols.div_ceil(BLOCK);
    let mut panels = vec![Words([0; LANES]); rows.div_ceil(LANES) * blocks];
    for (row, col) in (0..rows * cols).map(|index| (index / cols, index % cols)) {
        let shift = 8 * (col % 4) + 2 * (col % BLOCK / CLASSES);
        let word = &mut panels[row / LANES * blocks + col / BLOCK].0[row % LANES];
        *word |= ((sign(row * cols + col) + 1) as u32) << shift;
    }
    panels
}

/// Keeps the sums, and sees that each comes once.
struct Keeper {
    rows: usize,
    sums: Vec<Option<i32>>,
}

impl Sink for Keeper {
    fn expect(&mut self, tokens: Range<usize>, panel: usize) {
        assert!(tokens.end * self.rows <= self.sums.len() && panel * LANES < self.rows, "{tokens:?}, panel {panel}");
    }

    fn put(&mut self, tokens: Range<usize>, panel: usize, sums: &[Sums]) {
        assert_eq!(tokens.len(), sums.len());
        for (token, sums) in tokens.zip(sums) {
            let first = token * self.rows + panel * LANES;
            let cells = &mut self.sums[first..(first + LANES).min((token + 1) * self.rows)];
            for (cell, sum) in cells.iter_mut().zip(sums) {
                assert_eq!(cell.replace(*sum), None, "token {token}, panel {panel} came twice");
            }
        }
    }
}

/// Demands the definition of a product `[tokens, rows]` whose first blocks of tokens are looked up, in parts cut at a
/// panel and a token.
fn assert_exact(
    [rows, cols, tokens]: [usize; 3],
    looked_up: usize,
    sign: impl Fn(usize) -> i8,
    value: impl Fn(usize) -> i8,
) {
    let Some(token) = Fused::detect() else {
        println!("this machine cannot run the fused loop");
        return;
    };
    let panels = panels(rows, cols, &sign);
    let (blocks, count) = (cols.div_ceil(BLOCK), rows.div_ceil(LANES));
    let codes = Codes::new(&panels, blocks);
    let x = QuantizedRows::from_values(cols, (0..tokens * cols).map(&value).collect(), vec![1.0; tokens]);
    let mut keeper = Keeper { rows, sums: vec![None; tokens * rows] };
    for panel_range in [0..count / 2, count / 2..count].into_iter().filter(|range| !range.is_empty()) {
        let part = Part { looked_up: 0..looked_up * LANES, multiplied: looked_up * LANES..tokens, panels: panel_range };
        multiply(token, Weights { panels: &panels, codes: &codes, blocks }, &x, &part, &mut keeper);
    }
    for (index, sum) in keeper.sums.into_iter().enumerate() {
        let (token, row) = (index / rows, index % rows);
        let product = |col: usize| i32::from(sign(row * cols + col)) * i32::from(value(token * cols + col));
        assert_eq!(sum, Some((0..cols).map(product).sum()), "{rows}x{cols}: token {token} of {tokens}, row {row}");
    }
}

/// Numbers without a pattern.
fn mixed(index: usize) -> usize {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) ^ index
}

fn any_sign(index: usize) -> i8 {
    (mixed(index) % 3) as i8 - 1
}

fn any_value(index: usize) -> i8 {
    mixed(index + 77) as i8
}

#[test]
fn it_is_exact_around_every_edge() {
    for cols in [1, 4, 5, 16, 17, 23, 24, 25, 48, 63, 64, 65, 239, 240, 241, 264, 500] {
        for (rows, tokens, looked_up) in [(1, 44, 1), (31, 45, 1), (33, 56, 0), (65, 80, 2), (40, 131, 3)] {
            assert_exact([rows, cols, tokens], looked_up, any_sign, any_value);
        }
    }
}

#[test]
fn the_worst_inputs_do_not_wrap() {
    for cols in [239, 240, 241, 256, 257, 480, 2049] {
        for (sign, value) in [(1, 127), (1, -128), (-1, 127), (-1, -127), (-1, -128), (0, -128), (1, 0)] {
            assert_exact([33, cols, 44], 1, |_| sign, |_| value);
        }
        // One token alone fills its window, in each place of a vector.
        for token in [0, 5, 15, 16, 31] {
            assert_exact([3, cols, 44], 1, |_| -1, |index| if index / cols == token { -128 } else { 1 });
        }
    }
}

#[test]
fn more_rows_than_a_block_and_more_tiles_than_a_group_are_exact() {
    assert_exact([2 * 96 * LANES + 40, 30, 76], 2, any_sign, any_value);
    assert_exact([33, 4100, 32 + 6 * TILE_ROWS + 5], 1, any_sign, any_value);
}

#[test]
fn the_multiplier_may_run_out_of_tiles() {
    assert_exact([70, 100, 5 * LANES + TILE_ROWS], 5, any_sign, any_value);
}

#[test]
fn quiet_tokens_have_long_windows() {
    assert_exact([40, 3000, 60], 1, any_sign, |index| any_value(index) / 32);
}

#[test]
fn a_stack_gives_the_same_bits_with_and_without_the_lookup() {
    let (cols, tokens) = (130, 200);
    let matrix = |rows: usize| {
        let signs: Vec<i8> = (0..rows * cols).map(any_sign).collect();
        TernaryMatrix::from_signs(rows, cols, &signs, 0.01 * rows as f32)
    };
    let stack = [600, 33, 70].map(matrix);
    let values = (0..tokens * cols).map(any_value).collect();
    let x = QuantizedRows::from_values(cols, values, (1..=tokens).map(|row| row as f32 * 0.75).collect());
    let bias: Vec<f32> = (0..600).map(|row| row as f32 * 1e3).collect();
    let residual: Vec<f32> = (0..tokens * 33).map(|index| index as f32 * -0.3).collect();
    let packed = PackedMatrix::pack(&stack.each_ref());
    let bytes = packed.bytes();
    let product = |lookup: Lookup| {
        // Other tests that run meanwhile get the same bits either way.
        if let Err(refused) = force(lookup) {
            println!("{refused}");
        }
        let mut values = stack.each_ref().map(|matrix| vec![f32::NAN; tokens * matrix.rows()]);
        let mut outputs = values.each_mut().map(|values| Output::plain(values));
        outputs[0].bias = Some(&bias);
        outputs[1].residual = Some(&residual);
        packed.multiply(&x, &mut outputs);
        values
    };
    let plain = product(Lookup::Never);
    assert_eq!(packed.bytes(), bytes);
    assert!(product(Lookup::Always) == plain);
    let looked_up = Fused::detect().is_some() && packed.isa() == Isa::Avx512Vnni;
    assert_eq!(packed.bytes() > bytes, looked_up, "the second format comes with the first product that wants it");
    assert!(product(Lookup::Auto) == plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_shape_is_exact(rows in 1usize..150, cols in 1usize..400, tokens in 12usize..150, part in 0usize..5) {
        assert_exact([rows, cols, tokens], part.min((tokens - TILE_ROWS) / LANES), any_sign, any_value);
    }
}
