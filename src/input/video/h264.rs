//! One stream of H.264 through openh264, which is C++: what it is fed has been looked at here first.
//!
//! Of a sample's NAL units only slices and parameter sets go on, the sequence sets as `sps` writes them, and none that
//! hides another behind a start code. A frame comes out whole or is an error: what is concealed is not shown.

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use super::boxes::broken;
use super::colour::Planes;
use super::sps::{self, Sps};
use super::track::Description;
use crate::input::InputError;

const SLICE: u8 = 1;
const SLICE_OF_SYNC: u8 = 5;
const SEQUENCE_SET: u8 = 7;
const PICTURE_SET: u8 = 8;

fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |header| header & 0x1F)
}

/// The NAL units of a sample; one that is longer than what is left is an error.
fn units(sample: &[u8], length_bytes: usize) -> impl Iterator<Item = Result<&[u8], InputError>> {
    let mut rest = sample;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = rest.split_at_checked(length_bytes).and_then(|(length, after)| {
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            after.split_at_checked(length)
        });
        rest = read.map_or(&[], |(_, after)| after);
        Some(read.map(|(unit, _)| unit).ok_or_else(|| broken("a NAL unit is longer than its sample")))
    })
}

/// What a sample is, told by its NAL units' headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Decoding can begin with it: an IDR picture.
    pub begins: bool,
    /// Others may need it.
    pub referred: bool,
}

/// Reads a sample's headers alone; a torn sample is one that others need.
pub fn role(sample: &[u8], length_bytes: usize) -> Role {
    let mut role = Role { begins: false, referred: false };
    for unit in units(sample, length_bytes) {
        match unit {
            Ok(unit) => {
                role.begins |= kind(unit) == SLICE_OF_SYNC;
                // A set that comes with a picture is needed even where the picture is not.
                let needed = unit.first().is_some_and(|header| header & 0x60 != 0);
                role.referred |= needed && (SLICE..=PICTURE_SET).contains(&kind(unit)) && kind(unit) != 6;
            }
            Err(_) => role.referred = true,
        }
    }
    role
}

/// The stream's own word on what it is: of its first sequence set. All others must agree.
pub fn announced(descriptions: &[Description], first: &[u8]) -> Result<Sps, InputError> {
    let description = descriptions.first().ok_or_else(|| broken("box stsd is empty"))?;
    let inside = units(first, description.length_bytes).filter_map(Result::ok);
    let mut sets = description.sets.iter().copied().chain(inside).filter(|set| kind(set) == SEQUENCE_SET);
    let (sps, _) = sps::read(sets.next().ok_or_else(|| broken("it has no sequence parameter set"))?)?;
    Ok(sps)
}

/// A decoder in the middle of a stream.
pub struct Stream {
    decoder: Decoder,
    sps: Sps,
    /// What is fed to it, kept for its room.
    fed: Vec<u8>,
}

impl Stream {
    /// Before the first picture of a stream that is what `sps` says.
    pub fn new(sps: Sps) -> Result<Self, InputError> {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = Decoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|_| broken("its decoder does not start"))?;
        Ok(Self { decoder, sps, fed: Vec::new() })
    }

    /// Decodes one sample; with `begins` the description's parameter sets go before it. `show` gets its picture: the
    /// decoder holds none back.
    pub fn picture<Answer>(
        &mut self,
        sample: &[u8],
        description: &Description,
        begins: bool,
        show: impl FnOnce(&Planes) -> Answer,
    ) -> Result<Answer, InputError> {
        self.fed.clear();
        if begins {
            for set in &description.sets {
                self.feed(set)?;
            }
        }
        for unit in units(sample, description.length_bytes) {
            self.feed(unit?)?;
        }
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        let decoded = self.decoder.decode_with_options(&self.fed, options).map_err(|_| damaged())?;
        let picture = decoded.ok_or_else(damaged)?;
        let (width, height) = picture.dimensions();
        let Sps { coded_width, coded_height, .. } = self.sps;
        if (width, height) != (coded_width, coded_height) {
            return Err(broken(format!(
                "a picture is {width} x {height} after ones of {coded_width} x {coded_height}"
            )));
        }
        let (luma, chroma, _) = picture.strides();
        Ok(show(&Planes { planes: [picture.y(), picture.u(), picture.v()], strides: [luma, chroma] }))
    }

    /// Adds a NAL unit to what the decoder gets, if it is one that it should get.
    fn feed(&mut self, unit: &[u8]) -> Result<(), InputError> {
        const START: [u8; 4] = [0, 0, 0, 1];
        let unit = &unit[..unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)];
        if unit.windows(3).any(|bytes| bytes == [0, 0, 1]) {
            return Err(broken("a NAL unit has a start code within"));
        }
        match kind(unit) {
            SEQUENCE_SET => {
                let (sps, written) = sps::read(unit)?;
                if (sps.coded_width, sps.coded_height, sps.window)
                    != (self.sps.coded_width, self.sps.coded_height, self.sps.window)
                {
                    return Err(broken("the size of its pictures changes on the way"));
                }
                self.fed.extend(START);
                self.fed.extend(written);
            }
            SLICE | SLICE_OF_SYNC | PICTURE_SET => {
                self.fed.extend(START);
                self.fed.extend(unit);
            }
            _ => {}
        }
        Ok(())
    }
}

fn damaged() -> InputError {
    broken("a frame is damaged, or coded in a way that the decoder does not know")
}
