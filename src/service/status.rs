//! From the engine's errors to gRPC's: one match, and nowhere else is a status chosen.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::engine::EngineError;

/// The status of an error, with the details that tell a program what to do.
pub(super) fn status(error: EngineError) -> Status {
    let (code, details) = match &error {
        EngineError::Invalid { field, problem } => {
            (Code::InvalidArgument, ErrorDetails::with_bad_request_violation(field, problem))
        }
        EngineError::TooLarge { .. } => {
            (Code::InvalidArgument, ErrorDetails::with_bad_request_violation("request", error.to_string()))
        }
        EngineError::Unknown { asked, .. } => {
            (Code::NotFound, ErrorDetails::with_resource_info("model", asked, "", error.to_string()))
        }
        EngineError::Present { what, name } => {
            (Code::AlreadyExists, ErrorDetails::with_resource_info(*what, name, "", error.to_string()))
        }
        EngineError::Gone { what, name } => {
            (Code::NotFound, ErrorDetails::with_resource_info(*what, name, "", error.to_string()))
        }
        EngineError::Exhausted { limit, retry_after, .. } => {
            let mut details = ErrorDetails::with_quota_failure_violation(*limit, error.to_string());
            details.set_retry_info(Some(*retry_after));
            (Code::ResourceExhausted, details)
        }
        EngineError::Unfit { subject, problem } => {
            (Code::FailedPrecondition, ErrorDetails::with_precondition_failure_violation("state", subject, problem))
        }
        EngineError::Missing { part, .. } => (
            Code::FailedPrecondition,
            ErrorDetails::with_precondition_failure_violation("part", *part, error.to_string()),
        ),
        EngineError::Overloaded { retry_after, .. } => {
            (Code::ResourceExhausted, ErrorDetails::with_retry_info(Some(*retry_after)))
        }
        EngineError::DeadlineExceeded => (Code::DeadlineExceeded, ErrorDetails::new()),
        EngineError::Stopped => (Code::Unavailable, ErrorDetails::new()),
        EngineError::Internal(cause) => {
            tracing::error!(%cause, "internal error");
            (Code::Internal, ErrorDetails::new())
        }
    };
    Status::with_error_details(code, error.to_string(), details)
}

/// The status of work that comes when the server is about to end.
pub(super) fn draining() -> Status {
    Status::unavailable("the server is draining: go on elsewhere")
}

/// The same as a message, for one item of a list.
pub(super) fn item_status(error: EngineError) -> tonic_types::Status {
    tonic_types::Status::decode(status(error).details()).expect("details are a google.rpc.Status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wrong_field_is_named_to_programs_too() {
        let error = EngineError::Invalid { field: "media".into(), problem: "too large".into() }.within("items[2]");
        let status = status(error.clone());
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "items[2].media: too large"));
        let violations = status.get_details_bad_request().expect("a bad request").field_violations;
        assert_eq!((&*violations[0].field, &*violations[0].description), ("items[2].media", "too large"));
        let item = item_status(error);
        assert_eq!((item.code, &*item.message), (Code::InvalidArgument as i32, "items[2].media: too large"));
        assert_eq!(item.details.len(), 1);
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let retry_after = Duration::from_millis(250);
        let status = status(EngineError::Overloaded { what: "the queue", retry_after });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().expect("retry info").retry_delay, Some(retry_after));
    }

    #[test]
    fn an_item_without_details_keeps_code_and_message() {
        let item = item_status(EngineError::DeadlineExceeded);
        assert_eq!((item.code, &*item.message), (Code::DeadlineExceeded as i32, "deadline exceeded"));
    }
}
