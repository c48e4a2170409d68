//! The one track of an MP4 file that is looked at: its codec's parameters, its samples, when each is shown.

use super::boxes::{Fields, Name, broken, spelt};
use super::colour::{Colour, Turn};
use super::samples::{Defaults, Sample, Samples};
use crate::input::InputError;

/// A track of H.264.
#[derive(Debug)]
pub struct Track<'a> {
    /// What decoders need, each for the samples that name it.
    pub descriptions: Vec<Description<'a>>,
    /// In the order of decoding.
    pub samples: Vec<Sample>,
    /// How pictures are turned before they are shown.
    pub turn: Turn,
    /// Ticks a second of its samples' times.
    timescale: u64,
    /// Ticks a second of its edits' lengths.
    movie_timescale: u64,
    edits: Vec<Edit>,
}

/// How frames of one kind are coded.
#[derive(Debug, Clone)]
pub struct Description<'a> {
    /// Bytes of the length before each NAL unit.
    pub length_bytes: usize,
    /// The parameter sets, sequence sets first.
    pub sets: Vec<&'a [u8]>,
    /// What the container says of the colours.
    pub colour: Option<Colour>,
}

/// A piece of the track as it is shown.
#[derive(Debug, Clone, Copy)]
struct Edit {
    /// Ticks of the movie.
    length: u64,
    /// Where it begins, in ticks of the track; none: it shows nothing.
    start: Option<i64>,
}

/// A frame as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Milliseconds since the clip's start.
    pub pts_ms: u64,
    /// Its sample.
    pub sample: u32,
}

impl<'a> Track<'a> {
    /// Of a whole file; with more than `samples_max` samples it is refused.
    pub fn read(bytes: &'a [u8], samples_max: u64) -> Result<Self, InputError> {
        let file = Fields::of(*b"file", bytes);
        let (mut movie, mut fragments) = (None, Vec::new());
        let mut boxes = file.boxes();
        loop {
            let start = (bytes.len() - boxes.left()) as u64;
            match boxes.next() {
                None => break,
                Some(Ok(found)) if &found.name == b"moov" => movie = movie.or(Some(found)),
                Some(Ok(found)) if &found.name == b"moof" => fragments.push((found, start)),
                Some(Ok(_)) => {}
                // What stands after the movie may be cut; samples that lie there are missed soon enough.
                Some(Err(_)) if movie.is_some() => break,
                Some(Err(error)) => return Err(error),
            }
        }
        let movie =
            movie.ok_or_else(|| broken("it has no box moov; is the file truncated, or still being written?"))?;
        let mut header = movie.needed(*b"mvhd")?;
        let (version, _) = header.version()?;
        header.take(if version == 1 { 16 } else { 8 })?;
        let movie_timescale = u64::from(header.u32()?).max(1);
        let trak = video_of(movie)?;
        let media = trak.needed(*b"mdia")?;
        let mut header = media.needed(*b"mdhd")?;
        let (version, _) = header.version()?;
        header.take(if version == 1 { 16 } else { 8 })?;
        let timescale = u64::from(header.u32()?).max(1);
        let (number, turn) = head(trak)?;
        let stbl = media.needed(*b"minf")?.needed(*b"stbl")?;
        let mut samples = Samples::new(samples_max);
        samples.add_table(stbl)?;
        let defaults = defaults(movie, number)?;
        for (fragment, start) in fragments {
            for child in fragment.boxes() {
                let traf = child?;
                if &traf.name == b"traf" && track_of(traf)? == number {
                    samples.add_fragment(traf, start, defaults)?;
                }
            }
        }
        let descriptions = descriptions(stbl)?;
        Ok(Self { descriptions, samples: samples.list, turn, timescale, movie_timescale, edits: edits(trak)? })
    }

    /// The frames from sample `first` on as they are shown, in that order. Without edits the first is shown at 0.
    pub fn shown(&self, first: u32) -> Result<Vec<Shown>, InputError> {
        let mut order: Vec<u32> = (first..self.samples.len() as u32).collect();
        let time = |sample: u32| self.samples[sample as usize].time;
        order.sort_by_key(|&sample| time(sample));
        let whole = [Edit { length: 0, start: order.first().map(|&sample| time(sample)) }];
        let edits = match self.edits.iter().any(|edit| edit.start.is_some()) {
            true => &self.edits[..],
            false => &whole,
        };
        let ms = |ticks: u128, timescale: u64| {
            let timescale = u128::from(timescale);
            u64::try_from((ticks * 1000 + timescale / 2) / timescale).unwrap_or(u64::MAX)
        };
        let (mut shown, mut before) = (Vec::with_capacity(order.len()), 0u128);
        for edit in edits {
            let begin_ms = ms(before, self.movie_timescale);
            before += u128::from(edit.length);
            let Some(start) = edit.start else { continue };
            // From there to where its length ends, or the track.
            for &sample in &order[order.partition_point(|&sample| time(sample) < start)..] {
                let since = u128::from(time(sample).abs_diff(start));
                let length = u128::from(edit.length) * u128::from(self.timescale);
                if edit.length > 0 && since * u128::from(self.movie_timescale) >= length {
                    break;
                }
                if shown.len() == order.len() {
                    return Err(broken("its edit list shows frames more often than it has them"));
                }
                let pts_ms = begin_ms.saturating_add(ms(since, self.timescale));
                shown.push(Shown { pts_ms, sample });
            }
        }
        // Times of neighbouring edits may overlap by a rounding.
        shown.sort_by_key(|shown| shown.pts_ms);
        Ok(shown)
    }
}

/// The first track of H.264; if there is none, an error that names what there is instead.
fn video_of(movie: Fields<'_>) -> Result<Fields<'_>, InputError> {
    let mut others: Vec<String> = Vec::new();
    for child in movie.boxes() {
        let trak = child?;
        if &trak.name != b"trak" {
            continue;
        }
        let media = trak.needed(*b"mdia")?;
        let mut handler = media.needed(*b"hdlr")?;
        handler.take(8)?;
        if handler.take(4)? != b"vide" {
            continue;
        }
        let codec = codec_of(media.needed(*b"minf")?.needed(*b"stbl")?.needed(*b"stsd")?)?;
        match &codec {
            b"avc1" | b"avc3" => return Ok(trak),
            _ if others.len() < 3 => others.push(called(codec)),
            _ => {}
        }
    }
    Err(match others.is_empty() {
        true => broken("it has no video track"),
        false => foreign(&others.join(", ")),
    })
}

/// The codec of a track, by its first description; of an encrypted one the name that says so.
fn codec_of(mut stsd: Fields) -> Result<Name, InputError> {
    stsd.take(8)?;
    stsd.boxes().next().ok_or_else(|| broken("box stsd is empty"))?.map(|entry| entry.name)
}

fn foreign(codec: &str) -> InputError {
    broken(format!("its video is {codec}, must be avc1 (H.264)"))
}

/// A codec as it is spelt, and what people call it.
fn called(codec: Name) -> String {
    let name = match &codec {
        b"hev1" | b"hvc1" | b"dvh1" | b"dvhe" => "HEVC",
        b"av01" => "AV1",
        b"vp08" => "VP8",
        b"vp09" => "VP9",
        b"mp4v" => "MPEG-4 Visual",
        b"mjpa" | b"mjpb" | b"jpeg" => "Motion JPEG",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "ProRes",
        b"encv" => "encrypted",
        b"vvc1" | b"vvi1" => "VVC",
        _ => return spelt(codec),
    };
    format!("{} ({name})", spelt(codec))
}

/// Its number, and how its pictures are turned.
fn head(trak: Fields) -> Result<(u32, Turn), InputError> {
    let mut header = trak.needed(*b"tkhd")?;
    let (version, _) = header.version()?;
    header.take(if version == 1 { 16 } else { 8 })?;
    let number = header.u32()?;
    header.take(if version == 1 { 12 } else { 8 })?;
    header.take(16)?;
    let mut matrix = [0; 5];
    for place in &mut matrix {
        *place = header.u32()? as i32;
    }
    let [a, b, _, c, d] = matrix;
    Ok((number, Turn::of([a, b, c, d])))
}

fn track_of(traf: Fields) -> Result<u32, InputError> {
    let mut header = traf.needed(*b"tfhd")?;
    header.version()?;
    header.u32()
}

fn defaults(movie: Fields, number: u32) -> Result<Defaults, InputError> {
    for child in movie.child(*b"mvex")?.into_iter().flat_map(Fields::boxes) {
        let trex = child?;
        if &trex.name == b"trex" {
            let defaults = Defaults::read(trex)?;
            if defaults.track == number {
                return Ok(defaults);
            }
        }
    }
    Ok(Defaults::default())
}

fn edits(trak: Fields) -> Result<Vec<Edit>, InputError> {
    let Some(edts) = trak.child(*b"edts")? else { return Ok(vec![]) };
    let Some(mut list) = edts.child(*b"elst")? else { return Ok(vec![]) };
    let (version, _) = list.version()?;
    let count = list.u32()?;
    let mut edits = Vec::new();
    for _ in 0..count {
        let length = list.long(version == 1)?;
        let start = match version {
            1 => list.u64()? as i64,
            _ => i64::from(list.u32()? as i32),
        };
        list.u32()?;
        edits.push(Edit { length, start: (start >= 0).then_some(start) });
    }
    Ok(edits)
}

fn descriptions(stbl: Fields<'_>) -> Result<Vec<Description<'_>>, InputError> {
    let mut stsd = stbl.needed(*b"stsd")?;
    stsd.take(8)?;
    let mut descriptions = Vec::new();
    for entry in stsd.boxes() {
        let mut entry = entry?;
        if !matches!(&entry.name, b"avc1" | b"avc3") {
            return Err(foreign(&called(entry.name)));
        }
        // Fields of every visual entry, sizes among them that the codec knows better.
        entry.take(78)?;
        let mut colour = None;
        for child in entry.boxes() {
            let child = child?;
            if &child.name == b"colr" {
                colour = colour.or(container_colour(child)?);
            }
        }
        let mut description = configuration(entry.needed(*b"avcC")?)?;
        description.colour = colour;
        descriptions.push(description);
    }
    Ok(descriptions)
}

fn configuration(mut avcc: Fields<'_>) -> Result<Description<'_>, InputError> {
    avcc.take(4)?;
    let length_bytes = usize::from(avcc.u8()? & 3) + 1;
    let mut sets = Vec::new();
    for mask in [0x1F, 0xFF] {
        for _ in 0..avcc.u8()? & mask {
            let bytes = avcc.u16()?;
            sets.push(avcc.take(bytes.into())?);
        }
    }
    Ok(Description { length_bytes, sets, colour: None })
}

fn container_colour(mut colr: Fields) -> Result<Option<Colour>, InputError> {
    let kind = colr.take(4)?;
    if kind != b"nclx" && kind != b"nclc" {
        return Ok(None);
    }
    colr.take(4)?;
    let matrix = colr.u16()?;
    let full_range = kind == b"nclx" && colr.u8()? & 0x80 != 0;
    Ok(Some(Colour { full_range, matrix: u8::try_from(matrix).unwrap_or(Colour::UNSPECIFIED) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(times: &[i64], edits: &[(u64, i64)]) -> Track<'static> {
        let sample = |&time| Sample { start: 0, bytes: 1, description: 0, time, sync: true };
        Track {
            descriptions: vec![],
            samples: times.iter().map(sample).collect(),
            turn: Turn::default(),
            timescale: 1000,
            movie_timescale: 100,
            edits: edits.iter().map(|&(length, start)| Edit { length, start: (start >= 0).then_some(start) }).collect(),
        }
    }

    fn shown(times: &[i64], edits: &[(u64, i64)]) -> Vec<(u64, u32)> {
        let shown = track(times, edits).shown(0).expect("frames");
        shown.into_iter().map(|shown| (shown.pts_ms, shown.sample)).collect()
    }

    #[test]
    fn frames_are_shown_by_their_times_and_edits() {
        let coded = [80, 240, 160, 120, 200];
        assert_eq!(shown(&coded, &[]), [(0, 0), (40, 3), (80, 2), (120, 4), (160, 1)], "from the first on");
        assert_eq!(shown(&coded, &[(0, 80)]), shown(&coded, &[]));
        assert_eq!(shown(&coded, &[(12, 120)]), [(0, 3), (40, 2), (80, 4)], "120 ms of it");
        assert_eq!(shown(&coded, &[(50, -1), (0, 200)]), [(500, 4), (540, 1)], "after half a second of nothing");
        assert_eq!(shown(&coded, &[(4, 240), (4, 80)]), [(0, 1), (40, 0)], "the end first");
        assert_eq!(shown(&[-40, 0, 40], &[]), [(0, 0), (40, 1), (80, 2)]);
        assert_eq!(shown(&[-40, 0, 40], &[(0, 0)]), [(0, 1), (40, 2)]);
        assert_eq!(shown(&[], &[]), []);
        let often = track(&coded, &[(0, 0), (0, 0)]).shown(0).expect_err("10 of 5").to_string();
        assert_eq!(often, "MP4 cannot be decoded: its edit list shows frames more often than it has them");
        assert_eq!(track(&coded, &[(0, 0)]).shown(3).expect("frames")[0], Shown { pts_ms: 120, sample: 3 });
    }
}
