//! Any cutting gives the same rows, and what has changed since it was cut is found out.

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::Code;
use crate::jobs::{Item, MediaPlace, Output, Vectors};

/// A job of such an input, with a question for all and 8 dimensions.
pub fn spec(kind: InputKind, location: &str) -> Spec {
    let vectors = Vectors { dimensions: Some(8), ..Vectors::default() };
    Spec { question: Some("what?".into()), vectors, ..Spec::new(Input::new(location, kind), Output::new("unused")) }
}

/// An input in a folder of its own, and an output beside it.
pub struct Place {
    folder: TempDir,
    pub spec: Spec,
    pub settings: Settings,
}

impl Place {
    pub fn new(kind: InputKind, name: &str, content: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        let spec = spec(kind, path.to_str().expect("UTF-8"));
        Self { folder, spec, settings: Settings::default() }
    }

    pub fn files(&self) -> Files {
        let output = self.folder.path().join("out");
        Files::open(output.to_str().expect("UTF-8"), &self.settings.objects).expect("a directory")
    }

    pub fn input(&self) -> &Path {
        Path::new(&self.spec.input.location)
    }

    pub fn plan(&self) -> Result<(Vec<Shard>, u64), Fault> {
        plan(&self.spec, &self.files(), &self.settings, &|| false)
    }

    pub fn read(&self, shard: &Shard) -> Result<Vec<Row>, Fault> {
        rows(&self.spec, shard, &self.files(), &self.settings)?.collect()
    }

    /// Cuts the input so and reads all of it.
    pub fn read_all(&mut self, rows_a_part: u64) -> Vec<Row> {
        self.spec.output.rows_a_part = rows_a_part;
        let (shards, rows) = self.plan().expect("a plan");
        assert_eq!(shards.iter().map(|shard| shard.rows).sum::<u64>(), rows);
        let mut next = 0;
        for (index, shard) in (0..).zip(&shards) {
            assert_eq!((shard.index, shard.first_row), (index, next));
            assert!(shard.rows == rows_a_part || shard.rows < rows_a_part && index as usize == shards.len() - 1);
            next += shard.rows;
        }
        shards.iter().flat_map(|shard| self.read(shard).expect("rows")).collect()
    }
}

fn texts(rows: &[Row]) -> Vec<(u64, &str)> {
    let text = |row: &'_ Row| match &row.item {
        Ok(Item::Text(_)) => "",
        _ => "no text",
    };
    let shown = rows.iter().map(|row| match &row.item {
        Ok(Item::Text(words)) => (row.number, words.as_str()),
        _ => (row.number, text(row)),
    });
    shown.collect()
}

#[test]
fn lines_end_in_every_way_and_keep_their_numbers() {
    let all = ["{\"text\":\"a\"}", "", " ", "{\"text\":\"b\"}", "broken", "{\"text\":\"c\"}"];
    let expected = [(0, "a"), (3, "b"), (4, "no text"), (5, "c")];
    for feed in ["\n", "\r\n"] {
        for (start, end) in [("", ""), ("\u{FEFF}", ""), ("", feed)] {
            let content = format!("{start}{}{end}", all.join(feed));
            let mut place = Place::new(InputKind::Jsonl, "in.jsonl", content.as_bytes());
            for rows_a_part in [1, 2, 3, 6, 100] {
                let rows = place.read_all(rows_a_part);
                assert_eq!(texts(&rows), expected, "{content:?} by {rows_a_part}");
            }
        }
    }
    for (content, shards, rows) in [("", 0, 0), ("\n", 1, 1), ("\n\n\n", 2, 3), ("\u{FEFF}", 1, 1), ("x", 1, 1)] {
        let mut place = Place::new(InputKind::Jsonl, "in.jsonl", content.as_bytes());
        place.spec.output.rows_a_part = 2;
        let planned = place.plan().expect("a plan");
        assert_eq!((planned.0.len(), planned.1), (shards, rows), "{content:?}");
        assert_eq!(place.read_all(2).len(), usize::from(content == "x"), "{content:?}");
    }
}

#[test]
fn a_line_that_is_too_long_fails_alone_and_is_not_held() {
    let long = "x".repeat(1 << 20);
    let content = format!("{{\"text\":\"a\"}}\n{{\"text\":\"{long}\"}}\n{{\"text\":\"b\"}}\n{long}");
    let mut place = Place::new(InputKind::Jsonl, "in.jsonl", content.as_bytes());
    place.settings.jobs.line_bytes_max = 1024;
    let rows = place.read_all(10);
    assert_eq!(texts(&rows), [(0, "a"), (1, "no text"), (2, "b"), (3, "no text")]);
    let message = |row: &Row| row.item.clone().expect_err("too long").message;
    assert_eq!(message(&rows[1]), "line: has 1048587 bytes, at most 1024");
    assert_eq!(message(&rows[3]), "line: has 1048576 bytes, at most 1024");

    let exactly = format!("{{\"text\":\"{}\"}}", "y".repeat(1024 - 11));
    assert_eq!(exactly.len(), 1024);
    let mut place = Place::new(InputKind::Jsonl, "in.jsonl", exactly.as_bytes());
    place.settings.jobs.line_bytes_max = 1024;
    assert!(place.read_all(1)[0].item.is_ok());
}

#[test]
fn an_input_that_has_changed_names_the_shard_and_the_difference() {
    let content = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n";
    let mut place = Place::new(InputKind::Jsonl, "in.jsonl", content.as_bytes());
    place.spec.output.rows_a_part = 1;
    let (shards, _) = place.plan().expect("a plan");
    let fault = |content: Option<&str>, shard: usize| {
        match content {
            Some(content) => std::fs::write(place.input(), content).expect("written"),
            None => std::fs::remove_file(place.input()).expect("removed"),
        }
        match place.read(&shards[shard]) {
            Ok(_) => String::new(),
            Err(Fault::Broken(told)) => told,
            Err(other) => panic!("{other}"),
        }
    };
    let name = place.input().display().to_string();
    let other = content.replace('b', "x");
    assert_eq!(fault(Some(&other), 0), "");
    let changed = fault(Some(&other), 1);
    let expected = format!("shard 1: input {name}: has changed since it was planned, bytes 13 to 26: SHA-256 was ");
    assert!(changed.starts_with(&expected), "{changed}");
    assert!(fault(Some(&content[..30]), 2).ends_with("bytes 26 to 39: it had 39 bytes at least, it has 30"));
    assert_eq!(fault(Some(&format!("{content}more")), 2), "", "what is added is no part of the plan");
    assert!(fault(None, 0).starts_with(&format!("shard 0: input {name}: cannot be read: No such file")));
    let gone = place.plan().expect_err("it is gone").to_string();
    assert!(gone.starts_with(&format!("input {name}: cannot be read: No such file")), "{gone}");
    std::fs::create_dir(place.input()).expect("made");
    let folder = place.plan().expect_err("a folder").to_string();
    assert!(folder.contains("cannot be read"), "{folder}");
}

#[test]
fn planning_stops_when_asked_and_keeps_the_bound_of_shards() {
    let mut place = Place::new(InputKind::Jsonl, "in.jsonl", "x\n".repeat(11).as_bytes());
    let stopped = plan(&place.spec, &place.files(), &place.settings, &|| true);
    assert_eq!(stopped, Err(Fault::Stopped));
    place.settings.jobs.shards_max = 3;
    for (rows_a_part, fits) in [(4, true), (3, false), (1, false)] {
        place.spec.output.rows_a_part = rows_a_part;
        match place.plan() {
            Ok((shards, rows)) => assert!(fits && shards.len() == 3 && rows == 11, "{rows_a_part}"),
            Err(fault) => {
                let bound = format!("has more than 3 shards of {rows_a_part} rows: output.rows_a_part must be larger");
                assert!(!fits && fault.to_string().ends_with(&bound), "{fault}");
            }
        }
    }
}

#[test]
fn a_list_of_media_is_made_once_and_read_like_lines() {
    let mut place = Place::new(InputKind::Files, "a.gif", b"x");
    let folder = place.input().parent().expect("a folder").to_owned();
    for name in ["c.png", "b.jpg", "no.txt"] {
        std::fs::write(folder.join(name), "x").expect("written");
    }
    place.spec.input.location = folder.to_str().expect("UTF-8").into();
    let media = |rows: &[Row]| -> Vec<(String, PathBuf)> {
        let place = |row: &Row| match &row.item {
            Ok(Item::Media { place: MediaPlace::File(path), question: None }) => path.clone(),
            other => panic!("{other:?}"),
        };
        rows.iter().map(|row| (row.id.clone(), place(row))).collect()
    };
    let expected = ["a.gif", "b.jpg", "c.png"].map(|name| (name.to_string(), folder.join(name)));
    assert_eq!(media(&place.read_all(2)), expected);
    let planned = place.plan();
    std::fs::write(folder.join("aa.gif"), "x").expect("written");
    assert_eq!(place.plan(), planned, "whoever plans again plans the same");
    assert_eq!(media(&place.read_all(1)), expected);

    let listed = std::fs::read_to_string(folder.join("out/_input.jsonl")).expect("listed");
    std::fs::write(folder.join("out/_input.jsonl"), listed.replace("b.jpg", "d.jpg")).expect("written");
    let fault = place.read(&planned.expect("a plan").0[0]).expect_err("changed").to_string();
    assert!(fault.starts_with("shard 0: ") && fault.contains("out/_input.jsonl: has changed since"), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_of_any_lines_gives_the_same_rows(
        lines in prop::collection::vec(prop_oneof![
            "[ \\r]{0,2}", "\\PC{0,20}", "[a-z]{0,9}".prop_map(|text| format!("{{\"text\": \"{text}\"}}")),
        ], 0..40),
        rows_a_part in 1..12u64,
        ended in any::<bool>(),
    ) {
        let content = lines.join("\n") + if ended { "\n" } else { "" };
        let mut place = Place::new(InputKind::Jsonl, "in.jsonl", content.as_bytes());
        place.settings.jobs.line_bytes_max = 30;
        let whole = place.read_all(u64::MAX);
        prop_assert_eq!(&place.read_all(rows_a_part), &whole);
        let expected = lines.iter().filter(|line| !line.trim_ascii().is_empty()).count();
        prop_assert_eq!(whole.len(), expected);
        for row in whole {
            match row.item {
                Ok(item) => prop_assert!(matches!(item, Item::Text(_)), "{item:?}"),
                Err(failure) => prop_assert_eq!(failure.code, Code::InvalidArgument),
            }
        }
    }
}
