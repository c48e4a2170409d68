//! A folder of pictures as a stream: one frame a file, in the order in which people count.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::feed::Filler;
use super::pace::Verdict;
use super::{Reading, natural};
use crate::cli::read_media;
use crate::engine::MediaFrame;

/// Endings of the files that are frames; others are stepped over.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];
/// Files of a folder that are frames.
const FILES_MAX: usize = 1 << 20;
/// The file that tells of a generated stream how fast it is.
const ANNOTATIONS: &str = "annotations.jsonl";
/// The most that is read of it, bytes; of a longer one nothing is learnt.
const ANNOTATION_BYTES_MAX: u64 = 16 << 20;

/// Reads all of it. Frame `n` is shown at `n` seconds over `fps`, which the folder's annotations may tell instead.
pub(super) fn read(folder: &Path, filler: &Filler, reading: &Reading) -> anyhow::Result<()> {
    let names = names(folder).with_context(|| folder.display().to_string())?;
    ensure!(!names.is_empty(), "{}: has no file that ends in {}", folder.display(), ENDINGS.join(", "));
    let fps = own_fps(&folder.join(ANNOTATIONS), names.len()).unwrap_or(reading.fps);
    let mut ticks = reading.ticks();
    for (at, name) in names.iter().enumerate() {
        let pts_ms = (at as f64 * 1000.0 / fps).round() as u64;
        match ticks.judge(pts_ms) {
            Verdict::Take => {}
            Verdict::Skip => continue,
            Verdict::End => break,
        }
        let file = folder.join(name);
        // Of the size that a picture in a message may have: it travels as it is.
        let bytes = read_media(&file, reading.picture_bytes_max as u64).with_context(|| file.display().to_string())?;
        if !filler.push(MediaFrame::Encoded { bytes, pts_ms }) {
            break;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Files that begin with a dot are not meant to be seen.
        if ENDINGS.contains(&&*ending) && !name.starts_with('.') && path.is_file() {
            ensure!(names.len() < FILES_MAX, "has over {FILES_MAX} pictures, at most {FILES_MAX} are allowed");
            names.push(name.to_owned());
        }
    }
    names.sort_by(|a, b| natural::compare(a, b));
    Ok(names)
}

/// Frames a second of a generated stream: as a line of its annotations says, or by how long all of it is.
fn own_fps(file: &Path, frames: usize) -> Option<f64> {
    let mut lines = String::new();
    File::open(file).ok()?.take(ANNOTATION_BYTES_MAX).read_to_string(&mut lines).ok()?;
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = lines.iter().find_map(|line| line.get("fps")?.as_f64());
    let end_ms = lines.iter().filter_map(|line| line.get("end_ms")?.as_f64()).fold(0.0, f64::max);
    said.or((end_ms > 0.0).then(|| frames as f64 * 1000.0 / end_ms)).filter(|fps| super::pace::FPS.contains(fps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["f10.png", "f9.PNG", ".f1.png", "notes.txt", "f2.jpeg"] {
            std::fs::write(folder.path().join(name), "x").expect("a file");
        }
        std::fs::create_dir(folder.path().join("f3.png")).expect("a folder");
        assert_eq!(names(folder.path()).expect("readable"), ["f2.jpeg", "f9.PNG", "f10.png"]);
    }

    #[test]
    fn annotations_tell_the_pace() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let fps = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            own_fps(file.path(), 80)
        };
        assert_eq!(fps("{\"start_ms\": 0, \"end_ms\": 4000}\nx\n{\"end_ms\": 20000}\n"), Some(4.0));
        assert_eq!(fps("{\"fps\": 8.0}\n{\"end_ms\": 20000}\n"), Some(8.0));
        for unfit in ["", "[]", "{\"fps\": 0}", "{\"fps\": 1e9}", "{\"end_ms\": -3}", "{\"end_ms\": 1}"] {
            assert_eq!(fps(unfit), None, "{unfit}");
        }
        assert_eq!(own_fps(Path::new("/nowhere"), 80), None);
    }
}
