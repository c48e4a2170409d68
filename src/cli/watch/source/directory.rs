//! A folder of pictures as a stream: one frame a file, in the order in which people count.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
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
/// What of it is read to learn that, bytes.
const ANNOTATION_BYTES_MAX: u64 = 1 << 16;

/// Reads all of it. Frame `n` is shown at `n` seconds over `fps`, which the folder's annotations may tell instead.
pub(super) fn read(folder: &Path, filler: &Filler, reading: &Reading) -> anyhow::Result<()> {
    let names = names(folder).with_context(|| folder.display().to_string())?;
    ensure!(!names.is_empty(), "{}: has no file that ends in {}", folder.display(), ENDINGS.join(", "));
    let own = own_fps(&folder.join(ANNOTATIONS));
    let fps = own.unwrap_or(reading.fps);
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

/// Frames a second, if the first line of the annotations says so.
fn own_fps(file: &Path) -> Option<f64> {
    let mut line = String::new();
    BufReader::new(File::open(file).ok()?.take(ANNOTATION_BYTES_MAX)).read_line(&mut line).ok()?;
    let fps = serde_json::from_str::<Value>(&line).ok()?.get("fps")?.as_f64()?;
    super::pace::FPS.contains(&fps).then_some(fps)
}
