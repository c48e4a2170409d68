//! Sequence parameter sets: what a stream of H.264 is, before a picture of it is decoded.
//!
//! The decoder is C++ and sees none of these as they came. What is read here is checked and written anew: without
//! cropping, which is done on this side, without the usability information, and of a profile whose pictures the
//! decoder gives away at once, in the order of decoding, because the container knows better than it when each is shown.

use super::boxes::broken;
use super::colour::{Colour, Window};
use crate::input::InputError;

/// What is known of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// Columns of a decoded picture.
    pub coded_width: usize,
    /// Rows of a decoded picture.
    pub coded_height: usize,
    /// The part that is shown.
    pub window: Window,
    /// How its numbers are meant, if it says so.
    pub colour: Option<Colour>,
    /// Pictures that later ones may refer to.
    pub references: u64,
    /// Whether there is luma alone.
    pub grey: bool,
}

/// Scalable Baseline: the one profile of which the decoder delays no picture and reads every field of High.
const WRITTEN_PROFILE: u8 = 83;
/// The highest level that the decoder knows; what a level bounds, the settings bound.
const WRITTEN_LEVEL: u8 = 52;
const EDGE_MAX: u64 = 1 << 14;

/// Profiles whose sets tell the format of their samples.
const HIGH: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Reads a set, the NAL unit's header byte included, and writes the one that the decoder gets.
pub fn read(unit: &[u8]) -> Result<(Sps, Vec<u8>), InputError> {
    let payload = unescaped(unit.get(1..).unwrap_or_default());
    let mut bits = Bits { bytes: &payload, at: 0 };
    let [profile, constraints, _level] = [bits.fixed(8)?, bits.fixed(8)?, bits.fixed(8)?];
    let mut written = Written::default();
    written.fixed(WRITTEN_PROFILE.into(), 8);
    // The lowest two bits have no meaning.
    written.fixed(constraints & 0xFC, 8);
    written.fixed(WRITTEN_LEVEL.into(), 8);
    written.golomb(bits.golomb()?);
    let format_at = bits.at;
    let grey = match HIGH.contains(&(profile as u8)) {
        true => {
            let grey = format(&mut bits)? == 0;
            written.copy(&bits, format_at);
            grey
        }
        // 4:2:0 of 8 bits, nothing special.
        false => {
            written.fixed(0b010_1100, 7);
            false
        }
    };
    let counting_at = bits.at;
    counting(&mut bits)?;
    let references = bits.golomb()?;
    bits.fixed(1)?;
    let edge = |map_units: u64| 16 * map_units.saturating_add(1);
    let (width, height) = (edge(bits.golomb()?), edge(bits.golomb()?));
    if width.max(height) > EDGE_MAX {
        return Err(broken(format!("its pictures are coded as {width} x {height}, at most {EDGE_MAX} each way")));
    }
    if bits.fixed(1)? == 0 {
        return Err(broken("its pictures may be interlaced, which is not supported"));
    }
    bits.fixed(1)?;
    written.copy(&bits, counting_at);
    // No cropping, no usability information, and the bit that ends every set.
    written.fixed(0b001, 3);
    let window = window(&mut bits, width, height)?;
    // Many a stream is cut here; how its colours are meant is worth knowing, not worth refusing it.
    let colour = colour(&mut bits).unwrap_or(None);
    let (coded_width, coded_height) = (width as usize, height as usize);
    let sps = Sps { coded_width, coded_height, window, colour, references, grey };
    Ok((sps, written.unit(unit[0])))
}

/// Format of the samples, and scaling matrices. Returns the format of chroma: 0 where there is none.
fn format(bits: &mut Bits) -> Result<u64, InputError> {
    let chroma = bits.golomb()?;
    if chroma > 1 {
        let names = ["4:0:0", "4:2:0", "4:2:2", "4:4:4"];
        let name = names.get(chroma as usize).unwrap_or(&"unknown");
        return Err(broken(format!("its chroma is {name}, must be 4:2:0 or 4:0:0")));
    }
    for plane in ["luma", "chroma"] {
        match bits.golomb()? {
            0 => {}
            more => {
                return Err(broken(format!("its {plane} has {} bits a sample, must have 8", more.saturating_add(8))));
            }
        }
    }
    if bits.fixed(1)? == 1 {
        return Err(broken("it is coded without loss, which is not supported"));
    }
    if bits.fixed(1)? == 1 {
        for list in 0..8 {
            if bits.fixed(1)? == 1 {
                scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Ok(chroma)
}

fn scaling_list(bits: &mut Bits, length: usize) -> Result<(), InputError> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..length {
        if next != 0 {
            next = (last + bits.signed()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Ok(())
}

/// How pictures are numbered and ordered.
fn counting(bits: &mut Bits) -> Result<(), InputError> {
    bits.golomb()?;
    match bits.golomb()? {
        0 => {
            bits.golomb()?;
        }
        1 => {
            bits.fixed(1)?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.golomb()?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The part of a picture that is shown.
fn window(bits: &mut Bits, width: u64, height: u64) -> Result<Window, InputError> {
    let mut margins = [0; 4];
    if bits.fixed(1)? == 1 {
        for margin in &mut margins {
            *margin = bits.golomb()?.saturating_mul(2);
        }
    }
    let [left, right, top, bottom] = margins;
    let rest = |edge: u64, [before, after]: [u64; 2]| edge.checked_sub(before.saturating_add(after));
    match (rest(width, [left, right]), rest(height, [top, bottom])) {
        (Some(width @ 1..), Some(height @ 1..)) => {
            let [left, top, width, height] = [left, top, width, height].map(|edge| edge as usize);
            Ok(Window { left, top, width, height })
        }
        _ => Err(broken(format!("its pictures of {width} x {height} are cropped to nothing: {margins:?}"))),
    }
}

fn colour(bits: &mut Bits) -> Result<Option<Colour>, InputError> {
    const EXTENDED: u64 = 255;
    if bits.fixed(1)? == 0 {
        return Ok(None);
    }
    if bits.fixed(1)? == 1 && bits.fixed(8)? == EXTENDED {
        bits.fixed(32)?;
    }
    if bits.fixed(1)? == 1 {
        bits.fixed(1)?;
    }
    if bits.fixed(1)? == 0 {
        return Ok(None);
    }
    bits.fixed(3)?;
    let full_range = bits.fixed(1)? == 1;
    let matrix = match bits.fixed(1)? {
        1 => bits.fixed(24)? as u8,
        _ => Colour::UNSPECIFIED,
    };
    Ok(Some(Colour { full_range, matrix }))
}

/// A payload without the bytes that keep start codes out of it.
fn unescaped(payload: &[u8]) -> Vec<u8> {
    let (mut plain, mut zeros) = (Vec::with_capacity(payload.len()), 0);
    for &byte in payload {
        if byte == 3 && zeros == 2 {
            zeros = 0;
            continue;
        }
        plain.push(byte);
        zeros = if byte == 0 { (zeros + 1).min(2) } else { 0 };
    }
    plain
}

/// Bits, read from the front.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<u64, InputError> {
        let byte = self.bytes.get(self.at / 8).ok_or_else(|| broken("a sequence parameter set ends too soon"))?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit.into())
    }

    /// A number of so many bits.
    fn fixed(&mut self, bits: usize) -> Result<u64, InputError> {
        (0..bits).try_fold(0, |number, _| Ok(number << 1 | self.bit()?))
    }

    /// A number by Exp-Golomb.
    fn golomb(&mut self) -> Result<u64, InputError> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 32 {
                return Err(broken("a sequence parameter set has a number of more than 32 bits"));
            }
        }
        Ok((1 << zeros | self.fixed(zeros)?) - 1)
    }

    /// A signed number by Exp-Golomb.
    fn signed(&mut self) -> Result<i64, InputError> {
        let code = self.golomb()? as i64;
        Ok(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }
}

/// Bits being written.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    bits: usize,
}

impl Written {
    fn fixed(&mut self, number: u64, bits: usize) {
        for at in (0..bits).rev() {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("just pushed, or begun before");
            *last |= ((number >> at & 1) as u8) << (7 - self.bits % 8);
            self.bits += 1;
        }
    }

    fn golomb(&mut self, number: u64) {
        let length = (number + 1).ilog2() as usize;
        self.fixed(number + 1, 2 * length + 1);
    }

    /// What has been read from bit `from` on.
    fn copy(&mut self, read: &Bits, from: usize) {
        for at in from..read.at {
            self.fixed((read.bytes[at / 8] >> (7 - at % 8)).into(), 1);
        }
    }

    /// A NAL unit with that header, its start codes kept out.
    fn unit(self, header: u8) -> Vec<u8> {
        let mut unit = vec![header];
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros == 2 && byte <= 3 {
                unit.push(3);
                zeros = 0;
            }
            unit.push(byte);
            zeros = if byte == 0 { zeros + 1 } else { 0 };
        }
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Written {
        fn golombs(&mut self, numbers: &[u64]) {
            numbers.iter().for_each(|&number| self.golomb(number));
        }
    }

    /// A set of the Main profile: 3 x 2 macroblocks, cropped by 2 on the right and 4 below.
    fn main_profile(edit: impl FnOnce(&mut Written)) -> Vec<u8> {
        let mut set = Written::default();
        set.fixed(77, 8);
        set.fixed(0x40, 8);
        set.fixed(30, 8);
        // Set 0; frame numbers of 4 bits; order of type 2; 4 references, no gaps.
        set.golombs(&[0, 0, 2, 4]);
        set.fixed(0, 1);
        set.golombs(&[2, 1]);
        set.fixed(0b111, 3);
        set.golombs(&[0, 1, 0, 2]);
        edit(&mut set);
        set.fixed(1, 1);
        set.unit(0x67)
    }

    #[test]
    fn a_set_is_read_and_written_anew() {
        let unit = main_profile(|set| {
            // Aspect ratio 1:1, no overscan, full range BT.709.
            set.fixed(0b11, 2);
            set.fixed(1, 8);
            set.fixed(0b011_0111, 7);
            set.fixed(0x0009_1001, 24);
        });
        let (sps, written) = read(&unit).expect("a good set");
        let window = Window { left: 0, top: 0, width: 46, height: 28 };
        let colour = Some(Colour { full_range: true, matrix: 1 });
        assert_eq!(sps, Sps { coded_width: 48, coded_height: 32, window, colour, references: 4, grey: false });
        let whole = Window { width: 48, height: 32, ..window };
        assert_eq!(read(&written).expect("what was written"), (Sps { window: whole, colour: None, ..sps }, written));
    }

    #[test]
    fn what_the_decoder_cannot_do_is_told() {
        let told = |change: &dyn Fn(&mut Written)| {
            let mut set = Written::default();
            set.fixed(100, 8);
            set.fixed(0, 8);
            set.fixed(30, 8);
            set.golomb(0);
            change(&mut set);
            set.fixed(0x5555, 64);
            read(&set.unit(0x67)).expect_err("cannot be").to_string().replace("MP4 cannot be decoded: ", "")
        };
        assert_eq!(told(&|set| set.golomb(2)), "its chroma is 4:2:2, must be 4:2:0 or 4:0:0");
        let depth = told(&|set| set.golombs(&[1, 2]));
        assert_eq!(depth, "its luma has 10 bits a sample, must have 8");
        let lossless = told(&|set| {
            set.golombs(&[1, 0, 0]);
            set.fixed(1, 1);
        });
        assert_eq!(lossless, "it is coded without loss, which is not supported");
        assert_eq!(told(&|set| set.fixed(0, 40)), "a sequence parameter set has a number of more than 32 bits");
        let short = read(&[0x67, 77, 0]).expect_err("3 bytes").to_string();
        assert_eq!(short, "MP4 cannot be decoded: a sequence parameter set ends too soon");
        assert!(read(&[]).is_err());
    }

    #[test]
    fn cropping_leaves_a_picture_or_is_refused() {
        let cropped = |margins: [u64; 4]| {
            let mut set = Written::default();
            set.fixed(1, 1);
            set.golombs(&margins);
            window(&mut Bits { bytes: &set.bytes, at: 0 }, 32, 16)
        };
        let middle = Window { left: 2, top: 6, width: 4, height: 2 };
        assert_eq!(cropped([1, 13, 3, 4]).expect("something is left"), middle);
        assert!(cropped([8, 8, 0, 0]).is_err(), "nothing is left");
        assert!(cropped([u64::from(u32::MAX) - 1, 2, 0, 0]).is_err(), "as if it were negative");
    }

    #[test]
    fn escapes_come_off_and_go_on_again() {
        assert_eq!(unescaped(&[1, 0, 0, 3, 0, 0, 3, 1, 0, 3]), [1, 0, 0, 0, 0, 1, 0, 3]);
        let mut written = Written::default();
        written.fixed(0, 40);
        written.fixed(1, 8);
        assert_eq!(written.unit(0x67), [0x67, 0, 0, 3, 0, 0, 3, 0, 1]);
    }
}
