//! What is known of a setting, and how the list of all of them is declared: from its lines come the structs, their
//! defaults, their documentation, and the list as data.

use super::{Bounds, Settings, Value};

/// One setting as it stands: what a person or a client is told about it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it belongs to: the table of the file.
    pub concern: &'static str,
    /// What the concern is about.
    pub concern_about: &'static str,
    /// Its name in the table.
    pub name: &'static str,
    /// Variable of the environment that sets it, `VLJEPA_...`.
    pub variable: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What it may be.
    pub bounds: Bounds,
    /// What it is now.
    pub value: Value,
    pub(super) set: fn(&mut Settings, Value) -> bool,
}

impl Setting {
    /// The name in flags and messages, `concern.name`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.concern, self.name)
    }

    /// Unit of a number, which is the name's last word; empty for words.
    pub fn unit(&self) -> &'static str {
        let Bounds::Number(_) = self.bounds else { return "" };
        let words = |word: &&str| !matches!(*word, "max" | "min" | "default");
        match self.name.rsplit('_').find(words).unwrap_or_default() {
            "cost" => "tokens",
            unit => unit,
        }
    }
}

/// Declares one struct a concern; each line is `name: type = default, bounds, variable`.
macro_rules! concerns {
    ($($(#[doc = $about:literal])* $concern:ident: $Struct:ident {
        $($(#[doc = $doc:literal])* $name:ident: $kind:ty = $default:expr, $bounds:expr, $variable:literal;)*
    })*) => {
        $($(#[doc = $about])* #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Struct {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nDefault `", stringify!($default), "`, bounds `", stringify!($bounds), "`, set by `", $variable, "`.")]
                pub $name: $kind,
            )*
        }

        impl $Struct {
            const ABOUT: &str = concat!($($about),*).trim_ascii();
        }

        impl Default for $Struct {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        })*

        /// Everything that can be set, by concern.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Settings {
            $($(#[doc = $about])* pub $concern: $Struct,)*
        }

        impl Settings {
            /// Every setting, in the order of this file.
            pub fn list(&self) -> Vec<Setting> {
                vec![$($(Setting {
                    concern: stringify!($concern),
                    concern_about: $Struct::ABOUT,
                    name: stringify!($name),
                    variable: $variable,
                    about: concat!($($doc),*).trim_ascii(),
                    bounds: Bounds::from($bounds),
                    value: self.$concern.$name.value(),
                    set: |settings, value| {
                        let value = Kind::of(value);
                        value.map(|value| settings.$concern.$name = value).is_some()
                    },
                },)*)*]
            }
        }
    };
}

pub(super) use concerns;
