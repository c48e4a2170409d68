//! A job's output as files, on a disk or in an object store: one place for everything about names, renames and syncs.
//!
//! A file is written whole under a temporary name below `_staged/`, synced, and gets its final name when the store has
//! decided that it counts. Every step may be done twice: whoever was interrupted does it again. Names that begin with
//! `_` are ours; readers of tables pass over them. `disk.rs` and `objects.rs` are the two kinds of place, both blocking;
//! what is async here does the same on a thread that may wait.

mod disk;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Fault, JobId, Staged, StagedFile};
use crate::engine::EngineError;
use crate::settings::ObjectSettings;
use disk::Disk;
use objects::Objects;

/// The folder of files that have no final name yet.
const STAGED: &str = "_staged";
/// Tells whose output this is.
const MARKER: &str = "_job.json";

/// Where files can be. Names are relative, with `/` between folder and file.
trait Place: Send + Sync {
    /// Writes a file whose name nobody else uses; durable when it returns.
    fn write(&self, name: &str, bytes: Vec<u8>) -> io::Result<()>;
    /// Writes or replaces a file, wholly or not at all; durable when it returns.
    fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()>;
    /// The same where there is none of that name; tells whether there was none.
    fn put_new(&self, name: &str, bytes: Vec<u8>) -> io::Result<bool>;
    /// Gives a file another name, over whatever has it; durable after [`Place::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
    /// Bytes of a file, all of `range`.
    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>>;
    /// Size of a file, if there is one.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;
    /// Whether a file holds what it should as far as that may have changed since it was written; none: it is not there.
    fn holds(&self, name: &str, file: &StagedFile) -> io::Result<Option<bool>>;
    /// Names of the files right in a folder, in order; the empty folder is the place itself.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Removes a file if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Removes what holds files, where that is a thing of its own and empty.
    fn remove_folder(&self, folder: &str) -> io::Result<()>;
}

/// The files of one output; cheap to clone.
#[derive(Clone)]
pub struct Files {
    location: Arc<str>,
    place: Arc<dyn Place>,
}

/// What the marker says.
#[derive(Serialize, Deserialize)]
struct Marker {
    job: JobId,
}

impl Files {
    /// The files at `location`: a directory, `file://`, `memory://` (of this process) or, with the feature `s3`,
    /// `s3://bucket/prefix`. Nothing is looked at yet. Fails where there cannot be such a place.
    pub fn open(location: &str, objects: &ObjectSettings) -> Result<Self, EngineError> {
        let wrong = |problem: &str| EngineError::Invalid {
            field: "output.location".into(),
            problem: format!("is {location:?}, {problem}"),
        };
        let place: Arc<dyn Place> = match location.split_once("://") {
            _ if location.trim().is_empty() => return Err(wrong("must be a directory or an object store's URL")),
            None => Arc::new(Disk::at(location)),
            Some(("file", path)) => Arc::new(Disk::at_url(path).map_err(|problem| wrong(&problem))?),
            Some((scheme, path)) => Arc::new(Objects::at(scheme, path, objects).map_err(|problem| wrong(&problem))?),
        };
        Ok(Self { location: location.trim_end_matches('/').into(), place })
    }

    /// Where they are, as it was given.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Makes the place `job`'s own; does nothing where it already is. Fails where it is another job's, or holds parts
    /// of nobody knows whom.
    pub async fn claim(&self, job: &JobId) -> Result<(), EngineError> {
        let job = job.clone();
        let claimed = self.blocking(move |files| Ok(files.claimed(&job))).await;
        let unfit = |problem| EngineError::Unfit { subject: "output.location".into(), problem };
        claimed.and_then(|claimed| claimed).map_err(|fault| unfit(fault.to_string()))
    }

    fn claimed(&self, job: &JobId) -> Result<(), Fault> {
        if self.place.size(MARKER).map_err(self.cannot("read", MARKER))?.is_none() {
            let names = self.blocking_list()?;
            if let Some(part) = names.iter().find(|name| is_output(name)) {
                return Err(Fault::Broken(format!("{} holds {part} of some other job", self.location)));
            }
            let marker = serde_json::to_vec(&Marker { job: job.clone() }).expect("a name is JSON");
            if self.place.put_new(MARKER, marker).map_err(self.cannot("write", MARKER))? {
                return Ok(());
            }
        }
        let owner = self.blocking_owner()?;
        match owner == *job {
            true => Ok(()),
            false => Err(Fault::Broken(format!("{} holds the output of job {owner}", self.location))),
        }
    }

    fn blocking_owner(&self) -> Result<JobId, Fault> {
        let marker: Marker = serde_json::from_slice(&self.blocking_read_all(MARKER)?)
            .map_err(|error| Fault::Broken(format!("{}/{MARKER}: {error}", self.location)))?;
        Ok(marker.job)
    }

    /// The job whose own the place is, if it is any's.
    pub async fn owner(&self) -> Result<Option<JobId>, Fault> {
        self.blocking(|files| match files.blocking_size(MARKER)? {
            Some(_) => files.blocking_owner().map(Some),
            None => Ok(None),
        })
        .await
    }

    /// Makes the place nobody's own if a job has made nothing in it that counts.
    pub async fn release(&self) -> Result<(), Fault> {
        match self.list().await?.iter().any(|name| is_output(name)) {
            true => Ok(()),
            false => self.clear().await,
        }
    }

    /// Writes a file of an attempt under a temporary name; it is durable when this returns. `attempt` must be unlike
    /// any other, of letters, digits and dashes.
    pub async fn stage(&self, attempt: &str, name: &str, bytes: Vec<u8>) -> Result<StagedFile, Fault> {
        let (temporary, name) = (format!("{STAGED}/{attempt}.{name}"), name.to_owned());
        self.blocking(move |files| {
            let file = StagedFile { bytes: bytes.len() as u64, sha256: sha256(&bytes), temporary, name };
            files.place.write(&file.temporary, bytes).map_err(files.cannot("write", &file.temporary))?;
            Ok(file)
        })
        .await
    }

    /// Gives the files of an attempt their final names. A file that has its name already is right; one that is torn or
    /// has gone is a fault.
    pub async fn publish(&self, staged: &Staged) -> Result<(), Fault> {
        let staged = staged.clone();
        self.blocking(move |files| {
            staged.files.iter().try_for_each(|file| files.published(file))?;
            files.place.sync().map_err(files.cannot("sync", ""))
        })
        .await
    }

    fn published(&self, file: &StagedFile) -> Result<(), Fault> {
        let StagedFile { temporary, name, .. } = file;
        let mut holds = self.place.holds(temporary, file).map_err(self.cannot("read", temporary))?;
        if holds == Some(true) {
            match self.place.rename(temporary, name) {
                Ok(()) => return Ok(()),
                // Another publisher was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => holds = None,
                Err(error) => return Err(self.cannot("rename", temporary)(error)),
            }
        }
        match (self.place.holds(name, file).map_err(self.cannot("read", name))?, holds) {
            (Some(true), _) => Ok(()),
            (_, Some(_)) => Err(self.torn(temporary, file)),
            (Some(false), None) => Err(self.torn(name, file)),
            (None, None) => {
                Err(Fault::Broken(format!("{}/{name}: it is gone, and so is its temporary {temporary}", self.location)))
            }
        }
    }

    fn torn(&self, name: &str, file: &StagedFile) -> Fault {
        let StagedFile { bytes, sha256, .. } = file;
        let location = &self.location;
        Fault::Broken(format!("{location}/{name}: it is not as it was written, {bytes} bytes of SHA-256 {sha256}"))
    }

    /// The first of an attempt's files that has not its final name with the right size there, if any.
    pub async fn lost(&self, staged: &Staged) -> Result<Option<String>, Fault> {
        let files = staged.files.clone();
        self.blocking(move |here| {
            for StagedFile { name, bytes, .. } in files {
                if here.place.size(&name).map_err(here.cannot("read", &name))? != Some(bytes) {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Removes the temporary files of an attempt.
    pub async fn discard(&self, attempt: &str) -> Result<(), Fault> {
        let attempt = attempt.to_owned();
        self.blocking(move |files| files.remove_staged(|of| of == attempt)).await
    }

    /// Removes all temporary files but those of the attempts named.
    pub async fn sweep(&self, keep: &HashSet<String>) -> Result<(), Fault> {
        let keep = keep.clone();
        self.blocking(move |files| {
            files.remove_staged(|of| !keep.contains(of))?;
            files.place.remove_folder(STAGED).map_err(files.cannot("remove", STAGED))
        })
        .await
    }

    fn remove_staged(&self, goes: impl Fn(&str) -> bool) -> Result<(), Fault> {
        for name in self.place.list(STAGED).map_err(self.cannot("list", STAGED))? {
            let file = name.strip_prefix(STAGED).map(|file| file.trim_start_matches('/')).unwrap_or(&name);
            if goes(file.split('.').next().unwrap_or_default()) {
                self.place.remove(&name).map_err(self.cannot("remove", &name))?;
            }
        }
        Ok(())
    }

    /// Removes all that a job has made here, its claim last.
    pub async fn clear(&self) -> Result<(), Fault> {
        self.blocking(|files| {
            files.remove_staged(|_| true)?;
            let names = files.blocking_list()?;
            let ours = names.iter().filter(|name| is_output(name) || name.starts_with('_') && *name != MARKER);
            for name in ours.map(String::as_str).chain([MARKER]) {
                files.place.remove(name).map_err(files.cannot("remove", name))?;
            }
            let folders = [STAGED, ""].iter().try_for_each(|folder| files.place.remove_folder(folder));
            folders.map_err(files.cannot("remove", ""))
        })
        .await
    }

    /// Writes or replaces a file, wholly or not at all; it is durable when this returns.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        let name = name.to_owned();
        self.blocking(move |files| files.blocking_put(&name, bytes)).await
    }

    /// As [`Files::put`], for threads that may wait.
    pub fn blocking_put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        self.place.put(name, bytes).map_err(self.cannot("write", name))
    }

    /// Bytes of a file, all of `range`.
    pub async fn read(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, Fault> {
        let name = name.to_owned();
        self.blocking(move |files| files.blocking_read(&name, range)).await
    }

    /// As [`Files::read`], for threads that may wait.
    pub fn blocking_read(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, Fault> {
        self.place.read(name, range).map_err(self.cannot("read", name))
    }

    fn blocking_read_all(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let size = self.blocking_size(name)?.unwrap_or_default();
        self.blocking_read(name, 0..size)
    }

    /// Size of a file in bytes, if there is one.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        let name = name.to_owned();
        self.blocking(move |files| files.blocking_size(&name)).await
    }

    /// As [`Files::size`], for threads that may wait.
    pub fn blocking_size(&self, name: &str) -> Result<Option<u64>, Fault> {
        self.place.size(name).map_err(self.cannot("read", name))
    }

    /// Names of the files here, in order; those without a final name are not among them.
    pub async fn list(&self) -> Result<Vec<String>, Fault> {
        self.blocking(Self::blocking_list).await
    }

    /// As [`Files::list`], for threads that may wait.
    pub fn blocking_list(&self) -> Result<Vec<String>, Fault> {
        self.place.list("").map_err(self.cannot("list", ""))
    }

    /// Removes a file if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), Fault> {
        let name = name.to_owned();
        self.blocking(move |files| files.place.remove(&name).map_err(files.cannot("remove", &name))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let files = self.clone();
        match tokio::task::spawn_blocking(move || work(&files)).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Err(Fault::Stopped),
        }
    }

    /// The fault of not being able to do something with a file.
    fn cannot(&self, verb: &str, name: &str) -> impl Fn(io::Error) -> Fault {
        let place = [&*self.location, name].join(if name.is_empty() { "" } else { "/" });
        move |error| Fault::Broken(format!("cannot {verb} {place}: {error}"))
    }
}

/// Whether a name is one of what users read.
fn is_output(name: &str) -> bool {
    ["part-", "_errors-"].iter().any(|prefix| name.starts_with(prefix))
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A name that may come from another machine leads to nowhere but below its place.
fn within(name: &str) -> io::Result<&str> {
    let plain = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains(['\\', '\0']);
    match name.split('/').all(plain) {
        true => Ok(name),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file below it"))),
    }
}
