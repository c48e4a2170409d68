//! The multiplier's side of the fused loop: an endless supply of tiles, each left and taken up again at any block.

use std::ops::Range;

use super::fused::{self, Cursor, Place, TileSums, UNIT_ROWS};
use super::product::{GROUPS, Line, Part, TABLE_LINES, Weights};
use super::{Sink, transpose};
use crate::kernel::isa::Avx512Vnni;
use crate::kernel::micro::{BLOCK, CLASSES, LANES, Micro, Quad, TILE_ROWS, Tile, Words};
use crate::kernel::quantize::QuantizedRows;

/// Bytes of tiles that meet every panel before the next ones: they stay in the cache beside the lookup's sums.
const GROUP_BYTES: usize = 192 << 10;

/// The rows of a pass.
pub(super) struct Rows<'a> {
    /// Six bytes a row, and two more.
    pub codes: &'a [u8],
    /// A line a row.
    pub narrow: &'a mut [Line],
    /// Two lines a row.
    pub wide: &'a mut [[Line; 2]],
}

/// Tiles of 12 tokens, multiplied in the order: group of tiles, panel, tile.
pub(super) struct Multiplier<'a> {
    micro: Avx512Vnni,
    weights: Weights<'a>,
    x: &'a QuantizedRows,
    tokens: Range<usize>,
    panels: Range<usize>,
    /// The tokens whose tiles are laid out now, whole tiles; empty when there are no more.
    group: Range<usize>,
    /// `[tile of the group][class][block][12]`.
    cells: Vec<Quad>,
    /// The tile in work: its panel and first token.
    panel: usize,
    token: usize,
    /// Blocks that `sums` holds.
    done: usize,
    sums: TileSums,
}

impl<'a> Multiplier<'a> {
    pub(super) fn new(
        micro: Avx512Vnni,
        weights: Weights<'a>,
        x: &'a QuantizedRows,
        part: &Part,
        cells: Vec<Quad>,
    ) -> Multiplier<'a> {
        let (tokens, panels) = (part.multiplied.clone(), part.panels.clone());
        assert!(weights.blocks > 0 && weights.blocks == x.cols().div_ceil(BLOCK), "weights and activations differ");
        assert!(panels.end * weights.blocks <= weights.panels.len(), "panels {panels:?} are not here");
        assert!(tokens.len() >= TILE_ROWS && tokens.end <= x.rows(), "tokens {tokens:?} make no tile");
        let (panel, token, group) = (panels.start, tokens.start, tokens.start..tokens.start);
        let sums = TileSums([[0; LANES]; TILE_ROWS]);
        let mut multiplier =
            Multiplier { micro, weights, x, tokens, panels, group, cells, panel, token, done: 0, sums };
        multiplier.lay_group();
        multiplier
    }

    /// Looks up whole units of rows, and multiplies meanwhile.
    pub(super) fn advance(
        &mut self,
        place: Place,
        tables: &[Line; GROUPS * TABLE_LINES],
        rows: Rows<'_>,
        sink: &mut impl Sink,
    ) {
        let count = rows.narrow.len();
        assert!(count.is_multiple_of(UNIT_ROWS) && rows.wide.len() == count, "rows are looked up eight at a time");
        assert!(rows.codes.len() >= count * GROUPS + 2, "codes for {count} rows and two bytes more");
        let (codes, narrow, wide) = (rows.codes.as_ptr(), rows.narrow.as_mut_ptr(), rows.wide.as_mut_ptr());
        let mut cursor = Cursor { panel: [].as_ptr(), quads: [].as_ptr(), class_bytes: 0, codes, narrow, wide };
        let mut left = count / UNIT_ROWS;
        while left > 0 {
            if self.done == self.weights.blocks {
                self.end_tile(sink);
                self.begin(sink);
            }
            let units = left.min(self.weights.blocks - self.done);
            cursor.panel = self.panel()[self.done..].as_ptr();
            cursor.quads = self.cells[self.tile().start + self.done * TILE_ROWS..].as_ptr();
            cursor.class_bytes = self.weights.blocks * TILE_ROWS * size_of::<Quad>();
            // SAFETY: `micro` stands for avx512f, bw, vl and vnni, and the caller's Fused token for bmi2. The panel and
            // each class of the tile have `blocks - done` blocks left; `8 left` rows are left, with codes of Codes.
            unsafe { fused::run(place, &mut cursor, &mut self.sums, tables, units) };
            self.done += units;
            left -= units;
        }
    }

    /// Multiplies what is left, and gives the memory back.
    pub(super) fn finish(mut self, sink: &mut impl Sink) -> Vec<Quad> {
        // A tile that was begun is multiplied again: simpler than to end it, and less than 0.1 % of the work.
        while !self.group.is_empty() {
            if self.done < self.weights.blocks {
                let (cells, sums) = (self.tile(), &self.x.sums()[self.token..][..TILE_ROWS]);
                self.micro.ternary(self.panel(), &Tile::new(&self.cells[cells], sums), &mut self.sums.0);
            }
            self.end_tile(sink);
            self.done = 0;
        }
        let rest = self.tokens.end - self.tokens.len() % TILE_ROWS..self.tokens.end;
        if !rest.is_empty() {
            self.lay(rest.clone(), rest.len());
            for panel in self.panels.clone() {
                self.panel = panel;
                let (tile, sums) =
                    (Tile::new(&self.cells, &self.x.sums()[rest.clone()]), &mut self.sums.0[..rest.len()]);
                let weights = &self.weights.panels[panel * self.weights.blocks..][..self.weights.blocks];
                self.micro.ternary(weights, &tile, sums);
                sink.put(rest.clone(), panel, sums);
            }
        }
        self.cells
    }

    /// The weights of the tile in work.
    fn panel(&self) -> &'a [Words] {
        &self.weights.panels[self.panel * self.weights.blocks..][..self.weights.blocks]
    }

    /// The cells of the tile in work.
    fn tile(&self) -> Range<usize> {
        let size = self.weights.blocks * CLASSES * TILE_ROWS;
        // When there is no group any more, the loop is fed with the last one's first tile.
        let index = self.token.saturating_sub(self.group.start) / TILE_ROWS;
        index * size..(index + 1) * size
    }

    /// Nothing of the tile in work is summed yet, but for the ones that the codes are too large by.
    pub(super) fn begin(&mut self, sink: &mut impl Sink) {
        self.done = 0;
        sink.expect(self.token..self.token + TILE_ROWS, self.panel);
        // SAFETY: `micro` exists, so detection saw avx512f.
        unsafe { begin(&mut self.sums, &self.x.sums()[self.token..]) };
    }

    /// Hands the sums over and goes to the next tile; idles on the last when there is none.
    fn end_tile(&mut self, sink: &mut impl Sink) {
        if self.group.is_empty() {
            return;
        }
        sink.put(self.token..self.token + TILE_ROWS, self.panel, &self.sums.0);
        self.token += TILE_ROWS;
        if self.token == self.group.end {
            (self.token, self.panel) = (self.group.start, self.panel + 1);
        }
        if self.panel == self.panels.end {
            self.panel = self.panels.start;
            self.lay_group();
        }
    }

    /// Lays out the next group of whole tiles.
    fn lay_group(&mut self) {
        let tile_bytes = self.weights.blocks * CLASSES * TILE_ROWS * size_of::<Quad>();
        let tiles = ((self.tokens.end - self.group.end) / TILE_ROWS).min((GROUP_BYTES / tile_bytes).max(1));
        if tiles == 0 {
            self.group = self.token..self.token;
            return;
        }
        self.group = self.group.end..self.group.end + tiles * TILE_ROWS;
        self.token = self.group.start;
        self.lay(self.group.clone(), TILE_ROWS);
    }

    /// Lays out tokens in tiles of a height that divides their count.
    fn lay(&mut self, tokens: Range<usize>, height: usize) {
        let (cols, size) = (self.x.cols(), self.weights.blocks * CLASSES * height);
        self.cells.resize(tokens.len() / height * size, [0; 4]);
        for (first, cells) in tokens.step_by(height).zip(self.cells.chunks_mut(size)) {
            let mut rows = [&[][..]; TILE_ROWS];
            for (row, values) in rows.iter_mut().zip(self.x.values()[first * cols..].chunks(cols)) {
                *row = values;
            }
            // SAFETY: `micro` exists, so detection saw avx512f and avx512bw.
            unsafe { transpose::lay_tile(&rows[..height], cells) };
        }
    }
}

/// The sums of a tile before its first block: the codes are too large by one.
#[target_feature(enable = "avx512f")]
fn begin(sums: &mut TileSums, row_sums: &[i32]) {
    for (sums, row_sum) in sums.0.iter_mut().zip(row_sums) {
        sums.fill(-row_sum);
    }
}
