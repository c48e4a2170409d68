//! From the engine's errors to gRPC's: one match, and nowhere else is a status chosen.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::keys::Refusal;
use crate::engine::{self, EngineError};

/// Who gives the reasons, for programs that talk to many servers.
const DOMAIN: &str = "vljepa";

/// The status of an error, with the details that tell a program what to do: always a reason that it can switch on.
pub(super) fn status(error: EngineError) -> Status {
    let told = error.to_string();
    let mut details = ErrorDetails::new();
    let reason = match &error {
        EngineError::Invalid { field, problem } => {
            details.add_bad_request_violation(field, problem);
            "FIELD_INVALID"
        }
        EngineError::TooLarge { .. } => {
            details.add_bad_request_violation("request", &told);
            "REQUEST_TOO_LARGE"
        }
        EngineError::Unknown { asked, .. } => {
            details.set_resource_info("model", asked, "", &told);
            "MODEL_UNKNOWN"
        }
        EngineError::Gone { what, name } => {
            details.set_resource_info(*what, name, "", &told);
            "NAME_UNKNOWN"
        }
        EngineError::Present { what, name } => {
            details.set_resource_info(*what, name, "", &told);
            "NAME_TAKEN"
        }
        EngineError::Missing { part, .. } => {
            details.add_precondition_failure_violation("part", *part, &told);
            "PART_MISSING"
        }
        EngineError::Unfit { subject, problem } => {
            details.add_precondition_failure_violation("state", subject, problem);
            "STATE_UNFIT"
        }
        EngineError::Exhausted { limit, retry_after, .. } => {
            details.add_quota_failure_violation(*limit, &told).set_retry_info(Some(*retry_after));
            "QUOTA_EXHAUSTED"
        }
        EngineError::Overloaded { retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
            "OVERLOADED"
        }
        EngineError::DeadlineExceeded => "DEADLINE_EXCEEDED",
        EngineError::Stopped => "MODEL_STOPPED",
        EngineError::Internal(cause) => {
            tracing::error!(%cause, "internal error");
            "INTERNAL"
        }
    };
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code(&error), told, details)
}

fn code(error: &EngineError) -> Code {
    match error.code() {
        engine::Code::InvalidArgument => Code::InvalidArgument,
        engine::Code::NotFound => Code::NotFound,
        engine::Code::AlreadyExists => Code::AlreadyExists,
        engine::Code::FailedPrecondition => Code::FailedPrecondition,
        engine::Code::ResourceExhausted => Code::ResourceExhausted,
        engine::Code::DeadlineExceeded => Code::DeadlineExceeded,
        engine::Code::Unavailable => Code::Unavailable,
        engine::Code::Internal => Code::Internal,
    }
}

/// The status of work that comes when the server is about to end.
pub(super) fn draining() -> Status {
    let details = ErrorDetails::with_error_info("DRAINING", DOMAIN, HashMap::new());
    Status::with_error_details(Code::Unavailable, "the server is draining: go on elsewhere", details)
}

/// The status of a message that is not read for its length, as clients know it from gRPC's other servers.
pub(super) fn too_long(bytes: usize, max: usize, service: &str) -> Status {
    let details = ErrorDetails::with_error_info("MESSAGE_TOO_LARGE", DOMAIN, HashMap::new());
    let told = format!("message: is {bytes} bytes, at most {max} for {service}");
    Status::with_error_details(Code::ResourceExhausted, told, details)
}

/// The status of a message that has begun and does not end.
pub(super) fn too_slow(max_ms: u128) -> Status {
    let details = ErrorDetails::with_error_info("MESSAGE_TOO_SLOW", DOMAIN, HashMap::new());
    let told = format!("message: not whole {max_ms} ms after its beginning, the longest that is allowed");
    Status::with_error_details(Code::DeadlineExceeded, told, details)
}

/// The status of a call of Watch whose session another call has taken up.
pub(super) fn taken_over() -> Status {
    let details = ErrorDetails::with_error_info("SESSION_TAKEN", DOMAIN, HashMap::new());
    Status::with_error_details(Code::Aborted, "another call has taken up the session", details)
}

/// The status of a frame that comes without a credit.
pub(super) fn no_credit(seq: u64) -> Status {
    let details = ErrorDetails::with_error_info("CREDIT_MISSING", DOMAIN, HashMap::new());
    let told = format!("frame: {seq} came without a credit, and is not taken");
    Status::with_error_details(Code::ResourceExhausted, told, details)
}

/// The status of a call of Watch whose client has sent nothing for so long.
pub(super) fn silent(idle_max: Duration) -> Status {
    let details = ErrorDetails::with_error_info("SESSION_IDLE", DOMAIN, HashMap::new());
    let told = format!("no message for {} ms, the longest that is allowed", idle_max.as_millis());
    Status::with_error_details(Code::DeadlineExceeded, told, details)
}

/// The same as a message, for one item of a list.
pub(super) fn item_status(error: EngineError) -> tonic_types::Status {
    tonic_types::Status::decode(status(error).details()).expect("details are a google.rpc.Status")
}

/// The status of a call that is not let in.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal {
        Refusal::NoKey => (Code::Unauthenticated, "KEY_MISSING"),
        Refusal::Unknown => (Code::Unauthenticated, "KEY_UNKNOWN"),
        Refusal::Expired(_) => (Code::Unauthenticated, "KEY_EXPIRED"),
        Refusal::Scope(..) => (Code::PermissionDenied, "SCOPE_MISSING"),
    };
    let scope = match refusal {
        Refusal::Scope(_, scope) => HashMap::from([("scope".to_owned(), scope.name().to_owned())]),
        _ => HashMap::new(),
    };
    Status::with_error_details(code, refusal.to_string(), ErrorDetails::with_error_info(reason, DOMAIN, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_to_programs_too() {
        let error = EngineError::Invalid { field: "media".into(), problem: "too large".into() }.within("items[2]");
        let status = status(error.clone());
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "items[2].media: too large"));
        let violations = status.get_details_bad_request().expect("a bad request").field_violations;
        assert_eq!((&*violations[0].field, &*violations[0].description), ("items[2].media", "too large"));
        let item = item_status(error);
        assert_eq!((item.code, &*item.message), (Code::InvalidArgument as i32, "items[2].media: too large"));
        assert_eq!(item.details.len(), 2, "the reason and the field");
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let retry_after = Duration::from_millis(250);
        let status = status(EngineError::Overloaded { what: "the queue", retry_after });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().expect("retry info").retry_delay, Some(retry_after));
    }

    #[test]
    fn a_program_can_switch_on_the_reason() {
        let info = |status: Status| status.get_details_error_info().map(|info| (info.domain, info.reason));
        let told = |reason: &str| Some((DOMAIN.to_string(), reason.to_string()));
        assert_eq!(info(draining()), told("DRAINING"));
        assert_eq!(info(status(EngineError::DeadlineExceeded)), told("DEADLINE_EXCEEDED"));
        let full = EngineError::Exhausted { limit: "uploads.items_max", max: 3, retry_after: Duration::from_secs(2) };
        let full = status(full);
        assert_eq!(full.get_details_quota_failure().expect("which").violations[0].subject, "uploads.items_max");
        assert_eq!(full.get_details_retry_info().expect("when").retry_delay, Some(Duration::from_secs(2)));
        assert_eq!(info(full), told("QUOTA_EXHAUSTED"));
    }

    #[test]
    fn an_item_without_details_keeps_code_and_message() {
        let item = item_status(EngineError::DeadlineExceeded);
        assert_eq!((item.code, &*item.message), (Code::DeadlineExceeded as i32, "deadline exceeded"));
    }
}
