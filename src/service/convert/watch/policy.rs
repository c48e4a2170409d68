//! When an embedding becomes words, from protobuf and back.

use super::milliseconds;
use crate::segment::Policy;
use crate::service::convert::{Checked, invalid};
use crate::service::proto::{self, DecodeMode};
use crate::watch::Decode;

/// Longest time of a policy: a day.
const TIME_MS_MAX: u64 = 86_400_000;
/// Time between two decodes of mode UNIFORM, if nobody sets it.
const UNIFORM_MS: u64 = 1000;
/// Cosine distances are up to this.
const DISTANCE_MAX: f64 = 2.0;
const SMOOTHING_MAX: f64 = 0.99;

/// The rule that a policy asks for. What its mode does not use is checked all the same.
pub(super) fn decode_of(policy: proto::DecodePolicy) -> Checked<Decode> {
    let proto::DecodePolicy { mode, .. } = policy;
    let usual = Policy::default();
    let number = |field: &str, value: Option<f64>, max: f64| match value {
        Some(value) if !(0.0..=max).contains(&value) => {
            Err(invalid(field, format!("is {value}, must be from 0 to {max}")))
        }
        value => Ok(value),
    };
    let time = |field: &str, value: Option<u64>, min: u64| {
        value.map_or(Ok(()), |value| milliseconds(field, value, min, TIME_MS_MAX)).map(|()| value)
    };
    let threshold = number("threshold", policy.threshold, DISTANCE_MAX)?;
    let calm = number("calm", policy.calm, DISTANCE_MAX)?;
    let smoothing = number("smoothing", policy.smoothing, SMOOTHING_MAX)?;
    let gap_min_ms = time("gap_min_ms", policy.gap_min_ms, 0)?;
    let silence_max_ms = time("silence_max_ms", policy.silence_max_ms, 0)?;
    let every_ms = time("uniform_ms", policy.uniform_ms, 1)?.unwrap_or(UNIFORM_MS);
    match DecodeMode::try_from(mode) {
        Ok(DecodeMode::Unspecified | DecodeMode::Drift) => Ok(Decode::Drift(Policy {
            threshold: threshold.unwrap_or(usual.threshold),
            calm: calm.map_or(usual.calm, |calm| (calm > 0.0).then_some(calm)),
            smoothing: smoothing.unwrap_or(usual.smoothing),
            gap_min_ms: gap_min_ms.unwrap_or(usual.gap_min_ms),
            silence_max_ms: silence_max_ms.map_or(usual.silence_max_ms, |ms| (ms > 0).then_some(ms)),
            per_minute_max: policy.per_minute_max.map_or(usual.per_minute_max, |most| (most > 0).then_some(most)),
            ..usual
        })),
        Ok(DecodeMode::Uniform) => Ok(Decode::Uniform { every_ms }),
        Ok(DecodeMode::Never) => Ok(Decode::Never),
        Err(_) => Err(invalid("mode", format!("is {mode}, no such mode"))),
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
        },
        Decode::Uniform { every_ms } => proto::DecodePolicy {
            mode: DecodeMode::Uniform as i32,
            uniform_ms: Some(every_ms),
            ..Default::default()
        },
        Decode::Never => proto::DecodePolicy { mode: DecodeMode::Never as i32, ..Default::default() },
    }
}
