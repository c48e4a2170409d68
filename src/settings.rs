//! Every setting and every limit of the program, read once: defaults, then environment, then flags.
//!
//! This file alone reads the environment, and holds nothing but plain numbers and words, so that every floor
//! may be handed its part. Each number stands once, with its default, its bounds and its variable; the same
//! list answers "which limits does this server have" ([`Settings::numbers`]).

use std::ops::RangeInclusive;

/// A variable of the environment that holds what cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a whole number, or outside its bounds.
    #[error("{variable} is \"{value}\", must be a whole number from {min} to {max}")]
    Number {
        /// Name of the variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// Not one of the words known.
    #[error("{variable} is \"{value}\", must be one of {}", known.join(", "))]
    Word {
        /// Name of the variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        known: &'static [&'static str],
    },
    /// Not UTF-8.
    #[error("{variable} is not UTF-8")]
    NotText {
        /// Name of the variable.
        variable: &'static str,
    },
}

/// One number as it stands: what a person or a client is told about a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    /// Variable that sets it, `VLJEPA_...`; the unit is the name's last word.
    pub variable: &'static str,
    /// Its value now.
    pub value: u64,
    /// Bounds of the value.
    pub bounds: RangeInclusive<u64>,
}

type Lookup<'a> = &'a dyn Fn(&'static str) -> Result<Option<String>, SettingsError>;

fn number(
    lookup: Lookup,
    variable: &'static str,
    default: u64,
    bounds: RangeInclusive<u64>,
) -> Result<u64, SettingsError> {
    let Some(text) = lookup(variable)? else { return Ok(default) };
    match text.trim().parse() {
        Ok(value) if bounds.contains(&value) => Ok(value),
        _ => Err(SettingsError::Number { variable, value: text, min: *bounds.start(), max: *bounds.end() }),
    }
}

/// A word that somebody else judges; none and `auto` leave the choice to the program.
fn word(lookup: Lookup, variable: &'static str) -> Result<Option<String>, SettingsError> {
    let word = lookup(variable)?.unwrap_or_default().trim().to_ascii_lowercase();
    Ok(Some(word).filter(|word| !matches!(word.as_str(), "" | "auto")))
}

/// Declares one struct a concern; each line is `name: type = default, bounds, variable`.
macro_rules! concerns {
    ($($(#[$about:meta])* $concern:ident: $Struct:ident {
        $($(#[$doc:meta])* $name:ident: $kind:ty = $default:expr, $bounds:expr, $variable:literal;)*
    })*) => {
        $($(#[$about])* #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Struct {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\nDefault `", stringify!($default), "`, bounds `", stringify!($bounds), "`, set by `", $variable, "`.")]
                pub $name: $kind,
            )*
        }

        impl $Struct {
            fn read(lookup: Lookup) -> Result<Self, SettingsError> {
                Ok(Self { $($name: number(lookup, $variable, $default, $bounds)? as $kind,)* })
            }
        }

        impl Default for $Struct {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        })*

        /// Everything that can be set, by concern.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Settings {
            $($(#[$about])* pub $concern: $Struct,)*
            /// Instruction set the kernels must use, in the words of `kernel::isa`, which judges it; absent or `auto`
            /// means the best one this CPU has. Set by `VLJEPA_ISA`.
            pub isa: Option<String>,
            /// How parts hold their dense weights, `PART=WORD,..` in the words of `model::precision`, which judges it;
            /// parts that it does not name are as their bundle says. Set by `VLJEPA_PRECISION`.
            pub precision: Option<String>,
            /// Whether large ternary products may be looked up in part, in the words of `kernel::lookup`, which judges
            /// it; absent or `auto` means where a trial shows that it is faster. Set by `VLJEPA_LOOKUP`.
            pub lookup: Option<String>,
            /// Origins whose pages may call over gRPC-Web, separated by commas, as browsers spell them
            /// (`https://example.org:8443`); `*` lets every page, absent only pages of this very server. Set by
            /// `VLJEPA_WEB_ORIGINS`.
            pub web_origins: Option<String>,
            /// What is logged, and how.
            pub log: LogSettings,
        }

        impl Settings {
            /// The defaults, overridden by what `lookup` knows.
            fn read(lookup: Lookup) -> Result<Self, SettingsError> {
                Ok(Self {
                    $($concern: $Struct::read(lookup)?,)*
                    isa: word(lookup, "VLJEPA_ISA")?,
                    precision: lookup("VLJEPA_PRECISION")?,
                    lookup: word(lookup, "VLJEPA_LOOKUP")?,
                    web_origins: lookup("VLJEPA_WEB_ORIGINS")?,
                    log: LogSettings::read(lookup)?,
                })
            }

            /// Every number with its variable and bounds, in the order of this file.
            pub fn numbers(&self) -> Vec<Number> {
                vec![$($(Number { variable: $variable, value: self.$concern.$name as u64, bounds: $bounds },)*)*]
            }
        }
    };
}

concerns! {
    /// Pictures and clips, as they come in.
    media: MediaSettings {
        /// Encoded size of one picture or clip, bytes.
        bytes_max: usize = 32 << 20, 1..=1 << 30, "VLJEPA_MEDIA_BYTES_MAX";
        /// Pixels of one decoded frame, width times height.
        pixels_max: u64 = 1 << 24, 1..=1 << 28, "VLJEPA_MEDIA_PIXELS_MAX";
        /// Frames decoded from one clip.
        frames_max: usize = 1024, 1..=1 << 16, "VLJEPA_MEDIA_FRAMES_MAX";
        /// Memory of all decoded frames of one clip, and of the decoder itself, bytes.
        decode_bytes_max: u64 = 512 << 20, 1 << 10..=1 << 36, "VLJEPA_MEDIA_DECODE_BYTES_MAX";
        /// Time to decode one clip, milliseconds.
        decode_ms_max: u64 = 10_000, 1..=3_600_000, "VLJEPA_MEDIA_DECODE_MS_MAX";
        /// Memory of everything decoded that is not answered yet, of all requests together, bytes.
        memory_bytes_max: u64 = 4 << 30, 1 << 10..=1 << 40, "VLJEPA_MEDIA_MEMORY_BYTES_MAX";
        /// Pictures or clips in one request.
        items_max: usize = 64, 1..=1 << 12, "VLJEPA_MEDIA_ITEMS_MAX";
    }
    /// Questions, candidates, texts and answers.
    text: TextSettings {
        /// One text, bytes of UTF-8.
        bytes_max: usize = 64 << 10, 1..=1 << 24, "VLJEPA_TEXT_BYTES_MAX";
        /// Tokens the decoder writes for one answer.
        answer_tokens_max: usize = 64, 1..=1 << 12, "VLJEPA_ANSWER_TOKENS_MAX";
        /// Candidate answers of one question.
        candidates_max: usize = 1024, 1..=1 << 16, "VLJEPA_CANDIDATES_MAX";
        /// Texts in one request.
        texts_max: usize = 1024, 1..=1 << 16, "VLJEPA_TEXTS_MAX";
    }
    /// What waits for the model, and what it takes at once. Cost is counted in tokens.
    queue: QueueSettings {
        /// Requests that may wait; the next one is refused at once.
        items_max: usize = 256, 1..=1 << 16, "VLJEPA_QUEUE_ITEMS_MAX";
        /// Cost of all requests that wait, tokens; a dearer single request is refused for good.
        cost_max: usize = 1 << 20, 1..=1 << 32, "VLJEPA_QUEUE_COST_MAX";
        /// Requests of one batch.
        batch_items_max: usize = 32, 1..=1 << 12, "VLJEPA_BATCH_ITEMS_MAX";
        /// Cost of one batch, tokens; a dearer single request runs alone.
        batch_cost_max: usize = 1 << 15, 1..=1 << 32, "VLJEPA_BATCH_COST_MAX";
        /// Cost of one batch of jobs, which a query that comes meanwhile waits for, tokens.
        batch_job_cost_max: usize = 1 << 12, 1..=1 << 32, "VLJEPA_BATCH_JOB_COST_MAX";
        /// Time a batch should take by what earlier ones took, milliseconds; a dearer single request runs alone.
        batch_ms_max: u64 = 250, 1..=600_000, "VLJEPA_BATCH_MS_MAX";
        /// Part of what may wait that sessions and jobs together may fill, percent.
        watch_percent_max: usize = 70, 1..=100, "VLJEPA_QUEUE_WATCH_PERCENT_MAX";
        /// Part of what may wait that jobs may fill, percent.
        job_percent_max: usize = 40, 1..=100, "VLJEPA_QUEUE_JOB_PERCENT_MAX";
        /// Model time and places that live sessions get however many queries come, percent.
        watch_percent_min: usize = 15, 1..=40, "VLJEPA_QUEUE_WATCH_PERCENT_MIN";
        /// Model time and places that jobs get however much else comes, percent.
        job_percent_min: usize = 5, 1..=40, "VLJEPA_QUEUE_JOB_PERCENT_MIN";
        /// Texts whose embeddings are kept for the next request; 0 keeps none.
        text_cache_items: usize = 8192, 0..=1 << 24, "VLJEPA_TEXT_CACHE_ITEMS";
        /// Memory of the texts and embeddings that are kept, bytes.
        text_cache_bytes: usize = 64 << 20, 0..=1 << 40, "VLJEPA_TEXT_CACHE_BYTES";
    }
    /// The gRPC server.
    service: ServiceSettings {
        /// One message in or out, bytes on the wire after decompression.
        message_bytes_max: usize = 64 << 20, 1 << 10..=1 << 30, "VLJEPA_MESSAGE_BYTES_MAX";
        /// Items of one StreamPredict in flight; beyond it the server does not read.
        stream_items_max: usize = 64, 1..=1 << 12, "VLJEPA_STREAM_ITEMS_MAX";
        /// Deadline of a request that brings none, milliseconds.
        deadline_default_ms: u64 = 60_000, 1..=86_400_000, "VLJEPA_DEADLINE_DEFAULT_MS";
        /// Longest deadline a request may bring; a longer one is cut to this, milliseconds.
        deadline_max_ms: u64 = 600_000, 1..=86_400_000, "VLJEPA_DEADLINE_MAX_MS";
        /// Time between saying NOT_SERVING and refusing new requests at shutdown, milliseconds.
        drain_delay_ms: u64 = 0, 0..=600_000, "VLJEPA_DRAIN_DELAY_MS";
        /// Time that requests in flight get to finish at shutdown before the hard stop, milliseconds.
        drain_max_ms: u64 = 10_000, 0..=3_600_000, "VLJEPA_DRAIN_MAX_MS";
        /// Time without progress of the model thread after which health answers NOT_SERVING, milliseconds.
        health_max_ms: u64 = 5_000, 1..=600_000, "VLJEPA_HEALTH_MAX_MS";
        /// Shortest time a refused client is told to wait; the time that the backlog takes when that is longer,
        /// milliseconds.
        retry_after_ms: u64 = 100, 1..=600_000, "VLJEPA_RETRY_AFTER_MS";
        /// Longest time a refused client is told to wait, milliseconds.
        retry_after_max_ms: u64 = 30_000, 1..=600_000, "VLJEPA_RETRY_AFTER_MAX_MS";
        /// One message to a service that takes no media, bytes after decompression.
        small_message_bytes_max: usize = 4 << 20, 1 << 10..=1 << 30, "VLJEPA_SMALL_MESSAGE_BYTES_MAX";
        /// Messages of all calls together, in and out, bytes; a call for which there is no room is refused at once.
        inflight_bytes_max: usize = 512 << 20, 1 << 16..=1 << 40, "VLJEPA_INFLIGHT_BYTES_MAX";
        /// Time in which a message must arrive once it has begun, milliseconds.
        message_read_max_ms: u64 = 60_000, 1..=3_600_000, "VLJEPA_MESSAGE_READ_MAX_MS";
        /// Smallest answer that is compressed, for clients that accept it, bytes.
        compress_bytes_min: usize = 1 << 10, 0..=1 << 30, "VLJEPA_COMPRESS_BYTES_MIN";
    }
    /// The connections of the gRPC server.
    connection: ConnectionSettings {
        /// Connections at once; the next one is closed at once.
        connections_max: usize = 4096, 1..=1 << 20, "VLJEPA_CONNECTIONS_MAX";
        /// Calls at once on one connection.
        streams_max: u32 = 1024, 1..=1 << 20, "VLJEPA_STREAMS_MAX";
        /// Time from the connection to its first call, with preface and TLS handshake, milliseconds.
        preface_max_ms: u64 = 10_000, 1..=600_000, "VLJEPA_PREFACE_MAX_MS";
        /// Time that a connection may be without a call, milliseconds.
        idle_max_ms: u64 = 900_000, 1..=86_400_000, "VLJEPA_IDLE_MAX_MS";
        /// Time that a client may leave an answer unread before its connection is closed, milliseconds.
        unread_max_ms: u64 = 30_000, 1..=3_600_000, "VLJEPA_UNREAD_MAX_MS";
        /// Age at which a connection is asked to end, its calls finished, milliseconds; 0 never asks.
        age_max_ms: u64 = 0, 0..=604_800_000, "VLJEPA_CONNECTION_AGE_MAX_MS";
        /// Time that it gets for that before it is closed, milliseconds.
        age_grace_ms: u64 = 600_000, 1..=86_400_000, "VLJEPA_CONNECTION_AGE_GRACE_MS";
        /// Time between pings that ask whether the client is still there, milliseconds.
        keepalive_ms: u64 = 30_000, 1..=86_400_000, "VLJEPA_KEEPALIVE_MS";
        /// Time in which a ping must be answered, milliseconds.
        keepalive_max_ms: u64 = 20_000, 1..=3_600_000, "VLJEPA_KEEPALIVE_MAX_MS";
        /// Time without a call and without a byte after which a connection is closed at shutdown, milliseconds.
        drain_quiet_ms: u64 = 500, 1..=600_000, "VLJEPA_DRAIN_QUIET_MS";
    }
    /// Processor time.
    cpu: CpuSettings {
        /// Threads that compute; 0 takes one a core.
        threads: usize = 0, 0..=4096, "VLJEPA_THREADS";
        /// Threads that decode media; 0 takes one a core.
        decode_threads: usize = 0, 0..=4096, "VLJEPA_DECODE_THREADS";
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Filter in tracing-subscriber's spelling. Default `info`. Set by `VLJEPA_LOG`.
    pub filter: String,
    /// JSON lines instead of text. Default no. Set by `VLJEPA_LOG_FORMAT`, `text` or `json`.
    pub json: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".into(), json: false }
    }
}

impl LogSettings {
    fn read(lookup: Lookup) -> Result<Self, SettingsError> {
        let variable = "VLJEPA_LOG_FORMAT";
        let json = match lookup(variable)?.unwrap_or_default().trim() {
            "" | "text" => false,
            "json" => true,
            value => {
                return Err(SettingsError::Word { variable, value: value.into(), known: &["text", "json"] });
            }
        };
        let filter = lookup("VLJEPA_LOG")?.filter(|filter| !filter.trim().is_empty());
        Ok(Self { filter: filter.unwrap_or_else(|| Self::default().filter), json })
    }
}

impl Settings {
    /// The defaults, overridden by `VLJEPA_*`; fails at the first variable that cannot be meant.
    pub fn from_environment() -> Result<Self, SettingsError> {
        Self::read(&|variable| match std::env::var(variable) {
            Ok(text) => Ok(Some(text)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(SettingsError::NotText { variable }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(&|variable| {
            Ok(pairs.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.to_string()))
        })
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        assert_eq!(with(&[]), Ok(Settings::default()));
    }

    #[test]
    fn every_default_is_within_its_bounds_and_every_variable_is_named_once() {
        let numbers = Settings::default().numbers();
        let names: std::collections::HashSet<_> = numbers.iter().map(|number| number.variable).collect();
        assert_eq!(names.len(), numbers.len());
        for number in numbers {
            assert!(number.bounds.contains(&number.value), "{number:?}");
        }
    }

    #[test]
    fn every_number_is_set_by_its_variable_to_its_bounds_and_no_further() {
        for number in Settings::default().numbers() {
            for bound in [*number.bounds.start(), *number.bounds.end()] {
                let settings = with(&[(number.variable, &bound.to_string())]).expect("a bound is allowed");
                let changed: Vec<_> = settings.numbers().into_iter().filter(|other| other.value == bound).collect();
                assert!(changed.iter().any(|other| other.variable == number.variable), "{number:?}");
            }
            let beyond = (number.bounds.end() + 1).to_string();
            let error = with(&[(number.variable, &beyond)]).expect_err("beyond its bound").to_string();
            assert!(error.contains(number.variable) && error.contains(&beyond), "{error}");
        }
    }

    #[test]
    fn words_are_read_and_wrong_ones_told() {
        let settings = with(&[
            ("VLJEPA_ISA", "AVX2"),
            ("VLJEPA_LOOKUP", "never"),
            ("VLJEPA_LOG_FORMAT", "json"),
            ("VLJEPA_LOG", "vljepa=debug"),
        ])
        .expect("all words are known");
        assert_eq!(settings.isa.as_deref(), Some("avx2"));
        assert_eq!(settings.lookup.as_deref(), Some("never"));
        assert_eq!(settings.log, LogSettings { filter: "vljepa=debug".into(), json: true });
        let settings = with(&[("VLJEPA_PRECISION", "vision=f32")]).expect("judged elsewhere");
        assert_eq!(settings.precision.as_deref(), Some("vision=f32"));
        assert_eq!(with(&[("VLJEPA_ISA", "auto"), ("VLJEPA_LOG", " ")]), Ok(Settings::default()));
        let error = with(&[("VLJEPA_LOG_FORMAT", "xml")]).expect_err("no such format").to_string();
        assert_eq!(error, "VLJEPA_LOG_FORMAT is \"xml\", must be one of text, json");
        let error = with(&[("VLJEPA_THREADS", "-1")]).expect_err("negative").to_string();
        assert_eq!(error, "VLJEPA_THREADS is \"-1\", must be a whole number from 0 to 4096");
    }
}
