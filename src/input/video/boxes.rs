//! The boxes of an MP4 file: a length, a name of four letters, fields or more boxes.
//!
//! Everything is read from a slice and nothing is believed: a length ends at its parent's end or is an error, a field
//! that is not there is an error, and no count makes room before the bytes it speaks of have been seen.

use crate::input::InputError;

/// The name of a box, or of a codec.
pub type Name = [u8; 4];

/// What is wrong with the file, in words.
pub fn broken(reason: impl Into<String>) -> InputError {
    InputError::Undecodable { format: "MP4", reason: reason.into() }
}

/// A name as people read it.
pub fn spelt(name: Name) -> String {
    name.map(|letter| if letter.is_ascii_graphic() || letter == b' ' { char::from(letter) } else { '?' })
        .iter()
        .collect()
}

/// What a box holds, read from its front.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// Of the box.
    pub name: Name,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of a whole file, or of what else has no box around it.
    pub fn of(name: Name, bytes: &'a [u8]) -> Self {
        Self { name, rest: bytes }
    }

    /// The next bytes.
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], InputError> {
        let split = self.rest.split_at_checked(bytes);
        let (taken, rest) = split.ok_or_else(|| broken(format!("box {} ends within its fields", spelt(self.name))))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], InputError> {
        Ok(self.take(BYTES)?.try_into().expect("as many bytes as were taken"))
    }

    pub fn u8(&mut self) -> Result<u8, InputError> {
        Ok(self.number::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, InputError> {
        self.number().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, InputError> {
        self.number().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, InputError> {
        self.number().map(u64::from_be_bytes)
    }

    /// A number of four bytes, or of eight where the box says so.
    pub fn long(&mut self, long: bool) -> Result<u64, InputError> {
        if long { self.u64() } else { self.u32().map(u64::from) }
    }

    /// Version and flags, with which most boxes begin.
    pub fn version(&mut self) -> Result<(u8, u32), InputError> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0xFF_FFFF))
    }

    /// As many records of `BYTES` bytes as a count before them says.
    pub fn records<const BYTES: usize>(&mut self) -> Result<&'a [[u8; BYTES]], InputError> {
        let count = self.u32()? as usize;
        let fits = count.checked_mul(BYTES).filter(|&bytes| bytes <= self.rest.len());
        let bytes = fits.ok_or_else(|| {
            let left = self.rest.len() / BYTES;
            broken(format!("box {} promises {count} records and has {left}", spelt(self.name)))
        })?;
        Ok(self.take(bytes)?.as_chunks().0)
    }

    /// The boxes in what has not been read.
    pub fn boxes(self) -> Boxes<'a> {
        Boxes { of: self.name, rest: self.rest }
    }

    /// The first box of that name.
    pub fn child(self, name: Name) -> Result<Option<Fields<'a>>, InputError> {
        self.boxes().find(|child| !matches!(child, Ok(child) if child.name != name)).transpose()
    }

    /// The same where it has to be.
    pub fn needed(self, name: Name) -> Result<Fields<'a>, InputError> {
        let of = self.name;
        self.child(name)?.ok_or_else(|| broken(format!("box {} has no box {}", spelt(of), spelt(name))))
    }
}

/// Boxes one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Boxes<'a> {
    of: Name,
    rest: &'a [u8],
}

impl<'a> Boxes<'a> {
    /// How many bytes come after the box that was given last.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<Fields<'a>, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        // QuickTime ends some lists with four zeros.
        if self.rest.len() < 8 {
            return None;
        }
        let mut fields = Fields::of(self.of, self.rest);
        let read = |fields: &mut Fields<'a>| {
            let (length, name) = (fields.u32()?, fields.number::<4>()?);
            let (length, header) = match length {
                // To the end of what is around it.
                0 => (self.rest.len() as u64, 8),
                1 => (fields.u64()?, 16),
                length => (u64::from(length), 8),
            };
            let content = length.checked_sub(header).filter(|&content| content <= fields.rest.len() as u64);
            content.map(|content| (name, content as usize)).ok_or_else(|| {
                let (name, around, left) = (spelt(name), spelt(self.of), self.rest.len());
                broken(format!(
                    "box {name} is {length} bytes long, {left} are left of {around}; is the file truncated?"
                ))
            })
        };
        let found = read(&mut fields).and_then(|(name, content)| Ok(Fields::of(name, fields.take(content)?)));
        // After an error nothing follows.
        self.rest = if found.is_ok() { fields.rest } else { &[] };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<Result<String, String>> {
        let of = Fields::of(*b"file", bytes);
        of.boxes().map(|child| child.map(|child| spelt(child.name)).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn boxes_follow_each_other_and_never_leave_their_parent() {
        let free = b"\0\0\0\x08free";
        let wide = b"\0\0\0\x01wide\0\0\0\0\0\0\0\x12ab";
        let rest = b"\0\0\0\0mdatrest";
        let all = [&free[..], wide, rest].concat();
        assert_eq!(names(&all), [Ok("free".into()), Ok("wide".into()), Ok("mdat".into())]);
        assert_eq!(names(&all[..7]), [], "less than a header is nothing");
        let told = "MP4 cannot be decoded: box moov is 9 bytes long, 8 are left of file; is the file truncated?";
        assert_eq!(names(b"\0\0\0\x09moov"), [Err(told.to_string())]);
        assert!(names(b"\0\0\0\x07moov")[0].is_err(), "shorter than its header");
        assert!(names(b"\0\0\0\x01moov\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")[0].is_err());
    }

    #[test]
    fn records_are_counted_before_they_are_believed() {
        let mut fields = Fields::of(*b"stts", &[0, 0, 0, 2, 1, 2, 3]);
        let told = "MP4 cannot be decoded: box stts promises 2 records and has 1";
        assert_eq!(fields.records::<2>().expect_err("3 bytes").to_string(), told);
        let mut fields = Fields::of(*b"stts", &[0xFF; 8]);
        assert!(fields.records::<8>().is_err(), "no room is made for what is not there");
        let mut fields = Fields::of(*b"stts", &[0, 0, 0, 1, 7, 8]);
        assert_eq!(fields.records::<2>().expect("one"), [[7, 8]]);
    }
}
