//! Where clients' inputs and outputs may lie: below one directory, links followed, or below URLs that are allowed. Apart
//! from the other conversions because it looks at the disk: off the async threads.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::engine::{EngineError, shortened};
use crate::service::convert::{Checked, invalid};
use crate::settings::Settings;

const BYTES_MAX: usize = 1024;
/// What makes a path a pattern.
const WILD: [char; 3] = ['*', '?', '['];

/// What settings say about locations; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::service) struct Grounds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As it was set.
    root: Option<PathBuf>,
    /// The same with links followed, as it was when the server began; for telling locations.
    canonical: Option<PathBuf>,
    /// The store of jobs, which is no place for anything else.
    store: Option<PathBuf>,
    urls: Vec<String>,
}

impl Grounds {
    /// Those of `settings`.
    pub fn new(settings: &Settings) -> Self {
        let jobs = &settings.jobs;
        let canonical = |directory: &Option<PathBuf>| directory.as_ref()?.canonicalize().ok();
        let urls = jobs.urls.as_deref().unwrap_or_default().split(',').map(|url| url.trim().trim_end_matches('/'));
        Self(Arc::new(Inner {
            root: jobs.root.clone(),
            canonical: canonical(&jobs.root),
            store: canonical(&jobs.directory),
            urls: urls.filter(|url| !url.is_empty()).map(str::to_owned).collect(),
        }))
    }

    /// The whole paths of an input and an output, which clients give relative to the root. Blocks.
    pub fn find(&self, input: &str, output: &str) -> Checked<(String, String)> {
        let root = self.0.root.as_ref().ok_or_else(|| {
            unfit("jobs.root", "is not set (vljepa serve --jobs-root DIR): clients may make no jobs".into())
        })?;
        let root = root.canonicalize().map_err(|error| unfit("jobs.root", error.to_string()))?;
        let input = self.input(&root, input).map_err(|problem| invalid("spec.input.location", problem))?;
        let output = self.output(&root, output).map_err(|problem| invalid("spec.output.location", problem))?;
        Ok((input, output))
    }

    /// A location as clients know it.
    pub fn told(&self, location: &str) -> String {
        let below = |root| Path::new(location).strip_prefix(root).ok()?.to_str();
        self.0.canonical.as_ref().and_then(below).unwrap_or(location).to_owned()
    }

    fn input(&self, root: &Path, location: &str) -> Result<String, String> {
        let path = relative(location)?;
        // A pattern is looked at up to where it begins to be one.
        let plain: PathBuf = path.components().take_while(|part| !wild(part)).collect();
        let pattern: PathBuf = path.components().skip_while(|part| !wild(part)).collect();
        let found = below(root, &plain, location)?;
        match (found.exists(), pattern.as_os_str().is_empty()) {
            (false, _) => Err(format!("is {:?}, which is not there", shortened(location))),
            (true, true) => self.apart(found, location),
            (true, false) => self.apart(found, location).map(|found| format!("{found}/{}", pattern.display())),
        }
    }

    fn output(&self, root: &Path, location: &str) -> Result<String, String> {
        if location.contains("://") {
            return self.url(location);
        }
        let found = below(root, &relative(location)?, location)?;
        match found.exists() && !found.is_dir() {
            true => Err(format!("is {:?}, which is no directory", shortened(location))),
            false => self.apart(found, location),
        }
    }

    fn url(&self, location: &str) -> Result<String, String> {
        checked(location)?;
        let told = shortened(location);
        // What an URL's reader would fold, cut off or unescape must not get around the comparison.
        let folded = location.to_ascii_lowercase();
        if ["..", "%", "?", "#", "\\", "@"].iter().any(|part| folded.contains(part)) {
            return Err(format!("is {told:?}, a URL may not have \"..\", \"%\", \"?\", \"#\", \"\\\" or \"@\""));
        }
        let within = |url: &String| location.strip_prefix(&**url).is_some_and(|rest| rest.starts_with('/'));
        match self.0.urls.iter().any(within) {
            true => Ok(location.to_owned()),
            false if self.0.urls.is_empty() => Err(format!("is {told:?}: jobs.urls is not set, no URL is allowed")),
            false => Err(format!("is {told:?}, must be below one of jobs.urls: {}", self.0.urls.join(", "))),
        }
    }

    /// `found`, unless it lies in the store of jobs.
    fn apart(&self, found: PathBuf, location: &str) -> Result<String, String> {
        let told = shortened(location);
        if self.0.store.as_ref().is_some_and(|store| found.starts_with(store)) {
            return Err(format!("is {told:?}, which belongs to jobs.directory"));
        }
        found.into_os_string().into_string().map_err(|_| format!("is {told:?}, whose whole path is no UTF-8"))
    }
}

fn wild(part: &Component) -> bool {
    part.as_os_str().to_string_lossy().contains(WILD)
}

/// What no location can be, whatever the disk holds.
pub(super) fn checked(location: &str) -> Result<(), String> {
    match location.len() {
        0 => Err("is empty".into()),
        bytes if bytes > BYTES_MAX => Err(format!("is {bytes} bytes, at most {BYTES_MAX}")),
        _ if location.chars().any(char::is_control) => Err("has control characters".into()),
        _ => Ok(()),
    }
}

fn relative(location: &str) -> Result<PathBuf, String> {
    checked(location)?;
    let path = PathBuf::from(location);
    match path.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(path),
        false => Err(format!("is {:?}, must be a relative path without \"..\"", shortened(location))),
    }
}

/// The whole path of what lies, or would lie, at `path` below `root`, links followed.
fn below(root: &Path, path: &Path, location: &str) -> Result<PathBuf, String> {
    let told = shortened(location);
    let (mut there, mut missing) = (root.join(path), Vec::new());
    let found = loop {
        match there.canonicalize() {
            Ok(found) => break found,
            // What is made through such a link would lie wherever it leads.
            Err(_) if there.is_symlink() => return Err(format!("is {told:?}, in it is a link that leads nowhere")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing.push(there.file_name().ok_or("is no path")?.to_owned());
                there.pop();
            }
            Err(error) => return Err(format!("is {told:?}: {error}")),
        }
    };
    if !found.starts_with(root) {
        return Err(format!("is {told:?}, which leads out of jobs.root"));
    }
    Ok(missing.into_iter().rev().fold(found, |found, part| found.join(part)))
}

fn unfit(subject: &str, problem: String) -> EngineError {
    EngineError::Unfit { subject: subject.into(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A root with a file, folders, links, and a store within.
    fn ground(urls: Option<&str>) -> (tempfile::TempDir, tempfile::TempDir, Grounds) {
        let (root, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("in/deep")).expect("a folder");
        std::fs::create_dir_all(at("store")).expect("a folder");
        std::fs::write(at("in/rows.jsonl"), "{}").expect("written");
        symlink(outside.path(), at("out")).expect("a link");
        symlink("/no/such/place", at("nowhere")).expect("a link");
        symlink(at("in"), at("inner")).expect("a link");
        let mut settings = Settings::default();
        settings.jobs.root = Some(root.path().into());
        settings.jobs.directory = Some(at("store"));
        settings.jobs.urls = urls.map(str::to_owned);
        (root, outside, Grounds::new(&settings))
    }

    fn problem(outcome: Checked<(String, String)>) -> String {
        outcome.expect_err("refused").to_string()
    }

    #[test]
    fn what_lies_below_the_root_is_found_and_told_as_it_was_asked_for() {
        let (root, _outside, grounds) = ground(None);
        let whole = |name: &str| format!("{}/{name}", root.path().canonicalize().expect("there").display());
        for (input, output, found) in [
            ("in", "new", ("in", "new")),
            ("in/rows.jsonl", "in/deep/a/b", ("in/rows.jsonl", "in/deep/a/b")),
            ("in/*.png", "in/deep", ("in/*.png", "in/deep")),
            ("in/**/x?.gif", "inner/new", ("in/**/x?.gif", "in/new")),
            ("*.png", "x", ("*.png", "x")),
            ("inner/rows.jsonl", "a[1]", ("in/rows.jsonl", "a[1]")),
        ] {
            let (input, output) = grounds.find(input, output).expect(input);
            let expected = (whole(found.0), whole(found.1));
            assert_eq!((&*input, &*output), (&*expected.0, &*expected.1));
            assert_eq!((&*grounds.told(&input), &*grounds.told(&output)), found);
        }
    }

    #[test]
    fn what_does_not_lie_below_the_root_is_refused() {
        let (_root, outside, grounds) = ground(None);
        let outside = outside.path().to_str().expect("UTF-8");
        let long = "x".repeat(BYTES_MAX + 1);
        for (wrong, told) in [
            ("", "is empty"),
            (&*long, "is 1025 bytes, at most 1024"),
            ("a\u{7}b", "has control characters"),
            ("a\0b", "has control characters"),
            ("../x", "must be a relative path without \"..\""),
            ("in/../../x", "must be a relative path without \"..\""),
            (outside, "must be a relative path without \"..\""),
            ("out", "leads out of jobs.root"),
            ("out/x/y", "leads out of jobs.root"),
            ("nowhere", "in it is a link that leads nowhere"),
            ("nowhere/x", "in it is a link that leads nowhere"),
            ("store/x", "belongs to jobs.directory"),
        ] {
            let output = problem(grounds.find("in", wrong));
            assert!(output.starts_with("spec.output.location: ") && output.ends_with(told), "{wrong}: {output}");
            let input = problem(grounds.find(wrong, "new"));
            let there = ["store/x"].contains(&wrong);
            assert!(input.starts_with("spec.input.location: ") && (there || input.ends_with(told)), "{wrong}: {input}");
        }
        for wrong in ["nothing", "nothing/*.png", "in/rows.jsonl/x", "store/*"] {
            let told = problem(grounds.find(wrong, "new"));
            assert!(told.starts_with("spec.input.location: is "), "{wrong}: {told}");
        }
        assert!(problem(grounds.find("in", "in/rows.jsonl")).ends_with("which is no directory"));
        assert!(problem(Grounds::new(&Settings::default()).find("in", "out")).starts_with("jobs.root: is not set"));
    }

    #[test]
    fn a_url_must_be_below_one_that_is_allowed() {
        let (_root, _outside, grounds) = ground(Some("s3://bucket/jobs/, gs://other"));
        for good in ["s3://bucket/jobs/a", "s3://bucket/jobs/a/b", "gs://other/x"] {
            assert_eq!(grounds.find("in", good).expect(good).1, good);
            assert_eq!(grounds.told(good), good);
        }
        for wrong in [
            "s3://bucket/jobs",
            "s3://bucket/jobs2/a",
            "s3://bucket/jobs/../a",
            "s3://bucket/jobs/%2e%2e/a",
            "s3://bucket/jobs/a?x=1",
            "s3://user@bucket/jobs/a",
            "file:///etc",
            "memory:///x",
        ] {
            assert!(problem(grounds.find("in", wrong)).starts_with("spec.output.location: is "), "{wrong}");
        }
        assert!(problem(grounds.find("s3://bucket/jobs/a", "new")).starts_with("spec.input.location: is "));
        let (_root, _outside, none) = ground(None);
        assert!(problem(none.find("in", "s3://bucket/jobs/a")).ends_with("jobs.urls is not set, no URL is allowed"));
    }
}
