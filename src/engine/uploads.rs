//! Media that were sent ahead of the requests that use them: files without a name, until they expire.
//!
//! A file is unlinked before its first byte is written, so what a process leaves behind, however it ends, the system
//! takes back. What counts against the bounds is what lies on the disk: an upload from its beginning on, and one that
//! has expired until the last request that reads it is through. Which names are known is `shelf.rs`.

mod shelf;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

pub use self::shelf::Owner;
use self::shelf::Shelf;
use super::error::{EngineError, shortened};
use crate::settings::{Settings, UploadSettings};

const PREFIX: &str = "uploads/";
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The uploads of one process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: UploadSettings,
    directory: PathBuf,
    retry_after: Duration,
    shelf: Mutex<Shelf<Stored>>,
    space: Arc<Mutex<Space>>,
}

/// What lies on the disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Space {
    items: usize,
    bytes: u64,
}

/// The part of one upload; given back when it is dropped.
#[derive(Debug)]
struct Place {
    space: Arc<Mutex<Space>>,
    bytes: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        space.items -= 1;
        space.bytes -= self.bytes;
    }
}

/// What a client says of a file before it sends it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// Its size.
    pub bytes: Option<u64>,
    /// Its SHA-256.
    pub sha256: Option<[u8; 32]>,
}

/// What a client is told of its upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The name under which requests use it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// How long the name is known.
    pub expires_in: Duration,
}

/// A file that was uploaded; readable as long as somebody holds it.
#[derive(Debug, Clone)]
pub struct Stored(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    file: File,
    place: Place,
}

impl Stored {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.0.place.bytes
    }

    /// All of it.
    pub fn read(&self) -> Result<Vec<u8>, EngineError> {
        let mut bytes = vec![0; self.bytes() as usize];
        // Others may read the same file: no cursor is shared.
        self.0.file.read_exact_at(&mut bytes, 0).map_err(|error| EngineError::Internal(format!("upload: {error}")))?;
        Ok(bytes)
    }
}

impl Uploads {
    /// No uploads yet.
    pub fn new(settings: &Settings) -> Self {
        Self(Arc::new(Inner {
            directory: settings.uploads.directory.clone().unwrap_or_else(std::env::temp_dir),
            retry_after: Duration::from_millis(settings.service.retry_after_ms),
            settings: settings.uploads.clone(),
            shelf: Mutex::default(),
            space: Arc::default(),
        }))
    }

    /// Begins an upload of `owner`; room for what is promised is set aside at once.
    pub async fn begin(&self, promise: Promise, owner: Owner) -> Result<Upload, EngineError> {
        let bytes_max = self.0.settings.bytes_max;
        if let Some(bytes) = promise.bytes.filter(|bytes| !(1..=bytes_max).contains(bytes)) {
            return Err(invalid("header.bytes", format!("is {bytes}, must be from 1 to {bytes_max}")));
        }
        self.sweep(Instant::now());
        let place = self.enter(promise.bytes.unwrap_or(0))?;
        let directory = self.0.directory.clone();
        let file = blocking(move || tempfile::tempfile_in(directory)).await??;
        let writing = Writing { file, hasher: Sha256::new(), place };
        Ok(Upload { uploads: self.clone(), promise, owner, bytes: 0, writing: Some(writing) })
    }

    /// The upload called `name`, if it is `owner`'s and has not expired.
    pub fn get(&self, name: &str, owner: &Owner) -> Result<Stored, EngineError> {
        self.shelf().get(name, owner, Instant::now()).ok_or_else(|| missing(name))
    }

    /// Forgets the upload called `name`; who reads it already may go on.
    pub fn delete(&self, name: &str, owner: &Owner) -> Result<(), EngineError> {
        let taken = self.shelf().take(name, owner, Instant::now());
        taken.map(drop).ok_or_else(|| missing(name))
    }

    /// How many there are, those that are being sent among them, and their bytes together.
    pub fn held(&self) -> (usize, u64) {
        let space = self.0.space.lock().unwrap_or_else(PoisonError::into_inner);
        (space.items, space.bytes)
    }

    /// Forgets what has expired at `now`.
    pub fn sweep(&self, now: Instant) {
        let expired = self.shelf().expire(now);
        // Outside the lock, for here the files are closed.
        drop(expired);
    }

    /// Sweeps again and again, as long as somebody else holds these uploads.
    pub fn sweeping(&self) -> impl Future<Output = ()> + Send + 'static {
        let uploads = Arc::downgrade(&self.0);
        async move {
            let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(uploads) = uploads.upgrade().map(Uploads) else { return };
                // Closing a large file takes its time.
                drop(tokio::task::spawn_blocking(move || uploads.sweep(Instant::now())).await);
            }
        }
    }

    fn enter(&self, bytes: u64) -> Result<Place, EngineError> {
        let mut space = self.0.space.lock().unwrap_or_else(PoisonError::into_inner);
        let UploadSettings { items_max, total_bytes_max, .. } = self.0.settings;
        if space.items == items_max {
            return Err(self.full("uploads.items_max", items_max as u64));
        }
        if space.bytes + bytes > total_bytes_max {
            return Err(self.full("uploads.total_bytes_max", total_bytes_max));
        }
        space.items += 1;
        space.bytes += bytes;
        Ok(Place { space: self.0.space.clone(), bytes })
    }

    /// Makes the place large enough for `bytes` in all.
    fn grow(&self, place: &mut Place, bytes: u64) -> Result<(), EngineError> {
        let more = bytes.saturating_sub(place.bytes);
        let mut space = self.0.space.lock().unwrap_or_else(PoisonError::into_inner);
        let max = self.0.settings.total_bytes_max;
        if space.bytes + more > max {
            return Err(self.full("uploads.total_bytes_max", max));
        }
        space.bytes += more;
        place.bytes += more;
        Ok(())
    }

    /// There is room again when the next upload expires, if not before.
    fn full(&self, limit: &'static str, max: u64) -> EngineError {
        let next = self.shelf().next_expiry().map(|expiry| expiry.saturating_duration_since(Instant::now()));
        EngineError::Exhausted { limit, max, retry_after: next.unwrap_or_default().max(self.0.retry_after) }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<Stored>> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload on its way in. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    uploads: Uploads,
    promise: Promise,
    owner: Owner,
    bytes: u64,
    /// Away while a chunk is written.
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    file: File,
    hasher: Sha256,
    place: Place,
}

impl Upload {
    /// The next bytes of the file.
    pub async fn write(&mut self, chunk: Vec<u8>) -> Result<(), EngineError> {
        let UploadSettings { bytes_max, chunk_bytes_max, .. } = self.uploads.0.settings;
        if chunk.is_empty() || chunk.len() > chunk_bytes_max {
            return Err(invalid("chunk", format!("is {} bytes, must be 1 to {chunk_bytes_max}", chunk.len())));
        }
        let bytes = self.bytes + chunk.len() as u64;
        match self.promise.bytes {
            Some(promised) if bytes > promised => {
                return Err(invalid("chunk", format!("makes {bytes} bytes in all, the header promised {promised}")));
            }
            _ if bytes > bytes_max => {
                return Err(invalid("chunk", format!("makes {bytes} bytes in all, at most {bytes_max}")));
            }
            _ => {}
        }
        let mut writing = self.writing.take().ok_or_else(|| internal("a write was given up"))?;
        self.uploads.grow(&mut writing.place, bytes)?;
        let write = move || {
            writing.file.write_all(&chunk)?;
            writing.hasher.update(&chunk);
            Ok(writing)
        };
        self.writing = Some(blocking(write).await??);
        self.bytes = bytes;
        Ok(())
    }

    /// Gives the file its name, if it is what was promised.
    pub fn finish(self) -> Result<Receipt, EngineError> {
        let Self { uploads, promise, owner, bytes, writing } = self;
        let Writing { file, hasher, place } = writing.ok_or_else(|| internal("a write was given up"))?;
        if let Some(promised) = promise.bytes.filter(|&promised| promised != bytes) {
            return Err(invalid("header.bytes", format!("is {promised}, but {bytes} bytes came")));
        }
        if bytes == 0 {
            return Err(invalid("chunk", "never came".into()));
        }
        let sha256: [u8; 32] = hasher.finalize().into();
        if let Some(promised) = promise.sha256.filter(|promised| *promised != sha256) {
            let (promised, found) = (hexadecimal(&promised), hexadecimal(&sha256));
            return Err(invalid("header.sha256", format!("is {promised}, but that of the bytes that came is {found}")));
        }
        let mut random = [0; 16];
        OsRng.try_fill_bytes(&mut random).map_err(|error| internal(&error.to_string()))?;
        let name = format!("{PREFIX}{}", hexadecimal(&random));
        let expires_in = Duration::from_millis(uploads.0.settings.expiry_ms);
        let stored = Stored(Arc::new(Whole { file, place }));
        uploads.shelf().put(name.clone(), stored, owner, Instant::now() + expires_in);
        Ok(Receipt { name, bytes, sha256, expires_in })
    }
}

/// Runs what waits for the disk, or computes, away from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<Result<T, EngineError>, EngineError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error.to_string()))?;
    Ok(done.map_err(|error| internal(&error.to_string())))
}

fn internal(cause: &str) -> EngineError {
    EngineError::Internal(format!("upload: {cause}"))
}

fn invalid(field: &str, problem: String) -> EngineError {
    EngineError::Invalid { field: field.into(), problem }
}

fn missing(name: &str) -> EngineError {
    EngineError::Gone { what: "upload", name: shortened(name) }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
