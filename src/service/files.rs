//! Files that outlive no month: certificates and keys. Here is how they are read, within a bound, and read again when
//! they change, so that a server need not be restarted for a new certificate or a withdrawn key.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file that a setting names and that cannot be what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {}: {problem}", .file.display())]
pub struct FileError {
    /// The setting that names it.
    pub setting: &'static str,
    /// Its path.
    pub file: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// Says of a setting's file what is wrong.
pub(super) fn wrong(setting: &'static str, file: &Path) -> impl Fn(&dyn std::fmt::Display) -> FileError {
    move |problem| FileError { setting, file: file.into(), problem: problem.to_string() }
}

/// A file's text.
pub(super) fn text(setting: &'static str, file: &Path) -> Result<String, FileError> {
    let wrong = wrong(setting, file);
    let mut text = String::new();
    // Not by the size that the system tells: a device or a pipe tells none.
    let bytes = std::fs::File::open(file).map(|file| file.take(FILE_BYTES_MAX + 1));
    bytes.and_then(|mut bytes| bytes.read_to_string(&mut text)).map_err(|error| wrong(&error))?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(wrong(&format!("has over {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

/// What was read from files, the newest that could be.
#[derive(Debug)]
pub(super) struct Followed<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads once, and again whenever one of `files` has changed, for as long as anybody holds it. What cannot be read
    /// is logged, and what was read before stays.
    pub(super) fn open(
        files: Vec<PathBuf>,
        every: Duration,
        read: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        // Before they are read: what changes meanwhile is then seen.
        let seen = stamps(&files);
        let now = Arc::new(RwLock::new(Arc::new(read()?)));
        tokio::spawn(follow(Arc::downgrade(&now), files, seen, every, Arc::new(read)));
        Ok(Self(now))
    }

    pub(super) fn now(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn follow<T: Send + Sync + 'static>(
    held: Weak<RwLock<Arc<T>>>,
    files: Vec<PathBuf>,
    mut seen: Vec<Stamp>,
    every: Duration,
    read: Arc<impl Fn() -> Result<T, FileError> + Send + Sync + 'static>,
) {
    loop {
        tokio::time::sleep(every).await;
        let Some(held) = held.upgrade() else { return };
        let (paths, read) = (files.clone(), read.clone());
        let before = seen.clone();
        // A file system may hang; the calls must not.
        let look = move || {
            let stamps = stamps(&paths);
            (stamps != before).then(|| (stamps, read()))
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Some((stamps, outcome))) => {
                seen = stamps;
                match outcome {
                    Ok(value) => {
                        *held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                        tracing::info!(?files, "read again");
                    }
                    Err(error) => tracing::error!(%error, "not read again, what was read before stays"),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, ?files, "reading files again failed"),
        }
    }
}

/// When a file was last written, and its size; none while it is not there.
type Stamp = Option<(SystemTime, u64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let facts = std::fs::metadata(file).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    };
    files.iter().map(stamp).collect()
}
