//! Files in a local directory. What is durable is synced twice, the file and the directory that names it: a rename
//! without the second may be forgotten when the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Place, STAGED, StagedFile, within};

/// A local directory, made when the first file is written.
pub(super) struct Disk {
    root: PathBuf,
}

impl Disk {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What `file://` is followed by.
    pub fn at_url(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') {
            return Err("a file URL must name a directory of this machine, such as file:///data/out".into());
        }
        Ok(Self::at(super::objects::decoded(path).map(|path| format!("/{path}"))?))
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        Ok(self.root.join(within(name)?))
    }

    /// Writes a new file and syncs it and its name; what is left of it goes where that fails.
    fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let directory = parent(path);
        create_synced(directory)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_directory(directory));
        written.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = fs::remove_file(path);
        })
    }

    /// Writes under a temporary name, then calls `name` to give the final one.
    fn write_then(&self, to: &str, bytes: &[u8], name: fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        let to = self.path(to)?;
        let temporary = self.path(&format!("{STAGED}/put-{:016x}.tmp", rand::random::<u64>()))?;
        Self::write_synced(&temporary, bytes)?;
        let named = name(&temporary, &to);
        // A rename has taken it; else it is of no use.
        let _ = fs::remove_file(&temporary);
        named.and_then(|()| sync_directory(parent(&to)))
    }
}

impl Place for Disk {
    fn write(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        Self::write_synced(&self.path(name)?, &bytes)
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.write_then(name, &bytes, |from, to| fs::rename(from, to))
    }

    fn put_new(&self, name: &str, bytes: Vec<u8>) -> io::Result<bool> {
        match self.write_then(name, &bytes, |from, to| fs::hard_link(from, to)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn sync(&self) -> io::Result<()> {
        match sync_directory(&self.root) {
            // Nothing was ever written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(name)?)?;
        file.seek(SeekFrom::Start(range.start))?;
        let bytes = range.end.saturating_sub(range.start);
        let mut read = Vec::with_capacity(usize::try_from(bytes).map_err(io::Error::other)?);
        match file.take(bytes).read_to_end(&mut read)? as u64 == bytes {
            true => Ok(read),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends before byte {}", range.end))),
        }
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        present(fs::metadata(self.path(name)?)).map(|found| found.map(|metadata| metadata.len()))
    }

    fn holds(&self, name: &str, file: &StagedFile) -> io::Result<Option<bool>> {
        let Some(mut opened) = present(File::open(self.path(name)?))? else { return Ok(None) };
        if opened.metadata()?.len() != file.bytes {
            return Ok(Some(false));
        }
        let mut hash = Sha256::new();
        io::copy(&mut opened, &mut hash)?;
        Ok(Some(format!("{:x}", hash.finalize()) == file.sha256))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let Some(entries) = present(fs::read_dir(self.root.join(folder)))? else { return Ok(vec![]) };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Nobody but us names files that count, and we do it in ASCII.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(prefix.clone() + &name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        present(fs::remove_file(self.path(name)?)).map(|_| ())
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        match fs::remove_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => present(removed).map(|_| ()),
        }
    }
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Makes a directory and those above it, each durable in the one above.
fn create_synced(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Ok(()) => sync_directory(parent(directory)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.parent().is_some() => {
            create_synced(parent(directory))?;
            create_synced(directory)
        }
        Err(error) => Err(error),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The directory above; of a relative name, the current one.
fn parent(path: &Path) -> &Path {
    let above = path.parent().unwrap_or(path);
    if above.as_os_str().is_empty() { Path::new(".") } else { above }
}
