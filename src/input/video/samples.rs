//! The tables of a track: where each frame's bytes lie, when it is shown, where decoding may begin.
//!
//! A plain file has one table for all frames, run-length coded; a fragmented one adds a small table with every
//! fragment. Both become one list, in the order of decoding.

use super::boxes::{Fields, broken, spelt};
use crate::input::InputError;

/// The bytes of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// First byte in the file.
    pub start: u64,
    /// How many there are.
    pub bytes: u32,
    /// Which of the track's descriptions it goes by, from 0.
    pub description: u32,
    /// When it is shown, in the track's ticks, before any edit.
    pub time: i64,
    /// Whether the file says that decoding may begin here.
    pub sync: bool,
}

/// A list of samples that grows up to a bound.
#[derive(Debug)]
pub struct Samples {
    /// In the order of decoding.
    pub list: Vec<Sample>,
    max: u64,
    /// When the next one is decoded, in ticks.
    decoded: i64,
}

/// What holds for samples of fragments that say nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults {
    /// The track that it holds for.
    pub track: u32,
    description: u32,
    ticks: u32,
    bytes: u32,
    flags: u32,
}

/// Of a fragment's flags: decoding cannot begin here.
const NOT_SYNC: u32 = 0x1_0000;

impl Defaults {
    /// Of a `trex` box.
    pub fn read(mut trex: Fields) -> Result<Self, InputError> {
        trex.version()?;
        let track = trex.u32()?;
        let description = trex.u32()?.saturating_sub(1);
        Ok(Self { track, description, ticks: trex.u32()?, bytes: trex.u32()?, flags: trex.u32()? })
    }
}

/// A run-length coded column: each value with how many samples have it. After the last run its value goes on.
struct Runs<'a> {
    runs: std::slice::Iter<'a, [u8; 8]>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(table: Option<Fields<'a>>) -> Result<Self, InputError> {
        let runs = match table {
            Some(mut table) => {
                table.version()?;
                table.records()?
            }
            None => &[],
        };
        Ok(Self { runs: runs.iter(), left: 0, value: 0 })
    }

    fn next(&mut self) -> u32 {
        while self.left == 0 {
            let Some(&[a, b, c, d, value @ ..]) = self.runs.next() else { return self.value };
            (self.left, self.value) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(value));
        }
        self.left -= 1;
        self.value
    }
}

impl Samples {
    /// None yet, and never more than `max`.
    pub fn new(max: u64) -> Self {
        Self { list: Vec::new(), max, decoded: 0 }
    }

    fn admit(&self, more: u64) -> Result<(), InputError> {
        let frames = self.list.len() as u64 + more;
        match frames > self.max {
            true => {
                Err(InputError::TooLarge { field: "frames of the video", value: frames.to_string(), max: self.max })
            }
            false => Ok(()),
        }
    }

    /// Adds those of an `stbl` box.
    pub fn add_table(&mut self, stbl: Fields) -> Result<(), InputError> {
        let mut sizes = stbl.needed(*b"stsz")?;
        sizes.version()?;
        let same = sizes.u32()?;
        let (count, sizes) = match same {
            0 => {
                let sizes = sizes.records::<4>()?;
                (sizes.len() as u64, sizes)
            }
            _ => (u64::from(sizes.u32()?), &[][..]),
        };
        self.admit(count)?;
        let (mut deltas, mut offsets) = (Runs::new(Some(stbl.needed(*b"stts")?))?, Runs::new(stbl.child(*b"ctts")?)?);
        let mut chunks = Chunks::new(stbl)?;
        for at in 0..count {
            let bytes = sizes.get(at as usize).map_or(same, |&size| u32::from_be_bytes(size));
            let (start, description) = chunks.next(bytes)?;
            // Offsets of version 0 are unsigned and small; those of version 1 are signed.
            let time = self.decoded + i64::from(offsets.next() as i32);
            self.list.push(Sample { start, bytes, description, time, sync: false });
            self.decoded += i64::from(deltas.next());
        }
        match stbl.child(*b"stss")? {
            None => self.list.iter_mut().for_each(|sample| sample.sync = true),
            Some(mut syncs) => {
                syncs.version()?;
                for &number in syncs.records()? {
                    // Counted from 1.
                    let at = (u32::from_be_bytes(number) as usize).checked_sub(1);
                    at.and_then(|at| self.list.get_mut(at)).into_iter().for_each(|sample| sample.sync = true);
                }
            }
        }
        Ok(())
    }

    /// Adds those of a `traf` box in the fragment that begins at byte `moof`.
    pub fn add_fragment(&mut self, traf: Fields, moof: u64, defaults: Defaults) -> Result<(), InputError> {
        let mut tfhd = traf.needed(*b"tfhd")?;
        let (_, flags) = tfhd.version()?;
        let Defaults { mut description, mut ticks, mut bytes, flags: mut usual, .. } = defaults;
        tfhd.u32()?;
        let mut at = if flags & 1 != 0 { tfhd.u64()? } else { moof };
        let base = at;
        for (flag, value) in [(2, &mut description), (8, &mut ticks), (16, &mut bytes), (32, &mut usual)] {
            if flags & flag != 0 {
                *value = tfhd.u32()?;
            }
        }
        if flags & 2 != 0 {
            description = description.saturating_sub(1);
        }
        if let Some(mut tfdt) = traf.child(*b"tfdt")? {
            let (version, _) = tfdt.version()?;
            self.decoded = i64::try_from(tfdt.long(version == 1)?).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        }
        for child in traf.boxes() {
            let mut trun = child?;
            if &trun.name != b"trun" {
                continue;
            }
            let (_, flags) = trun.version()?;
            let count = trun.u32()?;
            self.admit(u64::from(count))?;
            if flags & 1 != 0 {
                at = base.saturating_add_signed(i64::from(trun.u32()? as i32));
            }
            let mut first = if flags & 4 != 0 { Some(trun.u32()?) } else { None };
            for _ in 0..count {
                let mut row = [ticks, bytes, first.take().unwrap_or(usual), 0];
                for (bit, value) in row.iter_mut().enumerate() {
                    if flags & (0x100 << bit) != 0 {
                        *value = trun.u32()?;
                    }
                }
                let [ticks, bytes, flags, offset] = row;
                let time = self.decoded.saturating_add(i64::from(offset as i32));
                self.list.push(Sample { start: at, bytes, description, time, sync: flags & NOT_SYNC == 0 });
                self.decoded = self.decoded.saturating_add(i64::from(ticks));
                at = at.saturating_add(u64::from(bytes));
            }
        }
        Ok(())
    }
}

/// Where samples lie: in chunks, of which runs have one size.
struct Chunks<'a> {
    starts: Starts<'a>,
    runs: &'a [[u8; 12]],
    /// Number of the chunk that is being filled, from 1.
    chunk: u32,
    /// Samples that still go into it.
    left: u32,
    description: u32,
    at: u64,
}

enum Starts<'a> {
    Short(&'a [[u8; 4]]),
    Long(&'a [[u8; 8]]),
}

impl<'a> Chunks<'a> {
    fn new(stbl: Fields<'a>) -> Result<Self, InputError> {
        let starts = match (stbl.child(*b"stco")?, stbl.child(*b"co64")?) {
            (Some(mut table), _) => {
                table.version()?;
                Starts::Short(table.records()?)
            }
            (None, Some(mut table)) => {
                table.version()?;
                Starts::Long(table.records()?)
            }
            (None, None) => return Err(broken("box stbl has no box stco or co64")),
        };
        let mut runs = stbl.needed(*b"stsc")?;
        runs.version()?;
        Ok(Self { starts, runs: runs.records()?, chunk: 0, left: 0, description: 0, at: 0 })
    }

    /// First byte and description of the next sample.
    fn next(&mut self, bytes: u32) -> Result<(u64, u32), InputError> {
        while self.left == 0 {
            let index = self.chunk as usize;
            let start = match self.starts {
                Starts::Short(starts) => starts.get(index).map(|&start| u64::from(u32::from_be_bytes(start))),
                Starts::Long(starts) => starts.get(index).map(|&start| u64::from_be_bytes(start)),
            };
            self.at =
                start.ok_or_else(|| broken(format!("box {} has more samples than chunks hold", spelt(*b"stsz"))))?;
            self.chunk += 1;
            while let [run, rest @ ..] = self.runs
                && word(run, 0) <= self.chunk
            {
                (self.left, self.description) = (word(run, 1), word(run, 2).saturating_sub(1));
                // A run goes on until the next one begins.
                match rest {
                    [next, ..] if word(next, 0) <= self.chunk => self.runs = rest,
                    _ => break,
                }
            }
        }
        self.left -= 1;
        let start = self.at;
        self.at = start.saturating_add(u64::from(bytes));
        Ok((start, self.description))
    }
}

fn word(record: &[u8; 12], at: usize) -> u32 {
    u32::from_be_bytes(record.as_chunks().0[at])
}
