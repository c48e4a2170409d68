//! The shape of the house, read from its source: every arrow points down, every outside library stays on its
//! floors, and the dangerous words stand only where they may.

use std::fs;
use std::path::Path;

/// Rooms and their floors; a room uses rooms of lower floors only.
const FLOORS: &[(&str, u8)] = &[
    ("main", 9),
    ("lib", 9),
    ("cli", 8),
    ("service", 7),
    ("jobs", 6),
    ("watch", 6),
    ("engine", 5),
    ("train", 4),
    ("model", 3),
    ("nn", 2),
    ("kernel", 1),
    ("input", 1),
    ("allocator", 1),
    ("embedding", 1),
    ("segment", 1),
    ("settings", 1),
];

/// Pairs that do not know each other although their floors would allow it.
const STRANGERS: &[(&str, &str)] = &[("engine", "train")];

/// What may be named where; a place is a room, a folder or a file.
const PLACES: &[(&[&str], &[&str])] = &[
    (&["candle_core", "candle_nn"], &["nn", "model", "train"]),
    (&["rayon", "gemm", "std::arch", "core::arch"], &["kernel"]),
    (&["image", "fast_image_resize", "tokenizers"], &["input"]),
    (
        &["tonic", "tonic_prost", "tonic_health", "tonic_reflection", "tonic_types"],
        &["service", "cli/client.rs", "cli/client", "cli/bench/load"],
    ),
    (&["prost_types"], &["service", "cli/job/standing.rs"]),
    (&["prost", "tower", "tower_http", "tonic_web", "http", "http_body", "bytes"], &["service"]),
    (&["tokio", "tokio_stream"], &["jobs", "watch", "engine", "service", "cli"]),
    (&["redb"], &["jobs/store"]),
    (&["parquet", "arrow_array", "arrow_schema"], &["jobs/parts", "jobs/inputs"]),
    (&["object_store"], &["jobs/files"]),
    (&["async_nats"], &["jobs/cluster"]),
    (&["openh264"], &["input/video"]),
    (&["metrics"], &["engine", "jobs", "watch", "service"]),
    (&["metrics_exporter_prometheus", "opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"], &["service"]),
    (&["hyper", "hyper_util", "tokio_rustls", "subtle"], &["service"]),
    (&["toml"], &["settings", "service/keys.rs", "service/keys"]),
    (&["clap", "indicatif", "tracing_subscriber", "hdrhistogram"], &["cli"]),
    (&["embedded_graphics"], &["cli/chart.rs", "cli/chart"]),
    (&["memmap2"], &["nn/weights/checkpoint.rs"]),
    (&["tikv_jemallocator"], &["allocator.rs"]),
    (&["unsafe"], &["kernel", "nn/weights/checkpoint.rs", "allocator.rs"]),
    (&["env::var", "env::var_os", "env::vars", "env::vars_os", "option_env"], &["settings"]),
];

/// The code alone: comments, strings and characters are blanked.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word_before = code.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if !word_before && raw_hashes(rest).is_some() => {
                let close = format!("\"{}", "#".repeat(raw_hashes(rest).expect("just seen")));
                let open = close.len() + 1;
                rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
            }
            '\'' => character_length(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            // Lines stay apart, words too.
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|&kept| kept == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

fn raw_hashes(text: &str) -> Option<usize> {
    let after = &text[1..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text[1..].find(|next| {
        let closes = next == '"' && !escaped;
        escaped = next == '\\' && !escaped;
        closes
    });
    end.map_or(text.len(), |end| end + 2)
}

/// 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Every place where `name` stands as a whole path of its own, not as the end of a longer one.
fn uses<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |&at| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let bounded = !before.ends_with(is_word) && !after.starts_with(is_word);
        let library = name.chars().all(|part| part.is_lowercase() || part == '_' || part.is_numeric());
        let keyword = name == "unsafe" || name == "option_env";
        let path = !before.ends_with("::") && (after.starts_with("::") || before.ends_with("use "));
        bounded && (!library || keyword || path)
    })
}

/// The rooms that follow each `crate::`, also within braces.
fn rooms_used(code: &str) -> Vec<(usize, String)> {
    let mut rooms = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let path = &code[at + found.len()..];
        let mut depth = 0;
        let mut start = true;
        for (offset, character) in path.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => {}
                character if is_word(character) => {
                    if start && depth <= 1 {
                        rooms.push((at, path[offset..].chars().take_while(|&part| is_word(part)).collect()));
                    }
                    start = false;
                    continue;
                }
                character if character.is_whitespace() => continue,
                _ => {}
            }
            start = depth == 1 && matches!(character, '{' | ',');
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// What is wrong with one file, `path` counted from src/.
fn faults(path: &str, source: &str) -> Vec<String> {
    let room = path.split(['/', '.']).next().unwrap_or_default();
    let Some(own) = floor(room) else { return vec![format!("{path}: room {room} has no floor")] };
    let code = code_of(source);
    let line = |at: usize| code[..at].matches('\n').count() + 1;
    let mut faults = Vec::new();
    for (at, other) in rooms_used(&code) {
        // What is no room is an item of lib.rs or a macro.
        let Some(below) = floor(&other) else { continue };
        let strangers = STRANGERS.contains(&(room, &*other)) || STRANGERS.contains(&(&*other, room));
        if other != room && (below >= own || strangers) {
            faults.push(format!("{path}:{}: {room} (floor {own}) uses {other} (floor {below})", line(at)));
        }
    }
    for (names, places) in PLACES {
        let within = |place: &str| path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
        let here = places.iter().any(|place| *place == room || *place == path || within(place));
        for name in names.iter().filter(|_| !here) {
            faults.extend(
                uses(&code, name).map(|at| format!("{path}:{}: {name} may stand only in {places:?}", line(at))),
            );
        }
    }
    faults
}

fn visit(directory: &Path, seen: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { visit(&path, seen) } else { seen(&path) }
    }
}

#[test]
fn every_arrow_points_down_and_every_library_stays_on_its_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut all) = (0, Vec::new());
    visit(&src, &mut |path| {
        let name = path.strip_prefix(&src).expect("within src").to_str().expect("a plain name");
        if name.ends_with(".rs") {
            files += 1;
            all.extend(faults(name, &fs::read_to_string(path).expect("readable")));
        }
    });
    assert!(files > 20, "only {files} files were read");
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
}

#[test]
fn faults_are_found() {
    for (path, source, wrong) in [
        ("nn/a.rs", "use crate::model::X;", true),
        ("nn/a.rs", "use crate::{kernel::X, model::{Y, Z}};", true),
        ("nn/a.rs", "use crate::{\n    kernel::{X, train},\n    settings,\n};", false),
        ("nn/a.rs", "use crate::kernel::X; // crate::model\n/* crate::cli */", false),
        ("nn/a.rs", "let text = \"crate::model \\\" crate::cli\"; let raw = r#\"crate::cli \"#;", false),
        ("nn/a.rs", "let c = '\"'; use crate::model::X;", true),
        ("nn/a.rs", "fn f<'a>(x: &'a str) { crate::engine::g(x) }", true),
        ("input/a.rs", "use crate::settings::X;", true),
        ("engine/a.rs", "use crate::train::X;", true),
        ("service/a.rs", "use crate::engine::Engine;", false),
        ("service/a.rs", "fn f(x: candle_core::Tensor) {}", true),
        ("train/a.rs", "use candle_core as candle;", false),
        ("model/a.rs", "rayon::join(a, b);", true),
        ("model/a.rs", "use std::arch::x86_64::*;", true),
        ("engine/a.rs", "use crate::input::image::decode_media;", false),
        ("engine/a.rs", "let x = image::open(y);", true),
        ("cli/a.rs", "use tonic::Status;", true),
        ("cli/client.rs", "use tonic::Status;", false),
        ("cli/client/jobs.rs", "use tonic::Status;", false),
        ("cli/bench/load/a.rs", "use tonic::Status;", false),
        ("cli/bench/loader.rs", "use tonic::Status;", true),
        ("model/a.rs", "let x = unsafe { y() };", true),
        ("model/a.rs", "#![deny(unsafe_op_in_unsafe_fn)] // unsafe", false),
        ("kernel/a.rs", "unsafe fn f() {}", false),
        ("cli/a.rs", "let x = std::env::var(\"X\");", true),
        ("cli/a.rs", "let x = env!(\"X\");", false),
        ("settings/layers.rs", "let x = std::env::var(\"X\");", false),
        ("attic/a.rs", "", true),
    ] {
        let found = faults(path, source);
        assert_eq!(!found.is_empty(), wrong, "{path}: {source}: {found:?}");
    }
}
