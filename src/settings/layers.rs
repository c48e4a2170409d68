//! The layers that settings come from, the lower first: defaults, a TOML file, the environment, flags. Every value of
//! every layer is judged, also one that a higher layer covers; each setting remembers the layer it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::kind::Raw;
use super::{Setting, Settings};

/// Names the settings file where no flag does.
const CONFIG: &str = "VLJEPA_CONFIG";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A setting that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Of the wrong type, or outside its bounds.
    #[error("{place} is {value}, must be {bounds}")]
    Value {
        /// Where it was given: variable, flag, or file, line and key.
        place: String,
        /// What was given.
        value: String,
        /// What may be given.
        bounds: String,
    },
    /// There is no such setting.
    #[error("{place}: no such setting{}", nearest.as_ref().map(|key| format!(", did you mean {key}?")).unwrap_or_default())]
    Unknown {
        /// Where it was given.
        place: String,
        /// The key or table that it resembles.
        nearest: Option<String>,
    },
    /// Not UTF-8.
    #[error("{variable} is not UTF-8")]
    NotText {
        /// Name of the variable.
        variable: &'static str,
    },
    /// A settings file that is not TOML in tables.
    #[error("{place}: {problem}; settings stand in tables, such as [queue]")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// A settings file that cannot be read.
    #[error("cannot read the settings file {}", .file.display())]
    File {
        /// Its path.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting that needs another one.
    #[error("{needed} is missing: {by} is of no use without it")]
    Alone {
        /// The one that is not set.
        needed: &'static str,
        /// The one that is.
        by: &'static str,
    },
}

/// The layer that a setting's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The settings file.
    File(PathBuf),
    /// This variable.
    Environment(&'static str),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(file) => write!(f, "file {}", file.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As it is told to a person, such as `--addr`.
    pub flag: String,
    /// Key of the setting.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Flag {
    /// A flag with a name of its own, if it was given.
    pub fn named(flag: &str, key: &str, value: Option<impl fmt::Display>) -> Option<Self> {
        value.map(|value| Self { flag: flag.into(), key: key.into(), value: value.to_string() })
    }

    /// A flag that names a file, if it was given.
    pub fn file(flag: &str, key: &str, file: Option<&Path>) -> Option<Self> {
        Self::named(flag, key, file.map(Path::display))
    }

    /// `--set KEY=VALUE`.
    pub fn set(pair: &str) -> Result<Self, SettingsError> {
        let Some((key, value)) = pair.split_once('=') else {
            let (place, bounds) = ("--set".into(), "KEY=VALUE, such as queue.items_max=512".into());
            return Err(SettingsError::Value { place, value: format!("{pair:?}"), bounds });
        };
        let key = key.trim();
        Ok(Self { flag: format!("--set {key}"), key: key.into(), value: value.into() })
    }
}

/// The layers above the defaults, the lower first.
pub struct Sources<'a> {
    /// Path and text of the settings file.
    pub file: Option<(&'a Path, &'a str)>,
    /// The environment: what a variable holds, if it is there.
    pub environment: &'a dyn Fn(&'static str) -> Result<Option<String>, SettingsError>,
    /// What the command line says; of two that say the same, the later one counts.
    pub flags: &'a [Flag],
}

/// Settings that are in effect, and where each comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    /// One a setting, in the order of [`Settings::list`].
    origins: Vec<Origin>,
}

/// One value that one layer gives.
struct Given {
    /// Which setting, by its place in the list.
    at: usize,
    raw: Raw,
    place: String,
    origin: Origin,
}

impl Effective {
    /// The settings of this process: the file is `config`, or what `VLJEPA_CONFIG` names, or none.
    pub fn load(config: Option<&Path>, flags: &[Flag]) -> Result<Self, SettingsError> {
        let named = variable(CONFIG)?.filter(|path| !path.trim().is_empty()).map(PathBuf::from);
        let path = config.map(Path::to_owned).or(named);
        let text = path.as_deref().map(text_of).transpose()?;
        Self::of(&Sources { file: path.as_deref().zip(text.as_deref()), environment: &variable, flags })
    }

    /// The defaults with `sources` laid over them; fails at the first value that cannot be meant.
    pub fn of(sources: &Sources) -> Result<Self, SettingsError> {
        let mut settings = Settings::default();
        let known = settings.list();
        let mut given = match sources.file {
            Some((path, text)) => from_file(path, text, &known)?,
            None => vec![],
        };
        given.extend(from_environment(sources.environment, &known)?);
        given.extend(from_flags(sources.flags, &known)?);
        let mut origins = vec![Origin::Default; known.len()];
        for Given { at, raw, place, origin } in given {
            let Setting { bounds, set, .. } = &known[at];
            if !bounds.value(&raw).is_some_and(|value| set(&mut settings, value)) {
                return Err(SettingsError::Value { place, value: raw.to_string(), bounds: bounds.to_string() });
            }
            origins[at] = origin;
        }
        settings.check()?;
        Ok(Self { settings, origins })
    }

    /// Every setting with the layer it comes from.
    pub fn list(&self) -> impl Iterator<Item = (Setting, &Origin)> {
        self.settings.list().into_iter().zip(&self.origins)
    }

    /// Where a person finds what set `key`: what a complaint about it should begin with.
    pub fn place(&self, key: &str) -> String {
        match self.list().find(|(setting, _)| setting.key() == key) {
            Some((_, Origin::File(file))) => format!("{}: {key}", file.display()),
            Some((_, Origin::Environment(variable))) => variable.to_string(),
            Some((_, Origin::Flag(flag))) => flag.clone(),
            _ => key.to_owned(),
        }
    }

    /// Variables of this process that look like ours and mean nothing, each with the one it resembles.
    pub fn misspelt() -> Vec<(String, &'static str)> {
        let known = Settings::default().list();
        let ours = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let ours = ours.filter(|name| name.starts_with("VLJEPA_") && name != CONFIG);
        let strange = ours.filter(|name| known.iter().all(|setting| setting.variable != name));
        let variables = || known.iter().map(|setting| setting.variable);
        strange.filter_map(|name| nearest(&name, variables()).map(|like| (name, like))).collect()
    }
}

fn variable(variable: &'static str) -> Result<Option<String>, SettingsError> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(SettingsError::NotText { variable }),
    }
}

fn text_of(file: &Path) -> Result<String, SettingsError> {
    use std::io::{Error, Read};
    let failed = |source| SettingsError::File { file: file.into(), source };
    let mut text = String::new();
    // Not by the size that the system tells: a device or a pipe tells none.
    let mut bytes = std::fs::File::open(file).map_err(failed)?.take(FILE_BYTES_MAX + 1);
    bytes.read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(failed(Error::other(format!("it has over {FILE_BYTES_MAX} bytes")))),
        false => Ok(text),
    }
}

fn from_file(path: &Path, text: &str, known: &[Setting]) -> Result<Vec<Given>, SettingsError> {
    type Tables = BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, toml::Value>>;
    let place = |offset: usize| format!("{}:{}", path.display(), 1 + text[..offset].matches('\n').count());
    let tables: Tables = toml::from_str(text).map_err(|error| {
        let place = place(error.span().map_or(0, |span| span.start));
        SettingsError::Syntax { place, problem: error.message().lines().collect::<Vec<_>>().join(", ") }
    })?;
    let mut all = Vec::new();
    for (table, entries) in tables {
        let concern = table.get_ref();
        if known.iter().all(|setting| setting.concern != concern) {
            let nearest = nearest(concern, known.iter().map(|setting| setting.concern));
            let place = format!("{}: [{concern}]", place(table.span().start));
            return Err(SettingsError::Unknown { place, nearest: nearest.map(|table| format!("[{table}]")) });
        }
        for (name, value) in entries {
            let key = format!("{concern}.{}", name.get_ref());
            let place = format!("{}: {key}", place(name.span().start));
            let at = find(&key, known, &place)?;
            all.push(Given { at, raw: Raw::Toml(value), place, origin: Origin::File(path.into()) });
        }
    }
    Ok(all)
}

/// A blank variable counts as none: compose files and service managers set such ones.
fn from_environment(
    environment: &dyn Fn(&'static str) -> Result<Option<String>, SettingsError>,
    known: &[Setting],
) -> Result<Vec<Given>, SettingsError> {
    let mut all = Vec::new();
    for (at, Setting { variable, .. }) in known.iter().enumerate() {
        if let Some(text) = environment(variable)?.filter(|text| !text.trim().is_empty()) {
            let (raw, place, origin) = (Raw::Text(text), variable.to_string(), Origin::Environment(variable));
            all.push(Given { at, raw, place, origin });
        }
    }
    Ok(all)
}

fn from_flags(flags: &[Flag], known: &[Setting]) -> Result<Vec<Given>, SettingsError> {
    let given = |Flag { flag, key, value }: &Flag| {
        let at = find(key, known, flag)?;
        Ok(Given { at, raw: Raw::Text(value.clone()), place: flag.clone(), origin: Origin::Flag(flag.clone()) })
    };
    flags.iter().map(given).collect()
}

fn find(key: &str, known: &[Setting], place: &str) -> Result<usize, SettingsError> {
    known.iter().position(|setting| setting.key() == key).ok_or_else(|| {
        let name = key.rsplit('.').next().unwrap_or_default();
        let elsewhere = known.iter().find(|setting| setting.name == name).map(Setting::key);
        let keys: Vec<String> = known.iter().map(Setting::key).collect();
        let alike = nearest(key, keys.iter().map(String::as_str)).map(str::to_owned);
        SettingsError::Unknown { place: place.into(), nearest: alike.or(elsewhere) }
    })
}

/// The candidate that a slip of the pen would explain: at most a quarter of the letters are others.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distances = candidates.map(|candidate| (distance(word, candidate), candidate));
    distances.filter(|(distance, _)| *distance <= word.len().div_ceil(4)).min().map(|(_, candidate)| candidate)
}

/// Letters to add, drop or exchange to turn one word into the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let exchanged = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        for (from, to, letters) in
            [("", "", 0), ("", "ab", 2), ("queue", "queue", 0), ("queu", "queue", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(from, to), distance(to, from)), (letters, letters), "{from} {to}");
        }
    }

    #[test]
    fn only_slips_of_the_pen_have_a_nearest() {
        let known = ["queue.items_max", "queue.cost_max"];
        assert_eq!(nearest("queue.item_max", known.into_iter()), Some("queue.items_max"));
        assert_eq!(nearest("tls.certificate", known.into_iter()), None);
    }
}
