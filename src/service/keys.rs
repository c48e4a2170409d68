//! Bearer keys: who calls, and what they may call.
//!
//! The file holds hashes only; a token is seen once, when `vljepa key new` prints it. A token is compared with every key
//! in constant time and without an early exit, so that answers tell nothing about keys by their time. Tokens are 256
//! random bits, which is why a plain hash is enough. The rules are plain structs that are given the time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::TryRngCore;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use toml::value::{Datetime, Offset};

use super::files::{FileError, Followed, text, wrong};
use crate::settings::{KeySettings, Settings};

const KEYS_MAX: usize = 10_000;
const NAME_CHARACTERS_MAX: usize = 64;
/// Marks tokens in places where they should not be, for people and for programs that search for secrets.
const TOKEN_MARK: &str = "vljepa_";

/// What a key may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Questions and texts.
    Predict,
    /// Uploads.
    Media,
    /// Live sessions.
    Watch,
    /// Batch jobs.
    Jobs,
    /// What is served.
    Models,
    /// Changing what is served.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Predict, Self::Media, Self::Watch, Self::Jobs, Self::Models, Self::Admin];

    /// The name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Media => "media",
            Self::Watch => "watch",
            Self::Jobs => "jobs",
            Self::Models => "models",
            Self::Admin => "admin",
        }
    }
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    AnyKey,
    Key(Scope),
}

/// What calls need by how their path begins; the first that fits counts. What is not named needs the most.
const NEEDS: &[(&str, Needs)] = &[
    // Whoever looks after the process asks this, and holds no keys.
    ("/grpc.health.v1.Health/", Needs::Nothing),
    ("/grpc.reflection.", Needs::AnyKey),
    ("/vljepa.v1.EmbeddingService/", Needs::Key(Scope::Predict)),
    ("/vljepa.v1.AnswerService/", Needs::Key(Scope::Predict)),
    ("/vljepa.v1.MediaService/", Needs::Key(Scope::Media)),
    ("/vljepa.v1.WatchService/", Needs::Key(Scope::Watch)),
    ("/vljepa.v1.JobService/", Needs::Key(Scope::Jobs)),
    ("/vljepa.v1.ModelService/ListModels", Needs::Key(Scope::Models)),
    ("/vljepa.v1.ModelService/GetModel", Needs::Key(Scope::Models)),
    ("/", Needs::Key(Scope::Admin)),
];

fn needs(path: &str) -> Needs {
    NEEDS.iter().find(|(begin, _)| path.starts_with(begin)).map_or(Needs::Key(Scope::Admin), |(_, needs)| *needs)
}

/// Who calls: the name of the key, never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller(Arc<str>);

/// Why a call is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a key is needed: send metadata \"authorization: Bearer TOKEN\"")]
    NoKey,
    #[error("the key is not known")]
    Unknown,
    #[error("key {0} has expired")]
    Expired(Caller),
    #[error("key {0} has no scope {scope}", scope = .1.name())]
    Scope(Caller, Scope),
}

impl Refusal {
    /// Who was refused, if that is known.
    pub(super) fn caller(&self) -> Option<&Caller> {
        match self {
            Self::NoKey | Self::Unknown => None,
            Self::Expired(caller) | Self::Scope(caller, _) => Some(caller),
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys that are known.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    caller: Caller,
    sha256: [u8; 32],
    scopes: Vec<Scope>,
    expires: Option<SystemTime>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    key: Vec<ListedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedKey {
    name: String,
    sha256: String,
    scopes: Vec<Scope>,
    expires: Option<Datetime>,
}

impl Keys {
    /// None if no file is set.
    pub(super) fn open(settings: &Settings) -> Result<Option<Followed<Self>>, FileError> {
        let Some(file) = settings.keys.file.clone() else { return Ok(None) };
        let (keys, every) = (settings.keys.clone(), Duration::from_millis(settings.keys.reload_ms));
        Followed::open(vec![file], every, move || Self::read(&keys)).map(Some)
    }

    /// Reads the file that `settings` name; without one there are no keys.
    pub(super) fn read(settings: &KeySettings) -> Result<Self, FileError> {
        let Some(file) = &settings.file else { return Ok(Self(vec![])) };
        Self::parse(&text("keys.file", file)?).map_err(|problem| wrong("keys.file", file)(&problem))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let listed: Listed = toml::from_str(text).map_err(|error| {
            let line = 1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count();
            format!("line {line}: {}", error.message())
        })?;
        let count = listed.key.len();
        if !(1..=KEYS_MAX).contains(&count) {
            return Err(format!("has {count} tables [[key]], must be 1 to {KEYS_MAX}"));
        }
        let mut keys: Vec<Key> = Vec::with_capacity(count);
        for listed in listed.key {
            let key = Key::new(listed)?;
            let same = |other: &&Key| other.caller == key.caller || other.sha256 == key.sha256;
            if let Some(other) = keys.iter().find(same) {
                return Err(format!("key {} and key {} have the same name or sha256", other.caller, key.caller));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// Who calls `path` with this `authorization`, if they may; none where no key is needed.
    pub(super) fn admit(
        &self,
        path: &str,
        authorization: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Option<Caller>, Refusal> {
        let needs = needs(path);
        if needs == Needs::Nothing {
            return Ok(None);
        }
        let key = self.find(authorization.and_then(bearer).ok_or(Refusal::NoKey)?).ok_or(Refusal::Unknown)?;
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired(key.caller.clone()));
        }
        match needs {
            Needs::Key(scope) if !key.scopes.contains(&scope) => Err(Refusal::Scope(key.caller.clone(), scope)),
            _ => Ok(Some(key.caller.clone())),
        }
    }

    /// Compares with every key, in the same time whichever it is and whether or not there is one.
    fn find(&self, token: &[u8]) -> Option<&Key> {
        let shown: [u8; 32] = Sha256::digest(token).into();
        let mut found = u64::MAX;
        for (at, key) in (0..).zip(&self.0) {
            found.conditional_assign(&at, key.sha256.ct_eq(&shown));
        }
        self.0.get(usize::try_from(found).ok()?)
    }
}

/// The token of an `authorization` in the scheme Bearer.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

impl Key {
    fn new(listed: ListedKey) -> Result<Self, String> {
        let name = named(&listed.name)?;
        let sha256 = from_hex(&listed.sha256)
            .ok_or_else(|| format!("key {name}: sha256 is {:?}, must be 64 hexadecimal digits", listed.sha256))?;
        if listed.scopes.is_empty() {
            return Err(format!("key {name}: scopes are empty, the key would be good for nothing"));
        }
        let expires = listed.expires.map(|expires| {
            moment(&expires).ok_or_else(|| format!("key {name}: expires is {expires}, must have a date from 1970 on"))
        });
        let expires = expires.transpose()?;
        Ok(Self { caller: Caller(name.into()), sha256, scopes: listed.scopes, expires })
    }
}

/// A key's name; it stands in logs, so it must be plain.
fn named(name: &str) -> Result<&str, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    match (1..=NAME_CHARACTERS_MAX).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(format!("name is {name:?}, must be 1 to {NAME_CHARACTERS_MAX} letters, digits or any of -_.@")),
    }
}

/// A date alone is its first moment; without an offset, of UTC.
fn moment(datetime: &Datetime) -> Option<SystemTime> {
    let date = datetime.date?;
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // Counted from March, leap days come last: a year of 365 days, its leap days, a month of 30.6 days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let clock = datetime.time.map_or(0, |time| {
        let second = i64::from(time.second.unwrap_or(0));
        3600 * i64::from(time.hour) + 60 * i64::from(time.minute) + second
    });
    let offset = match datetime.offset {
        Some(Offset::Custom { minutes }) => 60 * i64::from(minutes),
        Some(Offset::Z) | None => 0,
    };
    let seconds = u64::try_from(days * 86_400 + clock - offset).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A key that was just made.
pub struct NewKey {
    /// What its bearer shows; kept nowhere.
    pub token: String,
    /// What the file of keys needs to know it.
    pub block: String,
}

impl NewKey {
    /// Draws a token. Fails if name, scopes or date cannot stand in the file.
    pub fn draw(name: &str, scopes: &[Scope], expires: Option<&str>) -> Result<Self, String> {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
        let token = format!("{TOKEN_MARK}{}", to_hex(&bytes));
        let sha256 = to_hex(&Sha256::digest(&token));
        let scopes = scopes.iter().map(|scope| format!("\"{}\"", scope.name())).collect::<Vec<_>>().join(", ");
        let expires = expires.map(|expires| format!("expires = {expires}\n")).unwrap_or_default();
        let block =
            format!("[[key]]\nname = \"{}\"\nsha256 = \"{sha256}\"\nscopes = [{scopes}]\n{expires}", named(name)?);
        // What the server could not read must not be printed.
        Keys::parse(&block)?;
        Ok(Self { token, block })
    }
}

#[cfg(test)]
mod tests;
