//! Rows of bytes, laid out as the tile that the micro-kernels read (micro.rs draws it).
//!
//! The quads of 16 columns go to four classes: for four rows at a time that is a transposition of 4 x 4 words, which
//! the compiler makes of the plain loop below.

use std::ops::Range;

use super::micro::{BLOCK, CLASSES, Quad};

/// Blocks laid out before the next rows come: 4 rows of them and 12 rows of their cells stay in 32 KiB.
const BLOCKS_AT_ONCE: usize = 64;

/// Rows transposed at once.
const GROUP: usize = 4;

/// Writes row-major bytes `[rows, cols]` into the cells `[4, blocks, rows]`; the last block is filled with zeros.
pub(super) fn interleave(values: &[i8], cols: usize, cells: &mut [Quad]) {
    let blocks = cols.div_ceil(BLOCK);
    let rows = cells.len().checked_div(CLASSES * blocks).unwrap_or(0);
    assert!(
        values.len() == rows * cols && cells.len() == CLASSES * blocks * rows,
        "the cells are not those of the rows"
    );
    for first in (0..blocks).step_by(BLOCKS_AT_ONCE) {
        let mut grid = Grid { cells, rows, blocks };
        let span = first..(first + BLOCKS_AT_ONCE).min(blocks);
        if rows < GROUP {
            (0..rows).for_each(|row| grid.put::<1>(values, cols, row, span.clone()));
        } else {
            // The last rows are laid with some before them, again.
            let starts = (0..rows).step_by(GROUP).map(|row| row.min(rows - GROUP));
            starts.for_each(|row| grid.put::<GROUP>(values, cols, row, span.clone()));
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
    /// Lays out a span of blocks of the `ROWS` rows from `row` on.
    #[inline(always)]
    fn put<const ROWS: usize>(&mut self, values: &[i8], cols: usize, row: usize, span: Range<usize>) {
        let rows: [&[i8]; ROWS] = std::array::from_fn(|m| &values[(row + m) * cols..][..cols]);
        for block in span {
            let quads = rows.map(|row| quads(&row[block * BLOCK..]));
            for class in 0..CLASSES {
                let cell = (class * self.blocks + block) * self.rows + row;
                self.cells[cell..][..ROWS].copy_from_slice(&quads.map(|quads| quads[class]));
            }
        }
    }
}

/// The quads of the first 16 of some columns, zeros where there are fewer.
#[inline(always)]
fn quads(columns: &[i8]) -> [Quad; CLASSES] {
    let mut block = [0; BLOCK];
    match columns.first_chunk() {
        Some(whole) => block = *whole,
        None => block[..columns.len()].copy_from_slice(columns),
    }
    let (quads, _) = block.as_chunks();
    std::array::from_fn(|class| quads[class])
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
