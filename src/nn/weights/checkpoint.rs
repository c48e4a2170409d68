//! One safetensors file: mapped, or part of the program. What it holds under a name, and that as f32.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};

use super::WeightsError;

pub(super) struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) header: Metadata,
    bytes: Bytes,
    start: usize,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

/// What a file holds under one name, as it is stored.
pub(super) struct Stored<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) data: &'a [u8],
}

impl Checkpoint {
    pub(super) fn map(path: &Path) -> Result<Self, WeightsError> {
        let fault = |source| WeightsError::File { file: path.to_path_buf(), source };
        let file = File::open(path).map_err(fault)?;
        // SAFETY: the map is read only; that nobody truncates a model file while it is served is the operator's part of
        // the contract, as with every memory-mapped model.
        let map = unsafe { Mmap::map(&file) }.map_err(fault)?;
        Checkpoint::new(Bytes::Mapped(map), path)
    }

    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self, WeightsError> {
        Checkpoint::new(Bytes::Static(bytes), Path::new("embedded"))
    }

    fn new(bytes: Bytes, file: &Path) -> Result<Self, WeightsError> {
        // This also checks that the tensors cover the file exactly, so `data` stays inside it.
        let (header_len, header) = SafeTensors::read_metadata(bytes.all())
            .map_err(|error| WeightsError::Format { file: file.to_path_buf(), reason: error.to_string() })?;
        let start = header_len + size_of::<u64>();
        Ok(Self { path: file.to_path_buf(), bytes, start, header })
    }

    /// What the file holds under a name.
    pub(super) fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let TensorInfo { dtype, shape, data_offsets: (from, to) } = self.header.info(name)?;
        Some(Stored { dtype: *dtype, shape, data: &self.bytes.all()[self.start + from..self.start + to] })
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl Stored<'_> {
    /// Every number; none where they are no floats.
    pub(super) fn to_f32(&self) -> Option<Vec<f32>> {
        let data = self.data;
        Some(match self.dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => data.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            _ => return None,
        })
    }
}

/// Bytes of one number of a float type that can be read.
pub(super) fn element_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::BF16 | Dtype::F16 => Some(2),
        _ => None,
    }
}
