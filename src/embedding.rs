//! Embeddings: what leaves the model, and the fingerprint of the space it lives in.
//!
//! Apart from the model, because everything above it speaks in these and none of it may see a tensor.
//! Vectors of different spaces never mix: every comparison asks for the space first.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Fingerprint of model, preprocessing and pooling: equal for exactly the vectors that may be compared.
/// Shown, parsed and stored as 16 hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Space([u8; 8]);

impl Space {
    /// First 8 bytes of SHA-256 over the parts, each preceded by its length, so that no two lists collide by joining.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.finalize()[..8]);
        Self(bytes)
    }

    /// A fingerprint computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The fingerprint itself.
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Space({self})")
    }
}

impl From<Space> for String {
    fn from(space: Space) -> Self {
        space.to_string()
    }
}

impl FromStr for Space {
    type Err = EmbeddingError;

    fn from_str(text: &str) -> Result<Self, EmbeddingError> {
        let wrong = || EmbeddingError::Fingerprint { text: text.into() };
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = if digits { u64::from_str_radix(text, 16).map_err(|_| wrong())? } else { return Err(wrong()) };
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for Space {
    type Error = EmbeddingError;

    fn try_from(text: String) -> Result<Self, EmbeddingError> {
        text.parse()
    }
}

/// What can be wrong with an embedding that came from outside, or with two that meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// Two spaces that must not mix.
    #[error(transparent)]
    Space(#[from] SpaceMismatch),
    /// More dimensions asked for than there are, or none.
    #[error("dimensions is {asked}, must be from 1 to {max}")]
    Dimensions {
        /// Dimensions asked for.
        asked: usize,
        /// Dimensions there are.
        max: usize,
    },
    /// The number of bytes does not fit the number of dimensions.
    #[error("embedding has {bytes} bytes, {dimensions} dimensions of {dtype:?} need {needed}")]
    Bytes {
        /// Bytes given.
        bytes: usize,
        /// Dimensions promised.
        dimensions: usize,
        /// Type of the values.
        dtype: Dtype,
        /// Bytes needed.
        needed: usize,
    },
    /// Not 16 hexadecimal characters.
    #[error("space is \"{text}\", must be 16 hexadecimal characters")]
    Fingerprint {
        /// What was given.
        text: String,
    },
}

/// Two embeddings that must not be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("embedding of space {other} with {other_dimensions} dimensions meets space {space} with {dimensions}")]
pub struct SpaceMismatch {
    /// Space expected.
    pub space: Space,
    /// Dimensions expected.
    pub dimensions: usize,
    /// Space met.
    pub other: Space,
    /// Dimensions met.
    pub other_dimensions: usize,
}

/// A point on the unit sphere of one space; the zero vector where there was nothing to embed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// The values; their squares add up to 1.
    pub values: Vec<f32>,
    /// Where they mean something.
    pub space: Space,
}

/// How an embedding's values are written, little-endian and packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 4 bytes a value, exact.
    F32,
    /// 2 bytes a value.
    F16,
    /// 1 byte a value: value / max |value| * 127, rounded; the scale is dropped, for cosine needs none.
    Int8,
    /// 1 bit a value, set when it is positive; value 0 is the lowest bit of byte 0.
    Binary,
}

impl Dtype {
    /// Bytes that `dimensions` values take.
    pub fn bytes(self, dimensions: usize) -> usize {
        match self {
            Self::F32 => 4 * dimensions,
            Self::F16 => 2 * dimensions,
            Self::Int8 => dimensions,
            Self::Binary => dimensions.div_ceil(8),
        }
    }
}

impl Embedding {
    /// `values` brought to unit length.
    pub fn normalized(mut values: Vec<f32>, space: Space) -> Self {
        let length = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 && length.is_finite() {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
        }
        Self { values, space }
    }

    /// The first `dimensions` values, brought to unit length again (Matryoshka). The space keeps its name: it is
    /// the number of dimensions that then tells two lengths apart.
    pub fn shorten(&self, dimensions: usize) -> Result<Self, EmbeddingError> {
        self.cut(dimensions, true)
    }

    /// The first `dimensions` values, as they are or, where `normalize` says so, as [`Embedding::shorten`] has them.
    pub fn cut(&self, dimensions: usize, normalize: bool) -> Result<Self, EmbeddingError> {
        let max = self.values.len();
        let values = || self.values[..dimensions].to_vec();
        match dimensions {
            _ if dimensions == max => Ok(self.clone()),
            _ if !(1..max).contains(&dimensions) => Err(EmbeddingError::Dimensions { asked: dimensions, max }),
            _ if normalize => Ok(Self::normalized(values(), self.space)),
            _ => Ok(Self { values: values(), space: self.space }),
        }
    }

    /// Packed little-endian bytes.
    pub fn to_bytes(&self, dtype: Dtype) -> Vec<u8> {
        match dtype {
            Dtype::F32 => self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::F16 => self.values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::Int8 => {
                let peak = self.values.iter().fold(0f32, |peak, value| peak.max(value.abs()));
                let scale = if peak > 0.0 { 127.0 / peak } else { 0.0 };
                self.values.iter().map(|value| (value * scale).round() as i8 as u8).collect()
            }
            Dtype::Binary => self
                .values
                .chunks(8)
                .map(|chunk| (0..).zip(chunk).fold(0, |byte, (bit, &value)| byte | (u8::from(value > 0.0) << bit)))
                .collect(),
        }
    }

    /// What [`Embedding::to_bytes`] wrote, brought to unit length; a bit is -1 or 1 before that.
    pub fn from_bytes(bytes: &[u8], dtype: Dtype, dimensions: usize, space: Space) -> Result<Self, EmbeddingError> {
        let needed = dtype.bytes(dimensions);
        if bytes.len() != needed {
            return Err(EmbeddingError::Bytes { bytes: bytes.len(), dimensions, dtype, needed });
        }
        let values = match dtype {
            Dtype::F32 => {
                let values = bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
                return Ok(Self { values, space });
            }
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect(),
            Dtype::Int8 => bytes.iter().map(|&byte| f32::from(byte as i8)).collect(),
            Dtype::Binary => (0..dimensions).map(|i| f32::from(bytes[i / 8] >> (i % 8) & 1) * 2.0 - 1.0).collect(),
        };
        Ok(Self::normalized(values, space))
    }
}

/// Cosine of the angle between two embeddings of one space: the dot product, both being of unit length.
pub fn cosine(a: &Embedding, b: &Embedding) -> Result<f32, SpaceMismatch> {
    if a.space != b.space || a.values.len() != b.values.len() {
        return Err(SpaceMismatch {
            space: a.space,
            dimensions: a.values.len(),
            other: b.space,
            other_dimensions: b.values.len(),
        });
    }
    let dot: f64 = a.values.iter().zip(&b.values).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    Ok(dot as f32)
}

/// A candidate's place in a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Which candidate, counted as given.
    pub index: usize,
    /// Cosine to the query, -1 to 1.
    pub cosine: f32,
    /// Share of the softmax over all candidates of `logit_scale * cosine`, 0 to 1; all shares add up to 1.
    pub score: f32,
}

/// All candidates, nearest to `query` first; equally near ones in the order given.
pub fn rank<E: Borrow<Embedding>>(
    query: &Embedding,
    candidates: &[E],
    logit_scale: f32,
) -> Result<Vec<Ranked>, SpaceMismatch> {
    let cosines =
        candidates.iter().map(|candidate| cosine(query, candidate.borrow())).collect::<Result<Vec<_>, _>>()?;
    let best = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = cosines.iter().map(|cosine| (logit_scale * (cosine - best)).exp()).collect();
    let total: f32 = weights.iter().sum();
    let mut ranked: Vec<Ranked> = (0..)
        .zip(cosines.iter().zip(&weights))
        .map(|(index, (&cosine, weight))| Ranked { index, cosine, score: weight / total })
        .collect();
    ranked.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space::from_bytes([0, 1, 2, 0xfe, 4, 5, 6, 7]);

    fn unit(values: &[f32]) -> Embedding {
        Embedding::normalized(values.to_vec(), SPACE)
    }

    #[test]
    fn a_fingerprint_reads_back_what_it_shows() {
        assert_eq!(SPACE.to_string(), "000102fe04050607");
        assert_eq!("000102fe04050607".parse(), Ok(SPACE));
        for wrong in ["", "000102fe0405060", "000102fe040506070", "+00102fe04050607", "000102fe0405060g"] {
            assert!(wrong.parse::<Space>().is_err(), "{wrong}");
        }
        let json = serde_json::to_string(&SPACE).expect("a string");
        assert_eq!(serde_json::from_str::<Space>(&json).expect("as written"), SPACE);
    }

    #[test]
    fn a_fingerprint_depends_on_where_its_parts_end() {
        assert_ne!(Space::of([&b"ab"[..], b"c"]), Space::of([&b"a"[..], b"bc"]));
        assert_eq!(Space::of([&b"ab"[..]]), Space::of([&b"ab"[..]]));
    }

    #[test]
    fn bytes_bring_back_the_values_as_well_as_their_type_can() {
        let embedding = unit(&[0.5, -0.25, 0.125, 0.0, -1.0, 0.75, 0.3, -0.6, 0.9]);
        for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 1e-3), (Dtype::Int8, 4e-3)] {
            let bytes = embedding.to_bytes(dtype);
            let back = Embedding::from_bytes(&bytes, dtype, 9, SPACE).expect("as written");
            for (a, b) in embedding.values.iter().zip(&back.values) {
                assert!((a - b).abs() <= tolerance, "{dtype:?}: {a} {b}");
            }
        }
        assert_eq!(embedding.to_bytes(Dtype::Binary), [0b0110_0101, 1]);
        let back = Embedding::from_bytes(&[0b0110_0101, 1], Dtype::Binary, 9, SPACE).expect("as written");
        assert_eq!(back.values[..2], [1.0 / 3.0, -1.0 / 3.0]);
        assert!(Embedding::from_bytes(&[0; 3], Dtype::F16, 2, SPACE).is_err());
    }

    #[test]
    fn the_zero_vector_survives() {
        let zero = unit(&[0.0; 3]);
        assert_eq!(zero.values, [0.0; 3]);
        assert_eq!(zero.to_bytes(Dtype::Int8), [0; 3]);
        assert_eq!(cosine(&zero, &unit(&[1.0, 2.0, 3.0])), Ok(0.0));
    }

    #[test]
    fn a_shortened_embedding_has_unit_length() {
        let short = unit(&[3.0, 4.0, 12.0]).shorten(2).expect("2 of 3");
        assert!((short.values[0] - 0.6).abs() < 1e-6 && (short.values[1] - 0.8).abs() < 1e-6, "{short:?}");
        assert_eq!(unit(&[3.0, 4.0, 12.0]).cut(2, false).expect("2 of 3").values, [3.0 / 13.0, 4.0 / 13.0]);
        assert!(unit(&[1.0]).shorten(0).is_err());
        assert!(unit(&[1.0]).shorten(2).is_err());
    }

    #[test]
    fn spaces_and_lengths_never_mix() {
        let other = Embedding { space: Space::from_bytes([9; 8]), ..unit(&[1.0, 0.0]) };
        assert!(cosine(&unit(&[1.0, 0.0]), &other).is_err());
        assert!(cosine(&unit(&[1.0, 0.0]), &unit(&[1.0])).is_err());
        assert!(rank(&unit(&[1.0, 0.0]), &[other], 1.0).is_err());
    }

    #[test]
    fn a_ranking_is_sorted_and_its_scores_are_the_softmax() {
        let query = unit(&[1.0, 0.0]);
        let candidates = [unit(&[0.0, 1.0]), unit(&[1.0, 0.0]), unit(&[0.0, -1.0])];
        let ranked = rank(&query, &candidates, 2.0).expect("one space");
        assert_eq!(ranked.iter().map(|ranked| ranked.index).collect::<Vec<_>>(), [1, 0, 2]);
        let share = 2f32.exp() / (2f32.exp() + 2.0);
        assert!((ranked[0].score - share).abs() < 1e-6, "{ranked:?}");
        assert!((ranked.iter().map(|ranked| ranked.score).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(rank::<Embedding>(&query, &[], 2.0).expect("nothing to compare").is_empty());
    }
}
