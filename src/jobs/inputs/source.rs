//! Where lines are read from: a file of the input, or the list of media files that planning has left in the output.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::jobs::files::Files;
use crate::jobs::{Fault, Shard};

/// Bytes of a list that are asked for at a time.
const PIECE_BYTES: u64 = 1 << 18;

/// Bytes that can be read from anywhere.
#[derive(Clone)]
pub(super) enum Source {
    /// A file of the input.
    File(PathBuf),
    /// A file of the output.
    Listed(Files, &'static str),
}

impl Source {
    /// What follows the first `start` bytes.
    pub fn read_from(&self, start: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::File(path) => {
                let mut file = File::open(path)?;
                if !file.metadata()?.is_file() {
                    return Err(io::Error::other("it is no file"));
                }
                file.seek(SeekFrom::Start(start))?;
                Box::new(file)
            }
            Self::Listed(files, name) => Box::new(Pieces {
                files: files.clone(),
                name,
                at: start,
                end: self.size()?,
                piece: io::Cursor::default(),
            }),
        })
    }

    /// How many there are.
    pub fn size(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Listed(files, name) => match files.blocking_size(name).map_err(io::Error::other)? {
                Some(size) => Ok(size),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }

    /// The fault of a source that cannot be read.
    pub fn broken(&self, error: &io::Error) -> Fault {
        self.fault(&format!("cannot be read: {error}"))
    }

    /// The fault of a source that is not what it was when it was planned.
    pub fn changed(&self, shard: &Shard, difference: &str) -> Fault {
        let Shard { start, end, .. } = shard;
        self.fault(&format!("has changed since it was planned, bytes {start} to {end}: {difference}"))
    }

    /// Any fault of a source.
    pub fn fault(&self, problem: &str) -> Fault {
        let name = match self {
            Self::File(path) => path.display().to_string(),
            Self::Listed(files, name) => format!("{}/{name}", files.location()),
        };
        Fault::Broken(format!("input {name}: {problem}"))
    }
}

/// A file of the output, read piece by piece.
struct Pieces {
    files: Files,
    name: &'static str,
    at: u64,
    end: u64,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let used_up = self.piece.position() == self.piece.get_ref().len() as u64;
        if used_up && self.at < self.end {
            let range = self.at..self.end.min(self.at + PIECE_BYTES);
            self.at = range.end;
            self.piece = io::Cursor::new(self.files.blocking_read(self.name, range).map_err(io::Error::other)?);
        }
        self.piece.read(buffer)
    }
}
