//! How many elements a message will unfold to, counted in its bytes before anything is allocated.
//!
//! An empty element is two bytes on the wire and a hundred or more in memory: a message within its limit of bytes may
//! still not fit. So the wire format is walked once, with the descriptors' word on what is a message, and nothing is
//! decoded whose elements are too many. The walk neither allocates nor recurses.

use super::described::{Kind, Shapes, shapes};

/// How deep messages may lie within each other; prost's own bound.
const DEPTH_MAX: usize = 100;

/// Why a message is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElementsError {
    /// More elements than are allowed.
    #[error("its repeated fields hold more than {max} elements in all, counted up to {field}")]
    TooMany {
        /// The field at which the bound was passed.
        field: &'static str,
        /// The bound.
        max: usize,
    },
    /// Not the wire format.
    #[error("is no message: {0}")]
    Malformed(&'static str),
    /// Messages within messages, too many.
    #[error("is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// Not a message of this package.
    #[error("is of an unknown type")]
    UnknownType,
}

use ElementsError::{Malformed, TooDeep, TooMany, UnknownType};

/// The elements of all repeated fields of a message called `name`, at any depth, if they are at most `max`.
///
/// What was sent twice of a field that is not repeated counts twice, for it is decoded twice.
pub fn count_elements(name: &str, bytes: &[u8], max: usize) -> Result<usize, ElementsError> {
    let shapes = shapes();
    let place = shapes.place(name).ok_or(UnknownType)?;
    let mut walk = Walk { shapes, bytes, at: 0, within: Level { end: bytes.len(), place }, count: 0, max };
    let mut outer = [walk.within; DEPTH_MAX];
    let mut depth = 0;
    loop {
        while walk.at == walk.within.end {
            if depth == 0 {
                return Ok(walk.count);
            }
            depth -= 1;
            walk.within = outer[depth];
        }
        if let Some(inner) = walk.field()? {
            *outer.get_mut(depth).ok_or(TooDeep)? = walk.within;
            depth += 1;
            walk.within = inner;
        }
    }
}

/// A message that is being walked: where it ends, and which one it is.
#[derive(Debug, Clone, Copy)]
struct Level {
    end: usize,
    place: usize,
}

struct Walk<'a> {
    shapes: &'static Shapes,
    bytes: &'a [u8],
    at: usize,
    within: Level,
    count: usize,
    max: usize,
}

impl Walk<'_> {
    /// Passes one field; the message that it opens, if it does.
    fn field(&mut self) -> Result<Option<Level>, ElementsError> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed("a field's number is too large"))?;
        let (number, wire) = (key >> 3, key & 7);
        if number == 0 {
            return Err(Malformed("a field has the number 0"));
        }
        let field = self.shapes.field(self.within.place, number);
        let begin = match wire {
            0 => self.varint().map(|_| self.at)?,
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed("a field is too long"))?;
                self.skip(length)?
            }
            5 => self.skip(4)?,
            _ => return Err(Malformed("a field has no wire type that is in use")),
        };
        let Some(field) = field else { return Ok(None) };
        if field.repeated {
            let elements = match field.kind {
                Kind::Varint if wire == 2 => self.bytes[begin..self.at].iter().filter(|byte| **byte < 0x80).count(),
                Kind::Fixed(size) if wire == 2 => (self.at - begin) / size,
                _ => 1,
            };
            self.count += elements;
            if self.count > self.max {
                return Err(TooMany { field: &field.name, max: self.max });
            }
        }
        let Kind::Message(place) = field.kind else { return Ok(None) };
        if wire != 2 {
            return Err(Malformed("a message is not delimited by its length"));
        }
        // Its own fields come next.
        let end = std::mem::replace(&mut self.at, begin);
        Ok(Some(Level { end, place }))
    }

    /// Passes `length` bytes; where they begin.
    fn skip(&mut self, length: usize) -> Result<usize, ElementsError> {
        let begin = self.at;
        let end = begin.checked_add(length).filter(|&end| end <= self.within.end);
        self.at = end.ok_or(Malformed("a field goes beyond its message"))?;
        Ok(begin)
    }

    fn varint(&mut self) -> Result<u64, ElementsError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let at = self.skip(1)?;
            let byte = u64::from(self.bytes[at]);
            if shift == 63 && byte > 1 {
                break;
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is longer than ten bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::proto::media::Source;
    use crate::service::proto::{
        EncodeTextRequest, Frame, FrameSequence, Media, PredictItem, PredictRequest, Sampling,
    };
    use proptest::prelude::*;
    use prost::Message;

    const PREDICT: &str = "vljepa.v1.PredictRequest";

    fn item() -> impl Strategy<Value = PredictItem> {
        let frame = (prop::collection::vec(any::<u8>(), 0..9), any::<u32>(), any::<u64>());
        let frame = frame.prop_map(|(data, width, pts_ms)| Frame { data, width, pts_ms, ..Default::default() });
        let source = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..99).prop_map(Source::Inline),
            prop::collection::vec(frame, 0..7).prop_map(|frames| Source::Frames(FrameSequence { frames })),
        ];
        let media = prop::option::of(source.prop_map(|source| Media { source: Some(source) }));
        let sampling = any::<f32>().prop_map(|fps| Sampling { fps: Some(fps), ..Default::default() });
        (media, prop::option::of(sampling), ".{0,9}").prop_map(|(media, sampling, question)| PredictItem {
            media,
            sampling,
            question,
        })
    }

    fn elements(request: &PredictRequest) -> usize {
        let frames = |item: &PredictItem| match &item.media {
            Some(Media { source: Some(Source::Frames(sequence)) }) => sequence.frames.len(),
            _ => 0,
        };
        request.items.len() + request.items.iter().map(frames).sum::<usize>()
    }

    proptest! {
        #[test]
        fn as_many_are_counted_as_are_decoded(items in prop::collection::vec(item(), 0..9)) {
            let request = PredictRequest { items, ..Default::default() };
            let (bytes, exact) = (request.encode_to_vec(), elements(&request));
            prop_assert_eq!(count_elements(PREDICT, &bytes, exact), Ok(exact));
            if exact > 0 {
                let refused = count_elements(PREDICT, &bytes, exact - 1);
                prop_assert!(matches!(refused, Err(TooMany { .. })), "{:?}", refused);
            }
        }

        #[test]
        fn whatever_is_decoded_was_counted(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let counted = count_elements(PREDICT, &bytes, usize::MAX);
            if let (Ok(request), Ok(counted)) = (PredictRequest::decode(&*bytes), counted) {
                prop_assert!(elements(&request) <= counted);
            }
        }

        #[test]
        fn a_damaged_message_is_refused_or_counted_in_full(
            items in prop::collection::vec(item(), 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = PredictRequest { items, ..Default::default() }.encode_to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len().max(1));
                if let Some(damaged) = bytes.get_mut(at) {
                    *damaged = byte;
                }
            }
            let counted = count_elements(PREDICT, &bytes, usize::MAX);
            if let (Ok(request), Ok(counted)) = (PredictRequest::decode(&*bytes), counted) {
                prop_assert!(elements(&request) <= counted);
            }
        }
    }

    #[test]
    fn the_bound_names_its_field() {
        let request = EncodeTextRequest { texts: vec![String::new(); 8], ..Default::default() };
        let refused = count_elements("vljepa.v1.EncodeTextRequest", &request.encode_to_vec(), 7);
        assert_eq!(refused, Err(TooMany { field: "texts", max: 7 }));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, problem) in [
            (&[0x12, 0x05, 0x00][..], "a field goes beyond its message"),
            (&[0x02, 0x00], "a field has the number 0"),
            (&[0x0b], "a field has no wire type that is in use"),
            (&[0x10, 0x00], "a message is not delimited by its length"),
            (&[0xff; 11], "a number is longer than ten bytes"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "a field's number is too large"),
            (&[0x12], "a field goes beyond its message"),
        ] {
            assert_eq!(count_elements(PREDICT, bytes, 9), Err(Malformed(problem)), "{bytes:x?}");
        }
        assert_eq!(count_elements("vljepa.v1.Nothing", &[], 9), Err(UnknownType));
    }
}
