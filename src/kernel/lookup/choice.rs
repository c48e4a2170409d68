//! Whether products may be looked up: a setting of the process, as the instruction set is (isa.rs).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// When products of many tokens are looked up in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Where the chip can, the product is large enough and a trial of a few milliseconds was faster.
    Auto,
    /// Wherever there are tokens enough for the loop.
    Always,
    /// Nowhere: the weights are kept in one format.
    Never,
}

/// Why a setting of the lookup cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name is none of ours.
    #[error("lookup {0:?} is unknown: expected one of auto, always, never")]
    Unknown(String),
    /// The chip lacks what the loop is made of.
    #[error("lookup \"always\" needs AVX-512 with VNNI, and BMI2: this machine lacks them")]
    Unavailable,
}

impl Lookup {
    /// Every setting.
    pub const ALL: [Lookup; 3] = [Lookup::Auto, Lookup::Always, Lookup::Never];

    /// Reads a name as [`Lookup::name`] writes it, in any case.
    pub fn parse(name: &str) -> Result<Lookup, LookupError> {
        let known = Lookup::ALL.into_iter().find(|lookup| lookup.name().eq_ignore_ascii_case(name.trim()));
        known.ok_or_else(|| LookupError::Unknown(name.to_owned()))
    }

    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Lookup::Auto => "auto",
            Lookup::Always => "always",
            Lookup::Never => "never",
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Lookup {
    type Err = LookupError;

    fn from_str(name: &str) -> Result<Lookup, LookupError> {
        Lookup::parse(name)
    }
}

/// The setting as an index into [`Lookup::ALL`]. It guards no other memory, hence relaxed.
static SETTING: AtomicU8 = AtomicU8::new(Lookup::Auto as u8);

/// Sets when later products of this process are looked up; refuses what the chip lacks.
pub fn force(lookup: Lookup) -> Result<(), LookupError> {
    if lookup == Lookup::Always && !available() {
        return Err(LookupError::Unavailable);
    }
    SETTING.store(lookup as u8, Ordering::Relaxed);
    Ok(())
}

/// The setting in use.
pub fn current() -> Lookup {
    Lookup::ALL[usize::from(SETTING.load(Ordering::Relaxed))]
}

/// Whether this chip and operating system can run the loop.
fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    let available = super::product::Fused::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let available = false;
    available
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for (index, lookup) in Lookup::ALL.into_iter().enumerate() {
            assert_eq!(Lookup::parse(&format!(" {} ", lookup.name().to_uppercase())), Ok(lookup));
            assert_eq!(lookup as usize, index, "SETTING is an index into ALL");
        }
        assert_eq!("often".parse::<Lookup>(), Err(LookupError::Unknown("often".to_owned())));
    }

    #[test]
    fn what_the_chip_lacks_is_refused() {
        if available() {
            println!("this machine can do all that the lookup asks for");
        } else {
            assert_eq!(force(Lookup::Always), Err(LookupError::Unavailable));
        }
        assert!(Lookup::ALL.contains(&current()));
    }
}
