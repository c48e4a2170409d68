//! Rows of bytes, laid out as the tile that the micro-kernels read (micro.rs draws it).
//!
//! The quads of 16 columns go to four classes: for four rows at a time that is a transposition of 4 x 4 words. A single
//! row has four blocks at a time instead, whose quads of a class are neighbours then.

use super::micro::{BLOCK, CLASSES, Quad};

/// Blocks laid out before the next rows come: 4 rows of them and 12 rows of their cells stay in 32 KiB.
const BLOCKS_AT_ONCE: usize = 64;

/// Rows transposed at once.
const GROUP: usize = 4;

/// Writes row-major bytes `[rows, cols]` into the cells `[4, blocks, rows]`; the last block is filled with zeros.
pub(super) fn interleave(values: &[i8], cols: usize, cells: &mut [Quad]) {
    let blocks = cols.div_ceil(BLOCK);
    let rows = cells.len().checked_div(CLASSES * blocks).unwrap_or(0);
    let fits = values.len() == rows * cols && cells.len() == CLASSES * blocks * rows;
    assert!(fits, "the cells are not those of the rows");
    let row = |row: usize| &values[row * cols..][..cols];
    let mut grid = Grid { cells, rows, blocks };
    match rows {
        1 => {
            let (fours, rest) = row(0).as_chunks::<{ GROUP * BLOCK }>();
            for (four, columns) in fours.iter().enumerate() {
                let (blocks, _) = columns.as_chunks();
                grid.put(four * GROUP, 0, transposed(std::array::from_fn(|block| &blocks[block])));
            }
            grid.put_row(0, rest, blocks - rest.len().div_ceil(BLOCK));
        }
        2..GROUP => (0..rows).for_each(|index| grid.put_row(index, row(index), 0)),
        _ => {
            for first in (0..cols / BLOCK).step_by(BLOCKS_AT_ONCE) {
                for start in grid.groups() {
                    let rows: [_; GROUP] = std::array::from_fn(|m| row(start + m).as_chunks::<BLOCK>().0);
                    for block in first..(first + BLOCKS_AT_ONCE).min(cols / BLOCK) {
                        grid.put(block, start, transposed(rows.map(|blocks| &blocks[block])));
                    }
                }
            }
            let whole = cols / BLOCK * BLOCK;
            (0..rows).for_each(|index| grid.put_row(index, &row(index)[whole..], cols / BLOCK));
        }
    }
}

/// The cells of a tile.
struct Grid<'a> {
    cells: &'a mut [Quad],
    rows: usize,
    blocks: usize,
}

impl Grid<'_> {
    /// Where groups of four rows begin. The last rows are laid with some before them, again.
    fn groups(&self) -> impl Iterator<Item = usize> + use<> {
        let last = self.rows.saturating_sub(GROUP);
        (0..self.rows).step_by(GROUP).map(move |row| row.min(last))
    }

    /// Writes four neighbouring cells of each class, from a block and a row on.
    #[inline(always)]
    fn put(&mut self, block: usize, row: usize, classes: [[Quad; GROUP]; CLASSES]) {
        for (class, quads) in classes.into_iter().enumerate() {
            let cell = (class * self.blocks + block) * self.rows + row;
            self.cells[cell..][..GROUP].copy_from_slice(&quads);
        }
    }

    /// Lays out some columns of one row, from a block on.
    fn put_row(&mut self, row: usize, columns: &[i8], first: usize) {
        for (index, columns) in columns.chunks(BLOCK).enumerate() {
            let mut block = [0; BLOCK];
            block[..columns.len()].copy_from_slice(columns);
            for (class, quad) in block.as_chunks().0.iter().enumerate() {
                self.cells[(class * self.blocks + first + index) * self.rows + row] = *quad;
            }
        }
    }
}

/// For each class the quads of four blocks.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transposed(blocks: [&[i8; BLOCK]; GROUP]) -> [[Quad; GROUP]; CLASSES] {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 has SSE2; a block is one vector of 16 bytes, read without alignment; a vector is four quads,
    // for which every bit pattern is valid.
    unsafe {
        let [a, b, c, d] = blocks.map(|block| _mm_loadu_si128(block.as_ptr().cast()));
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let low = [_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd)];
        let (ab, cd) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        let high = [_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd)];
        std::mem::transmute([low, high])
    }
}

/// For each class the quads of four blocks.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transposed(blocks: [&[i8; BLOCK]; GROUP]) -> [[Quad; GROUP]; CLASSES] {
    let quads = blocks.map(|block| block.as_chunks().0);
    std::array::from_fn(|class| std::array::from_fn(|block| quads[block][class]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_lands_in_its_cell() {
        for rows in 1..=12 {
            for cols in [1, 4, 15, 16, 17, 40, BLOCK * BLOCKS_AT_ONCE + 5] {
                let value = |row: usize, col: usize| ((row * 31 + col * 7) % 255) as u8 as i8;
                let values: Vec<i8> = (0..rows * cols).map(|index| value(index / cols, index % cols)).collect();
                let blocks = cols.div_ceil(BLOCK);
                let mut cells = vec![[99; 4]; CLASSES * blocks * rows];
                interleave(&values, cols, &mut cells);
                for row in 0..rows {
                    for col in 0..blocks * BLOCK {
                        let (block, class, byte) = (col / BLOCK, col % BLOCK / 4, col % 4);
                        let expected = if col < cols { value(row, col) } else { 0 };
                        assert_eq!(
                            cells[(class * blocks + block) * rows + row][byte],
                            expected,
                            "{rows}x{cols} {row} {col}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_laid_out_as_nothing() {
        interleave(&[], 0, &mut []);
    }
}
