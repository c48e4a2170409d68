//! The media files that rows name: which of them may be read, and reading them under a bound.
//!
//! What a client's row names must lie below the input's own directory, whatever links say: the server, or the worker, reads
//! it with rights that the client has not. The rule comes with the job, so that it holds on every machine alike. A file that cannot be had fails its row; a disk that cannot be read is no row's fault.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::fields::invalid;
use crate::engine::Code;
use crate::jobs::{Failure, Fault, Input};

/// Where media files may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The input's own directory.
    directory: PathBuf,
    /// Whether they must lie below it, as [`Input::fenced`] says.
    fenced: bool,
}

/// Why a file was not read: a failure of its row, or a fault of the whole attempt.
#[derive(Debug)]
pub(in crate::jobs) enum Unread {
    Row(Failure),
    Job(Fault),
}

impl Root {
    /// That of a job's input.
    pub fn of(input: &Input) -> Self {
        Self { directory: super::directory(input), fenced: input.fenced }
    }

    /// Opens a media file, of at most `bytes_max` bytes.
    pub(in crate::jobs) fn open(&self, path: &Path, bytes_max: usize) -> Result<MediaFile, Unread> {
        // Every machine tells the same of a row, wherever it has the input.
        let name = match path.strip_prefix(&self.directory).unwrap_or(path) {
            itself if itself.as_os_str().is_empty() => ".".into(),
            name => shown(name),
        };
        let unread = |error: io::Error| unread(&name, &error);
        let wrong = |problem: &str| Unread::Row(invalid("media", &format!("{name} {problem}")));
        let mut found = path.to_owned();
        if self.fenced {
            let directory = if self.directory.as_os_str().is_empty() { Path::new(".") } else { &self.directory };
            found = path.canonicalize().map_err(unread)?;
            if !found.starts_with(directory.canonicalize().map_err(unread)?) {
                return Err(wrong("lies outside the input's directory"));
            }
        }
        // A pipe that nobody writes to must not hold the thread, and what was found must not have become a link.
        let flags = libc::O_NONBLOCK | if self.fenced { libc::O_NOFOLLOW } else { 0 };
        let file = OpenOptions::new().read(true).custom_flags(flags).open(found).map_err(unread)?;
        let there = file.metadata().map_err(unread)?;
        if !there.is_file() {
            return Err(wrong("is no file"));
        }
        let bytes = usize::try_from(there.len()).unwrap_or(usize::MAX);
        match bytes <= bytes_max {
            true => Ok(MediaFile { file, name, bytes }),
            false => Err(wrong(&format!("has {bytes} bytes, at most {bytes_max}"))),
        }
    }
}

/// A media file that is open.
#[derive(Debug)]
pub(in crate::jobs) struct MediaFile {
    file: File,
    name: String,
    /// Its size.
    pub bytes: usize,
}

impl MediaFile {
    /// All of it.
    pub fn read(self) -> Result<Vec<u8>, Unread> {
        let mut content = Vec::with_capacity(self.bytes);
        // One byte more shows that it grows meanwhile.
        let read = self.file.take(self.bytes as u64 + 1).read_to_end(&mut content);
        read.map_err(|error| unread(&self.name, &error))?;
        match content.len() == self.bytes {
            true => Ok(content),
            false => Err(Unread::Row(invalid("media", &format!("{} changes while it is read", self.name)))),
        }
    }
}

/// What a file that cannot be had is the fault of: of its row where that would be so tomorrow too.
fn unread(name: &str, error: &io::Error) -> Unread {
    let failure = |code, problem: &str| Unread::Row(Failure { code, message: format!("media: {name} {problem}") });
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound | ErrorKind::NotADirectory, _) => failure(Code::NotFound, "is not there"),
        (ErrorKind::PermissionDenied, _) => failure(Code::FailedPrecondition, "may not be read"),
        // Links in a circle, and a socket that is opened.
        (ErrorKind::IsADirectory, _) | (_, Some(libc::ELOOP | libc::ENXIO)) => {
            failure(Code::InvalidArgument, "is no file")
        }
        (ErrorKind::InvalidInput | ErrorKind::InvalidFilename, _) => {
            failure(Code::InvalidArgument, "is no name of a file")
        }
        _ => Unread::Job(Fault::Broken(format!("media file {name}: cannot be read: {error}"))),
    }
}

/// A path as messages show it: of a long one the end, where the name is.
fn shown(path: &Path) -> String {
    const CHARACTERS: usize = 200;
    let path = path.to_string_lossy();
    let left_out = path.chars().count().saturating_sub(CHARACTERS);
    match left_out {
        0 => path.into_owned(),
        _ => format!("...{}", path.chars().skip(left_out).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::jobs::InputKind;

    fn failure(root: &Root, path: &Path) -> (Code, String) {
        match root.open(path, 10) {
            Err(Unread::Row(failure)) => (failure.code, failure.message),
            other => panic!("{path:?}: {other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_had_is_told_by_its_own_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("folder")).expect("made");
        for (name, content) in [("small", &b"0123456789"[..]), ("large", b"0123456789a"), ("locked", b"")] {
            std::fs::write(at(name), content).expect("written");
        }
        std::fs::set_permissions(at("locked"), std::fs::Permissions::from_mode(0o000)).expect("locked");
        for (link, target) in [("circle", "circle"), ("nowhere", "gone"), ("link", "small"), ("out", "/etc/passwd")] {
            symlink(target, at(link)).expect("linked");
        }
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        let root = |fenced| Root { directory: folder.path().into(), fenced };
        for fenced in [false, true] {
            let root = root(fenced);
            for name in ["small", "link", "folder/../small"] {
                let file = root.open(&at(name), 10).expect(name);
                assert_eq!((file.bytes, file.read().expect(name)), (10, b"0123456789".to_vec()), "{name}");
            }
            for (name, code, message) in [
                ("gone", Code::NotFound, "media: gone is not there"),
                ("nowhere", Code::NotFound, "media: nowhere is not there"),
                ("small/below", Code::NotFound, "media: small/below is not there"),
                ("folder", Code::InvalidArgument, "media: folder is no file"),
                ("circle", Code::InvalidArgument, "media: circle is no file"),
                ("socket", Code::InvalidArgument, "media: socket is no file"),
                ("large", Code::InvalidArgument, "media: large has 11 bytes, at most 10"),
                ("nul\0", Code::InvalidArgument, "media: nul\0 is no name of a file"),
            ] {
                assert_eq!(failure(&root, &at(name)), (code, message.to_string()), "{name}, fenced: {fenced}");
            }
            // Who may read everything is not locked out.
            if File::open(at("locked")).is_err() {
                assert_eq!(failure(&root, &at("locked")).0, Code::FailedPrecondition);
            }
            let long = failure(&root, &at(&"x/".repeat(300)));
            assert!(long.1.len() < 300, "{}", long.1);
        }
        let outside = "media: out lies outside the input's directory".to_string();
        assert_eq!(failure(&root(true), &at("out")), (Code::InvalidArgument, outside));
        for path in ["../../etc/passwd", "/etc/passwd"] {
            assert_eq!(failure(&root(true), &at(path)).0, Code::InvalidArgument, "{path}");
        }
        let wide = root(false).open(&at("out"), usize::MAX).expect("may be read");
        assert!(!wide.read().expect("may be read").is_empty());
    }

    #[test]
    fn whether_media_must_lie_below_the_input_is_the_jobs_to_say() {
        let input = Input::new("/data/in.jsonl", InputKind::Jsonl);
        assert_eq!(Root::of(&input), Root { directory: "/data".into(), fenced: true });
        assert!(!Root::of(&Input { fenced: false, ..input.clone() }).fenced);
        // What is kept says it too, and what was kept before it did is fenced.
        let mut kept = serde_json::to_value(Input { fenced: false, ..input }).expect("JSON");
        let read = |kept: &serde_json::Value| serde_json::from_value::<Input>(kept.clone()).expect("an input");
        assert!(!Root::of(&read(&kept)).fenced);
        kept.as_object_mut().expect("an object").remove("fenced").expect("it is kept");
        assert!(Root::of(&read(&kept)).fenced);
    }
}
