//! The lookup's format of the weights: a byte for four columns of a row, six bytes a row and pass.

use std::ops::Range;

use super::product::{GROUPS, TABLE_LINES};
use crate::kernel::micro::{CLASSES, LANES, Words};

/// The code of four zero weights.
const ZEROS: u8 = 1 + 3 + 9 + 27;
/// The last code.
const CODE_MAX: u32 = TABLE_LINES as u32 - 1;
/// Bytes past the last row's codes, which are read as a word of eight bytes.
const PADDING: usize = 8 - GROUPS;

/// Ternary weights `[pass][row][6]`, 2 bits a weight; every byte is at most [`CODE_MAX`].
pub struct Codes {
    /// Rows of whole panels.
    rows: usize,
    passes: usize,
    bytes: Vec<u8>,
}

impl Codes {
    /// Takes panels of `blocks` blocks; rows and columns that fill them are converted with them.
    pub fn new(panels: &[Words], blocks: usize) -> Codes {
        let rows = panels.len().checked_div(blocks).unwrap_or(0) * LANES;
        let passes = passes(blocks);
        let mut bytes = vec![ZEROS; passes * rows * GROUPS + PADDING];
        for (panel, words) in panels.chunks(blocks.max(1)).enumerate() {
            for quad in 0..blocks * CLASSES {
                let codes = &mut bytes[(quad / GROUPS * rows + panel * LANES) * GROUPS + quad % GROUPS..];
                for (code, word) in codes.iter_mut().step_by(GROUPS).zip(&words[quad / CLASSES].0) {
                    *code = code_of(word >> (2 * (quad % CLASSES)));
                }
            }
        }
        Codes { rows, passes, bytes }
    }

    /// Passes of 24 columns.
    pub(super) fn passes(&self) -> usize {
        self.passes
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The codes of some rows in a pass, and two bytes that may be read.
    pub(super) fn rows(&self, pass: usize, rows: Range<usize>) -> &[u8] {
        assert!(pass < self.passes && rows.end <= self.rows, "rows {rows:?} of pass {pass} are not here");
        &self.bytes[(pass * self.rows + rows.start) * GROUPS..][..rows.len() * GROUPS + PADDING]
    }
}

/// Passes over some blocks of 16 columns.
pub(super) fn passes(blocks: usize) -> usize {
    (blocks * CLASSES).div_ceil(GROUPS)
}

/// `c0 + 3 c1 + 9 c2 + 27 c3` of the two low bits of each byte: the top byte of a product in which nothing carries.
/// Never more than [`CODE_MAX`], whatever the word is: the loop looks codes up unchecked.
fn code_of(word: u32) -> u8 {
    ((word & 0x0303_0303).wrapping_mul(0x0103_091b) >> 24).min(CODE_MAX) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_ternary_number() {
        for code in 0..81u32 {
            let digits = [1, 3, 9, 27].map(|power| (code / power % 3) as u8);
            let word = u32::from_le_bytes(digits);
            assert_eq!(u32::from(code_of(word | 0xfcfc_fcfc)), code);
        }
        assert_eq!(u32::from(code_of(u32::MAX)), CODE_MAX, "a word of codes that are none stays in the table");
    }

    #[test]
    fn codes_lie_by_pass_and_row() {
        // Three blocks are twelve groups: two passes. Weight 1 in row 33, column 45 (quad 11, byte 1), else -1.
        let mut panels = vec![Words([0; LANES]); 6];
        panels[5].0[1] = 2 << (8 + 2 * 3);
        let codes = Codes::new(&panels, 3);
        assert_eq!((codes.passes, codes.rows), (2, 64));
        let row = codes.rows(1, 33..34);
        assert_eq!(row[..GROUPS], [0, 0, 0, 0, 0, 6]);
        let set = codes.bytes.iter().filter(|byte| **byte != 0).count();
        assert_eq!(set, 1 + PADDING);
        assert_eq!(Codes::new(&[], 3).bytes(), PADDING);
    }
}
