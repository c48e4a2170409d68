//! Why the engine does not answer: one enum, which the service maps to one status each.

use std::time::Duration;

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request itself is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as a path from the request, such as `items[2].media`.
        field: String,
        /// What is wrong with it: the value and the bound.
        problem: String,
    },
    /// No model of that name is served.
    #[error("model {asked:?} is not served, must be one of: {}", served.join(", "))]
    Unknown {
        /// The name asked for, as [`shortened`] does it.
        asked: String,
        /// The names of the models here.
        served: Vec<String>,
    },
    /// There is one of that name already.
    #[error("{what} {name:?} is there already")]
    Present {
        /// What has the name, such as "model".
        what: &'static str,
        /// The name, as [`shortened`] does it.
        name: String,
    },
    /// Nothing of that name is kept, or not for this caller.
    #[error("{what} {name:?} is not there: it never was, has expired, or is not yours")]
    Gone {
        /// What should have the name, such as "upload".
        what: &'static str,
        /// The name, as [`shortened`] does it.
        name: String,
    },
    /// The world is not as the request needs it.
    #[error("{subject}: {problem}")]
    Unfit {
        /// What is not: a setting, a bundle.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model has no such part.
    #[error("model {model} has no {part}")]
    Missing {
        /// The model's name.
        model: String,
        /// The part that it lacks.
        part: &'static str,
    },
    /// Too much waits already.
    #[error("{what} is full, try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// What is full.
        what: &'static str,
        /// When to come again.
        retry_after: Duration,
    },
    /// A store is full; what it holds goes by itself.
    #[error("{limit} is used up, at most {max}: try again in {} ms", retry_after.as_millis())]
    Exhausted {
        /// The setting that bounds it.
        limit: &'static str,
        /// Its value.
        max: u64,
        /// When to come again.
        retry_after: Duration,
    },
    /// The request would never fit.
    #[error("request costs {cost} tokens, at most {cost_max} are admitted")]
    TooLarge {
        /// What it costs, tokens.
        cost: usize,
        /// All that may ever wait, tokens.
        cost_max: usize,
    },
    /// It took too long, waiting or running.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The model thread has ended.
    #[error("the model has stopped")]
    Stopped,
    /// A bug.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The kinds of error that callers tell apart, as gRPC knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong, and stays so.
    InvalidArgument,
    /// What it names is not there.
    NotFound,
    /// What it would make is there already.
    AlreadyExists,
    /// The world is not as it needs it.
    FailedPrecondition,
    /// There is no room now.
    ResourceExhausted,
    /// It took too long.
    DeadlineExceeded,
    /// Nobody is there to do it.
    Unavailable,
    /// A bug.
    Internal,
}

impl Code {
    /// All of them.
    pub const ALL: [Code; 8] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Its name in gRPC's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

/// What a client may hear of a long report: status messages travel in headers, whose size is bounded.
pub fn summary(report: &str) -> String {
    beginning(report, 500)
}

/// The beginning of a name from outside: an error that repeats all of it may be too long for a client to receive.
pub fn shortened(name: &str) -> String {
    beginning(name, 64)
}

fn beginning(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

impl EngineError {
    /// What kind of error it is.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::TooLarge { .. } => Code::InvalidArgument,
            Self::Unknown { .. } | Self::Gone { .. } => Code::NotFound,
            Self::Present { .. } => Code::AlreadyExists,
            Self::Missing { .. } | Self::Unfit { .. } => Code::FailedPrecondition,
            Self::Exhausted { .. } | Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Stopped => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// The same error, its field seen from one level further out: `media` within `items[2]` is `items[2].media`.
    pub fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { field, problem } => Self::Invalid { field: format!("{outer}.{field}"), problem },
            other => other,
        }
    }
}
