//! What the headers of streams and StreamPredict's messages mean.

use std::time::{Duration, Instant};

use tonic::Request;

use super::{Checked, Desk, Output, class, count, invalid, output, owner, question};
use crate::engine::{Call, Class, Engine, Full, Owner, Question, Trail, Uploads};
use crate::service::call::Deadline;
use crate::service::inflight::{Allowance, Held};
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

/// What holds for a stream before its first message: all that its headers say.
#[derive(Debug, Clone)]
pub(in crate::service) struct Whole {
    /// When it must have ended, if its client says so.
    pub deadline: Option<Instant>,
    /// Who asks.
    pub owner: Owner,
    /// What the call leaves behind.
    pub trail: Trail,
    allowance: Option<Allowance>,
}

impl Whole {
    /// Room for an item of `bytes` until it is answered.
    pub fn hold(&self, bytes: usize) -> Checked<Option<Held>> {
        self.allowance.as_ref().map(|allowance| allowance.hold(bytes)).transpose()
    }
}

/// What the headers of a stream say.
pub(in crate::service) fn whole<T>(request: &Request<T>) -> Whole {
    let extensions = request.extensions();
    Whole {
        deadline: extensions.get::<Deadline>().map(|deadline| deadline.0),
        owner: owner(request),
        trail: extensions.get::<Trail>().cloned().unwrap_or_default(),
        allowance: extensions.get().cloned(),
    }
}

/// One item's question, output and call.
pub(in crate::service) fn stream_item(
    StreamPredictItem { item, priority, timeout_ms, .. }: StreamPredictItem,
    opening: &Opening,
    whole: &Whole,
    engine: &Engine,
    uploads: &Uploads,
) -> Checked<(Question, Output, Call)> {
    let settings = engine.settings();
    let class = if priority == Priority::Unspecified as i32 { opening.class } else { class(priority)? };
    let patience = if timeout_ms == 0 { settings.service.deadline_default_ms } else { timeout_ms };
    let own = Instant::now() + Duration::from_millis(patience.min(settings.service.deadline_max_ms));
    let deadline = whole.deadline.map_or(own, |deadline| own.min(deadline));
    let call = Call { class, deadline, full: Full::Wait, trail: whole.trail.clone() };
    let item = item.ok_or_else(|| invalid("item", "is missing"))?;
    let desk = Desk { settings, uploads, owner: whole.owner.clone() };
    let question = question(item.media, item.sampling, item.question, &desk);
    // The model may be another one of that name by now, so its dimensions are looked at again.
    Ok((question.map_err(|error| error.within("item"))?, output(opening.output, engine.dimensions())?, call))
}
