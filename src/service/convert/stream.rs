//! What StreamPredict's messages mean.

use std::time::{Duration, Instant};

use super::{Checked, Desk, Output, class, count, invalid, output, question};
use crate::engine::{Call, Class, Engine, Question};
use crate::service::proto::{OutputOptions, Priority, StreamPredictItem, StreamPredictOpen};

/// What holds for all items of a call.
#[derive(Debug, Clone)]
pub(in crate::service) struct Opening {
    /// The most items in flight.
    pub window: usize,
    class: Class,
    output: Option<OutputOptions>,
}

/// What the opening asks for; all of it is checked, although only the items need the output.
pub(in crate::service) fn opening(open: StreamPredictOpen, engine: &Engine) -> Checked<Opening> {
    let max = engine.settings().service.stream_items_max;
    let window = open.window as usize;
    count("window", window, 0, max)?;
    output(open.output, engine.dimensions())?;
    Ok(Opening { window: if window == 0 { max } else { window }, class: class(open.priority)?, output: open.output })
}

/// One item's question, output and call; `whole` is the stream's.
pub(in crate::service) fn stream_item(
    StreamPredictItem { item, priority, timeout_ms, .. }: StreamPredictItem,
    opening: &Opening,
    engine: &Engine,
    desk: &Desk,
    whole: &Call,
) -> Checked<(Question, Output, Call)> {
    let class = if priority == Priority::Unspecified as i32 { opening.class } else { class(priority)? };
    let own = Instant::now().checked_add(Duration::from_millis(timeout_ms)).filter(|_| timeout_ms > 0);
    let deadline = own.map_or(whole.deadline, |own| own.min(whole.deadline));
    let call = Call { class, deadline, trail: whole.trail.clone() };
    let item = item.ok_or_else(|| invalid("item", "is missing"))?;
    let question = question(item.media, item.sampling, item.question, desk);
    // The model may be another one of that name by now, so its dimensions are looked at again.
    Ok((question.map_err(|error| error.within("item"))?, output(opening.output, engine.dimensions())?, call))
}
