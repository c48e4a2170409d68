//! Inputs of media files: which files a directory or a pattern means, as the lines that name them.
//!
//! Of a directory, every file below it that is media by the ending of its name; links to directories are not followed,
//! so that no walk is endless. Of a pattern, every file that it matches, whatever its ending: who writes a pattern has
//! chosen. Names that begin with a dot are passed over in both. A name that is no UTF-8 is listed as nearly as it can be
//! written; its row then fails alone, for there is no such file.

use std::io;
use std::path::{Path, PathBuf};

use glob::MatchOptions;
use serde::Serialize;

use crate::jobs::Fault;

/// Endings of names of media, in small letters.
const ENDINGS: [&str; 11] = ["apng", "bmp", "gif", "jpeg", "jpg", "m4v", "mov", "mp4", "png", "webp", "jfif"];

const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A file, as its line names it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    media: &'a str,
}

/// What a location means.
enum Meaning {
    Directory,
    File,
    Pattern,
}

fn meaning(location: &str) -> Meaning {
    match std::fs::metadata(location) {
        Ok(there) if there.is_file() => Meaning::File,
        Ok(_) => Meaning::Directory,
        Err(_) if location.contains(['*', '?', '[']) => Meaning::Pattern,
        Err(_) => Meaning::Directory,
    }
}

/// Where the paths of a location's files begin: the directory itself, that of the one file, or what of a pattern is no
/// pattern yet.
pub(super) fn directory(location: &str) -> PathBuf {
    let parent = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    match meaning(location) {
        Meaning::Directory => location.into(),
        Meaning::File => parent(Path::new(location)),
        Meaning::Pattern => {
            let fixed = &location[..location.find(['*', '?', '[']).unwrap_or(location.len())];
            fixed.rfind('/').map_or_else(PathBuf::new, |end| fixed[..=end].into())
        }
    }
}

/// The lines that name a location's files, in the order of their paths.
pub(super) fn lines(location: &str, stop: &dyn Fn() -> bool) -> Result<Vec<u8>, Fault> {
    let mut names = Vec::new();
    match meaning(location) {
        Meaning::Directory => walk(Path::new(location), "", &mut names, stop)?,
        Meaning::File => names.extend(Path::new(location).file_name().map(|name| name.to_string_lossy().into_owned())),
        Meaning::Pattern => matches(location, &mut names, stop)?,
    }
    names.sort_unstable();
    let mut lines = Vec::new();
    for name in &names {
        serde_json::to_writer(&mut lines, &Listed { id: name, media: name }).expect("memory takes all");
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Lists what is below `directory`, whose path within the input is `prefix`.
fn walk(directory: &Path, prefix: &str, names: &mut Vec<String>, stop: &dyn Fn() -> bool) -> Result<(), Fault> {
    if stop() {
        return Err(Fault::Stopped);
    }
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(directory, &error))? {
        let entry = entry.map_err(|error| unreadable(directory, &error))?;
        let file_name = entry.file_name();
        let name = file_name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), &error))?;
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), names, stop)?;
        } else if is_media(&name) && (kind.is_file() || leads_to_file(&entry.path())) {
            names.push(path);
        }
    }
    Ok(())
}

/// Whether a link leads to a file; one that leads nowhere is listed, so that its row says so.
fn leads_to_file(path: &Path) -> bool {
    path.is_symlink() && std::fs::metadata(path).map_or(true, |there| there.is_file())
}

fn is_media(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

fn matches(pattern: &str, names: &mut Vec<String>, stop: &dyn Fn() -> bool) -> Result<(), Fault> {
    let directory = directory(pattern);
    let found = glob::glob_with(pattern, MATCHING);
    for path in found.map_err(|error| Fault::Broken(format!("input {pattern:?}: is no pattern: {error}")))? {
        if stop() {
            return Err(Fault::Stopped);
        }
        let path = path.map_err(|error| unreadable(error.path(), error.error()))?;
        if path.is_file() {
            let below = path.strip_prefix(&directory).unwrap_or(&path);
            names.push(below.to_string_lossy().into_owned());
        }
    }
    match names.is_empty() {
        true => Err(Fault::Broken(format!("input {pattern:?}: matches no file"))),
        false => Ok(()),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::Broken(format!("input {}: cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "x").expect("written");
        }
        folder
    }

    fn listed(location: &str) -> Vec<String> {
        let lines = String::from_utf8(lines(location, &|| false).expect("listed")).expect("text");
        let media = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["id"], line["media"]);
            line["media"].as_str().expect("a path").to_string()
        };
        lines.lines().map(media).collect()
    }

    #[test]
    fn a_directory_means_all_media_below_it_in_the_order_of_their_paths() {
        let names =
            ["b.gif", "a/z.PNG", "a/b/c.mp4", "a.jpg", ".hidden/x.gif", ".x.gif", "notes.txt", "gif", "a b \"c\".webp"];
        let folder = tree(&names);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("linked");
        std::os::unix::fs::symlink("b.gif", folder.path().join("link.gif")).expect("linked");
        std::os::unix::fs::symlink("nowhere", folder.path().join("nowhere.gif")).expect("linked");
        let location = folder.path().to_str().expect("UTF-8");
        let expected = ["a b \"c\".webp", "a.jpg", "a/b/c.mp4", "a/z.PNG", "b.gif", "link.gif", "nowhere.gif"];
        assert_eq!(listed(location), expected);
        assert_eq!(listed(&format!("{location}/b.gif")), ["b.gif"], "a single file");
        assert_eq!(directory(&format!("{location}/b.gif")), folder.path());
        assert_eq!(lines(location, &|| true), Err(Fault::Stopped));
    }

    #[test]
    fn a_pattern_means_every_file_that_it_matches() {
        let folder = tree(&["b.gif", "a/z.dat", "a/b/c.dat", ".x.gif", "[x].gif", "a/y.gif"]);
        let location = |pattern: &str| format!("{}/{pattern}", folder.path().display());
        for (pattern, expected) in [
            ("*.gif", &["[x].gif", "b.gif"][..]),
            ("**/*.dat", &["a/b/c.dat", "a/z.dat"]),
            ("a/*", &["y.gif", "z.dat"]),
            ("[x].gif", &["[x].gif"]),
            ("[ab].gif", &["b.gif"]),
        ] {
            assert_eq!(listed(&location(pattern)), expected, "{pattern}");
        }
        assert_eq!(directory(&location("a/*")), folder.path().join("a"));
        for (pattern, problem) in [("*.mov", "matches no file"), ("***", "is no pattern")] {
            let fault = lines(&location(pattern), &|| false).expect_err(pattern).to_string();
            assert!(fault.contains(problem), "{fault}");
        }
        let nowhere = lines(&location("nowhere"), &|| false).expect_err("it is not there").to_string();
        assert!(nowhere.contains("nowhere: cannot be read: "), "{nowhere}");
    }

    #[test]
    fn a_name_that_is_no_text_is_listed_all_the_same() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tree(&[]);
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"a\xFF.gif")), "x").expect("written");
        assert_eq!(listed(folder.path().to_str().expect("UTF-8")), ["a\u{FFFD}.gif"]);
    }
}
