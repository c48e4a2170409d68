//! Where a bundle's files lie: in a directory, or inside the program. Everything above asks by name, so that the
//! bundled model takes the same way as any other.

use crate::nn::weights::{Mode, Weights, WeightsError};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Name and bytes of every file of an embedded bundle.
pub type Embedded = &'static [(&'static str, &'static [u8])];

/// A bundle's files by their names below its root.
#[derive(Debug, Clone)]
pub enum Files {
    /// On disk.
    Directory(PathBuf),
    /// In the program.
    Embedded(Embedded),
}

/// Files up to this size count whole in a digest, bytes.
const WHOLE: u64 = 64 << 20;
/// Of larger files, this many blocks count, evenly spread, the first and the last among them.
const BLOCKS: u64 = 512;
/// Size of a block, bytes.
const BLOCK: u64 = 64 << 10;

impl Files {
    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Files::Directory(root) => root.join(name).is_file(),
            Files::Embedded(_) => self.embedded(name).is_some(),
        }
    }

    /// A small file.
    pub fn read(&self, name: &str) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Files::Directory(root) => std::fs::read(root.join(name)).map(Cow::Owned),
            Files::Embedded(_) => self.embedded(name).map(Cow::Borrowed).ok_or_else(missing),
        }
    }

    /// Size, bytes.
    pub fn size(&self, name: &str) -> io::Result<u64> {
        match self {
            Files::Directory(root) => root.join(name).metadata().map(|meta| meta.len()),
            Files::Embedded(_) => self.embedded(name).map(|bytes| bytes.len() as u64).ok_or_else(missing),
        }
    }

    /// Safetensors files as one namespace; on disk they are mapped.
    pub fn weights(&self, names: &[String], mode: Mode) -> Result<Weights, WeightsError> {
        match self {
            Files::Directory(root) => {
                Weights::open(&names.iter().map(|name| root.join(name)).collect::<Vec<_>>(), mode)
            }
            Files::Embedded(_) => {
                let name = names.first().map_or("", String::as_str);
                let absent = || WeightsError::File { file: name.into(), source: missing() };
                Weights::from_static(self.embedded(name).ok_or_else(absent)?, mode)
            }
        }
    }

    /// The weights of a part in Hugging Face's layout: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` lists. Empty where there are none.
    pub fn weight_files(&self, folder: &str) -> io::Result<Vec<String>> {
        let at = |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        let (whole, index) = (at("model.safetensors"), at("model.safetensors.index.json"));
        if self.has(&whole) || !self.has(&index) {
            return Ok(Some(whole).filter(|whole| self.has(whole)).into_iter().collect());
        }
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let index: Index = serde_json::from_slice(&self.read(&index)?)?;
        let shards: BTreeSet<String> = index.weight_map.into_values().collect();
        Ok(shards.iter().map(|shard| at(shard)).collect())
    }

    /// Feeds size and content to `hash`: the whole of a file up to 64 MiB; of a larger one 512 evenly spread blocks of
    /// 64 KiB, which takes in its header (all names, shapes and offsets) and costs the same for any size.
    pub fn digest(&self, name: &str, hash: &mut Sha256) -> io::Result<()> {
        let size = self.size(name)?;
        hash.update(size.to_le_bytes());
        if size <= WHOLE {
            hash.update(self.read(name)?);
            return Ok(());
        }
        let mut block = vec![0; BLOCK as usize];
        for i in 0..BLOCKS {
            let at = (size - BLOCK) / (BLOCKS - 1) * i;
            self.read_at(name, at, &mut block)?;
            hash.update(&block);
        }
        Ok(())
    }

    /// Fills `into` from byte `at`.
    pub fn read_at(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Files::Directory(root) => {
                let mut file = File::open(root.join(name))?;
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(into)
            }
            Files::Embedded(_) => {
                let bytes = self.embedded(name).ok_or_else(missing)?;
                let end = at as usize + into.len();
                into.copy_from_slice(bytes.get(at as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// How errors name a file.
    pub fn describe(&self, name: &str) -> String {
        match self {
            Files::Directory(root) => root.join(name).display().to_string(),
            Files::Embedded(_) => format!("bundled {name}"),
        }
    }

    /// The directory, unless the files are embedded.
    pub fn root(&self) -> Option<&Path> {
        match self {
            Files::Directory(root) => Some(root),
            Files::Embedded(_) => None,
        }
    }

    fn embedded(&self, wanted: &str) -> Option<&'static [u8]> {
        let Files::Embedded(files) = self else { return None };
        files.iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| *bytes)
    }
}

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file in the program")
}
