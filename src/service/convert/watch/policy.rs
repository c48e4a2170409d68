//! When an embedding becomes words, from protobuf and back. What figures can be is the policy's own matter.

use super::milliseconds;
use crate::segment::{Policy, PolicyError};
use crate::service::convert::{Checked, invalid};
use crate::service::proto::{self, DecodeMode};
use crate::watch::Decode;

/// Longest time between two decodes of mode UNIFORM: a day.
const UNIFORM_MS_MAX: u64 = 86_400_000;
/// The same if nobody sets it.
const UNIFORM_MS: u64 = 1000;

/// The rule that is asked for. What its mode does not use is checked all the same.
pub(super) fn decode_of(asked: proto::DecodePolicy) -> Checked<Decode> {
    let usual = Policy::default();
    let policy = Policy {
        threshold: asked.threshold.unwrap_or(usual.threshold),
        // What is no number is neither 0 nor anything else.
        calm: asked.calm.map_or(usual.calm, |calm| (calm != 0.0).then_some(calm)),
        unsettled_max_ms: asked.unsettled_max_ms.unwrap_or(usual.unsettled_max_ms),
        smoothing: asked.smoothing.unwrap_or(usual.smoothing),
        gap_min_ms: asked.gap_min_ms.unwrap_or(usual.gap_min_ms),
        silence_max_ms: asked.silence_max_ms.map_or(usual.silence_max_ms, |ms| (ms != 0).then_some(ms)),
        per_minute_max: asked.per_minute_max.map_or(usual.per_minute_max, |most| (most != 0).then_some(most)),
        ..usual
    };
    let wrong = |PolicyError { field, value, bound }| invalid(field, format!("is {value}, must be {bound}"));
    policy.check().map_err(wrong)?;
    let every_ms = asked.uniform_ms.unwrap_or(UNIFORM_MS);
    milliseconds("uniform_ms", every_ms, 1, UNIFORM_MS_MAX)?;
    match DecodeMode::try_from(asked.mode) {
        Ok(DecodeMode::Unspecified | DecodeMode::Drift) => Ok(Decode::Drift(policy)),
        Ok(DecodeMode::Uniform) => Ok(Decode::Uniform { every_ms }),
        Ok(DecodeMode::Never) => Ok(Decode::Never),
        Err(_) => Err(invalid("mode", format!("is {}, no such mode", asked.mode))),
    }
}

/// The policy in force: all that its mode uses.
pub(super) fn policy(decode: Decode) -> proto::DecodePolicy {
    match decode {
        Decode::Drift(policy) => proto::DecodePolicy {
            mode: DecodeMode::Drift as i32,
            threshold: Some(policy.threshold),
            calm: Some(policy.calm.unwrap_or(0.0)),
            smoothing: Some(policy.smoothing),
            gap_min_ms: Some(policy.gap_min_ms),
            silence_max_ms: Some(policy.silence_max_ms.unwrap_or(0)),
            per_minute_max: Some(policy.per_minute_max.unwrap_or(0)),
            uniform_ms: None,
            unsettled_max_ms: Some(policy.unsettled_max_ms),
        },
        Decode::Uniform { every_ms } => {
            proto::DecodePolicy { mode: DecodeMode::Uniform as i32, uniform_ms: Some(every_ms), ..Default::default() }
        }
        Decode::Never => proto::DecodePolicy { mode: DecodeMode::Never as i32, ..Default::default() },
    }
}
