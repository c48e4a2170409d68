//! What a setting may be: a whole number, a switch, a word, an address, a path, a secret. Apart from the list of
//! settings, so that the list stays a list.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// A text without bounds.
pub(super) const TEXT: Bounds = Bounds::Text("a text");
/// An address to listen on.
pub(super) const ADDRESS: Bounds = Bounds::Text("an address such as 127.0.0.1:50051");

/// A file to read.
pub(super) const FILE: Bounds = Bounds::Text("a file's path");

/// A value of any setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Switch(bool),
    /// A word, path or address; the empty one means that there is none.
    Text(String),
    /// A secret that is set.
    Hidden,
}

impl Value {
    /// Whether it says that there is none.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Text(text) => f.write_str(text),
            Self::Hidden => f.write_str("(hidden)"),
        }
    }
}

/// What the values of a setting may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounds {
    /// Whole numbers within.
    Number(RangeInclusive<u64>),
    /// true or false.
    Switch,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Any text that is what is said here.
    Text(&'static str),
}

impl From<RangeInclusive<u64>> for Bounds {
    fn from(bounds: RangeInclusive<u64>) -> Self {
        Self::Number(bounds)
    }
}

impl<const N: usize> From<&'static [&'static str; N]> for Bounds {
    fn from(words: &'static [&'static str; N]) -> Self {
        Self::Words(words)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Number(bounds) => write!(f, "a whole number from {} to {}", bounds.start(), bounds.end()),
            Self::Switch => f.write_str("true or false"),
            Self::Words(words) => write!(f, "one of {}", words.join(", ")),
            Self::Text(what) => f.write_str(what),
        }
    }
}

/// A value as it was found, before it is judged.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// From the environment or a flag, where everything is text.
    Text(String),
    /// From a file.
    Toml(toml::Value),
}

impl Bounds {
    /// The value that was meant, if it is within.
    pub(super) fn value(&self, raw: &Raw) -> Option<Value> {
        match (self, raw) {
            (Self::Number(bounds), raw) => {
                let number = match raw {
                    Raw::Text(text) => text.trim().parse().ok(),
                    Raw::Toml(value) => value.as_integer().and_then(|number| number.try_into().ok()),
                };
                number.filter(|number| bounds.contains(number)).map(Value::Number)
            }
            (Self::Switch, Raw::Text(text)) => text.trim().parse().ok().map(Value::Switch),
            (Self::Switch, Raw::Toml(value)) => value.as_bool().map(Value::Switch),
            (Self::Words(words), raw) => {
                let text = raw.text()?.trim();
                let known = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                known.map(|word| Value::Text(word.to_string()))
            }
            (Self::Text(_), raw) => raw.text().map(|text| Value::Text(text.trim().to_owned())),
        }
    }
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Toml(value) => value.as_str(),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Toml(toml::Value::String(text)) => write!(f, "{text:?}"),
            Self::Toml(toml::Value::Integer(number)) => write!(f, "{number}"),
            Self::Toml(toml::Value::Float(number)) => write!(f, "{number:?}"),
            Self::Toml(toml::Value::Boolean(on)) => write!(f, "{on}"),
            Self::Toml(other) => write!(f, "of type {}", other.type_str()),
        }
    }
}

/// What the type of a setting can be.
pub(super) trait Kind: Sized {
    /// From a value within the bounds; none if it is not of this type.
    fn of(value: Value) -> Option<Self>;
    /// As it is shown.
    fn value(&self) -> Value;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Kind for $number {
            fn of(value: Value) -> Option<Self> {
                let Value::Number(number) = value else { return None };
                Self::try_from(number).ok()
            }

            fn value(&self) -> Value {
                // Lossless: no number type is wider.
                Value::Number(*self as u64)
            }
        })*
    };
}

numbers!(u32 u64 usize);

impl Kind for bool {
    fn of(value: Value) -> Option<Self> {
        let Value::Switch(on) = value else { return None };
        Some(on)
    }

    fn value(&self) -> Value {
        Value::Switch(*self)
    }
}

impl Kind for String {
    fn of(value: Value) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        Some(text)
    }

    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Kind for SocketAddr {
    fn of(value: Value) -> Option<Self> {
        String::of(value)?.parse().ok()
    }

    fn value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Kind for PathBuf {
    fn of(value: Value) -> Option<Self> {
        String::of(value).map(Self::from)
    }

    fn value(&self) -> Value {
        Value::Text(self.to_string_lossy().into_owned())
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Kind for Secret {
    fn of(value: Value) -> Option<Self> {
        String::of(value).map(Self)
    }

    fn value(&self) -> Value {
        Value::Hidden
    }
}

impl<K: Kind> Kind for Option<K> {
    fn of(value: Value) -> Option<Self> {
        if value.is_none() { Some(None) } else { K::of(value).map(Some) }
    }

    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Text(String::new()), Kind::value)
    }
}
