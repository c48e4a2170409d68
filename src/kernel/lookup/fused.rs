//! The one loop that keeps both engines of a core busy, in assembly: 24 sums, the weights and a looked-up row fill all
//! 32 registers, and the order of the instructions is the point. A compiler that spills one of them halves the speed.
//!
//! ```text
//! zmm0..23   sums of a tile: row m of 12, lanes 0..16 in zmm2m and 16..32 in zmm2m+1
//! zmm24..25  the panel block, shifted down two bits a class     zmm26..27  its codes of this class
//! zmm28      a quad in every lane    zmm30      four of them        zmm31      the mask 3 in every byte
//! zmm29      the row looked up
//! ```
//! A unit is one panel block (16 columns of a tile of 12 x 32) and eight rows of a pass (24 columns of 32 tokens):
//! four classes of twelve cells, each a broadcast, two `vpdpbusd` and one table entry added.

use std::arch::asm;

use super::product::{Line, TABLE_LINES};
use crate::kernel::micro::{Quad, Sums, TILE_ROWS, Words};

/// Rows of weights that a unit looks up.
pub(super) const UNIT_ROWS: usize = 8;
/// Bytes of a table; the assembly has its multiples written out.
const TABLE_BYTES: usize = TABLE_LINES * size_of::<Line>();
const _: () = assert!(TABLE_BYTES == 5184 && size_of::<Words>() == 128 && TILE_ROWS * size_of::<Quad>() == 48);

/// The sums of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct TileSums(pub [Sums; TILE_ROWS]);

/// Where the loop stands in a tile and in a pass. Every pointer moves on as far as the loop went.
pub(super) struct Cursor {
    /// Blocks of a panel.
    pub panel: *const Words,
    /// Cells of a tile: the first class; the next class lies `class_bytes` further.
    pub quads: *const Quad,
    /// Bytes from one class of a tile to the next.
    pub class_bytes: usize,
    /// Six codes a row, then two bytes that may be read.
    pub codes: *const u8,
    /// A line a row: sums since the window began.
    pub narrow: *mut Line,
    /// Two lines a row: sums of whole windows, 32 bits a token.
    pub wide: *mut [Line; 2],
}

/// What a pass does before and after its rows' six additions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The first of a window: nothing has been summed yet.
    pub first: bool,
    /// The end, if it is the last of a window.
    pub end: WindowEnd,
}

/// Where the narrow sums go after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowEnd {
    /// The window goes on: they stay narrow.
    Open,
    /// The first window ends: they become the wide sums.
    Begin,
    /// A later window ends: they join the wide sums.
    Add,
}

/// One row of the tile: its quad, in every lane, meets both halves of the panel block. The load port has the most to do,
/// so four rows share a load and are told apart by the shuffle unit, which has room for as many and no more.
macro_rules! multiply {
    ($quads:literal, 0, $low:literal, $high:literal) => {
        concat!("vbroadcasti32x4 zmm30, [", $quads, "]\n", multiply!("vpshufd zmm28, zmm30, 0x00\n", $low, $high))
    };
    ($quads:literal, 1, $low:literal, $high:literal) => {
        multiply!("vpshufd zmm28, zmm30, 0x55\n", $low, $high)
    };
    ($quads:literal, 2, $low:literal, $high:literal) => {
        multiply!("vpshufd zmm28, zmm30, 0xaa\n", $low, $high)
    };
    ($quads:literal, 3, $low:literal, $high:literal) => {
        multiply!("vpshufd zmm28, zmm30, 0xff\n", $low, $high)
    };
    ($quads:literal, $row:literal, $low:literal, $high:literal) => {
        multiply!(concat!("vpbroadcastd zmm28, dword ptr [", $quads, " + 4*", $row, "]\n"), $low, $high)
    };
    ($broadcast:expr, $low:literal, $high:literal) => {
        concat!($broadcast, "vpdpbusd zmm", $low, ", zmm26, zmm28\n", "vpdpbusd zmm", $high, ", zmm27, zmm28\n",)
    };
}

/// One table entry: the code's byte is turned to bit 6, which makes it the offset of a line.
macro_rules! look_up {
    ($rotation:literal, $table:literal) => {
        concat!(
            "rorx {offset}, {word}, ",
            $rotation,
            "\n",
            "and {offset}, 0x3fc0\n",
            "vpaddw zmm29, zmm29, [{tables} + {offset} + ",
            $table,
            "]\n",
        )
    };
}

macro_rules! begin_first {
    ($row:literal) => {
        "vpxord zmm29, zmm29, zmm29\n"
    };
}

macro_rules! begin_next {
    ($row:literal) => {
        concat!("vmovdqa64 zmm29, [{narrow} + 64*", $row, "]\n")
    };
}

macro_rules! end_kept {
    ($row:literal) => {
        concat!("vmovdqa64 [{narrow} + 64*", $row, "], zmm29\n")
    };
}

macro_rules! end_begun {
    ($row:literal) => {
        concat!(
            "vpmovsxwd zmm28, ymm29\n",
            "vextracti64x4 ymm29, zmm29, 1\n",
            "vmovdqa64 [{wide} + 128*",
            $row,
            "], zmm28\n",
            "vpmovsxwd zmm29, ymm29\n",
            "vmovdqa64 [{wide} + 128*",
            $row,
            " + 64], zmm29\n",
        )
    };
}

macro_rules! end_added {
    ($row:literal) => {
        concat!(
            "vpmovsxwd zmm28, ymm29\n",
            "vextracti64x4 ymm29, zmm29, 1\n",
            "vpaddd zmm28, zmm28, [{wide} + 128*",
            $row,
            "]\n",
            "vpmovsxwd zmm29, ymm29\n",
            "vmovdqa64 [{wide} + 128*",
            $row,
            "], zmm28\n",
            "vpaddd zmm29, zmm29, [{wide} + 128*",
            $row,
            " + 64]\n",
            "vmovdqa64 [{wide} + 128*",
            $row,
            " + 64], zmm29\n",
        )
    };
}

/// One class of a block, and two rows looked up.
macro_rules! class {
    ($quads:literal, $even:literal, $odd:literal, $begin:ident, $end:ident) => {
        concat!(
            "vpandd zmm26, zmm24, zmm31\n",
            "vpandd zmm27, zmm25, zmm31\n",
            "vpsrld zmm24, zmm24, 2\n",
            "vpsrld zmm25, zmm25, 2\n",
            "mov {word}, [{codes} + 6*",
            $even,
            "]\n",
            $begin!($even),
            multiply!($quads, 0, 0, 1),
            look_up!(58, 0),
            multiply!($quads, 1, 2, 3),
            look_up!(2, 5184),
            multiply!($quads, 2, 4, 5),
            look_up!(10, 10368),
            multiply!($quads, 3, 6, 7),
            look_up!(18, 15552),
            multiply!($quads, 4, 8, 9),
            look_up!(26, 20736),
            multiply!($quads, 5, 10, 11),
            look_up!(34, 25920),
            $end!($even),
            "mov {word}, [{codes} + 6*",
            $odd,
            "]\n",
            $begin!($odd),
            multiply!($quads, 6, 12, 13),
            look_up!(58, 0),
            multiply!($quads, 7, 14, 15),
            look_up!(2, 5184),
            multiply!($quads, 8, 16, 17),
            look_up!(10, 10368),
            multiply!($quads, 9, 18, 19),
            look_up!(18, 15552),
            multiply!($quads, 10, 20, 21),
            look_up!(26, 20736),
            multiply!($quads, 11, 22, 23),
            look_up!(34, 25920),
            $end!($odd),
        )
    };
}

/// Moves the 24 sums between memory and registers.
macro_rules! all_sums {
    ($macro:ident) => {
        concat!(
            $macro!(0),
            $macro!(1),
            $macro!(2),
            $macro!(3),
            $macro!(4),
            $macro!(5),
            $macro!(6),
            $macro!(7),
            $macro!(8),
            $macro!(9),
            $macro!(10),
            $macro!(11),
            $macro!(12),
            $macro!(13),
            $macro!(14),
            $macro!(15),
            $macro!(16),
            $macro!(17),
            $macro!(18),
            $macro!(19),
            $macro!(20),
            $macro!(21),
            $macro!(22),
            $macro!(23),
        )
    };
}

macro_rules! load_sum {
    ($sum:literal) => {
        concat!("vmovdqa64 zmm", $sum, ", [{sums} + 64*", $sum, "]\n")
    };
}

macro_rules! store_sum {
    ($sum:literal) => {
        concat!("vmovdqa64 [{sums} + 64*", $sum, "], zmm", $sum, "\n")
    };
}

/// The loop for one place of a pass in its window.
macro_rules! units {
    ($begin:ident, $end:ident, $cursor:ident, $sums:ident, $tables:ident, $count:ident) => {
        asm!(
            "mov {offset:e}, 0x03030303",
            "vpbroadcastd zmm31, {offset:e}",
            all_sums!(load_sum),
            "2:",
            "vmovdqa64 zmm24, [{panel}]",
            "vmovdqa64 zmm25, [{panel} + 64]",
            // The codes come from far away, page by page; everything else is in the second-level cache or follows it.
            "prefetcht0 [{codes} + 1024]",
            class!("{quads}", 0, 1, $begin, $end),
            class!("{quads} + {stride}", 2, 3, $begin, $end),
            class!("{quads} + 2*{stride}", 4, 5, $begin, $end),
            class!("{quads} + {stride3}", 6, 7, $begin, $end),
            "add {panel}, 128",
            "add {quads}, 48",
            "add {codes}, 48",
            "add {narrow}, 512",
            "add {wide}, 1024",
            "dec {count}",
            "jnz 2b",
            all_sums!(store_sum),
            // What follows may be compiled for narrow registers, which some chips slow down beside wide ones in use.
            "vzeroupper",
            panel = inout(reg) $cursor.panel,
            quads = inout(reg) $cursor.quads,
            codes = inout(reg) $cursor.codes,
            narrow = inout(reg) $cursor.narrow,
            wide = inout(reg) $cursor.wide,
            count = inout(reg) $count => _,
            stride = in(reg) $cursor.class_bytes,
            stride3 = in(reg) 3 * $cursor.class_bytes,
            tables = in(reg) $tables.as_ptr(),
            sums = in(reg) $sums.0.as_mut_ptr(),
            word = out(reg) _,
            offset = out(reg) _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
            out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            out("zmm30") _, out("zmm31") _,
            options(nostack),
        )
    };
}

/// Runs `count` units: adds `count` blocks to the sums of a tile, and six groups to `8 count` rows.
///
/// # Safety
/// The chip has avx512f, bw, vl, vnni and bmi2; `count` is not 0; the cursor has `count` panel blocks, as many cells of
/// 12 rows in each of four classes, the codes of `8 count` rows and two bytes more, and that many narrow and wide sums,
/// which nothing else refers to; every code is at most 80.
pub(super) unsafe fn run(
    place: Place,
    cursor: &mut Cursor,
    sums: &mut TileSums,
    tables: &[Line; 6 * TABLE_LINES],
    count: usize,
) {
    // SAFETY: the caller's promise; the offsets of a code, at most 80 lines, stay in its table.
    unsafe {
        match (place.first, place.end) {
            (true, WindowEnd::Open) => units!(begin_first, end_kept, cursor, sums, tables, count),
            (false, WindowEnd::Open) => units!(begin_next, end_kept, cursor, sums, tables, count),
            (true, WindowEnd::Begin) => units!(begin_first, end_begun, cursor, sums, tables, count),
            (false, WindowEnd::Begin) => units!(begin_next, end_begun, cursor, sums, tables, count),
            (true, WindowEnd::Add) => units!(begin_first, end_added, cursor, sums, tables, count),
            (false, WindowEnd::Add) => units!(begin_next, end_added, cursor, sums, tables, count),
        }
    }
}
