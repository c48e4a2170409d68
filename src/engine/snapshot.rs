//! How an engine stands at a moment, for those who watch it: plain numbers, taken without stopping anybody.

use super::Inner;
use super::admission::Load;
use super::cache::CacheStats;
use super::cost::Passed;
use super::request::Class;

/// How an engine stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What waits for the model, by class.
    pub waiting: [(Class, Load); Class::ALL.len()],
    /// What was let in and is not answered, by class: what waits, what runs, and what others of its request wait for.
    pub admitted: [(Class, Load); Class::ALL.len()],
    /// The most that is let in.
    pub admitted_max: Load,
    /// The batch that the model works on.
    pub running: Load,
    /// Requests that are being prepared or wait for it.
    pub preparing_items: usize,
    /// Memory of everything decoded that is not answered yet, bytes.
    pub media_bytes: u64,
    /// The most of it.
    pub media_bytes_max: u64,
    /// How full the fullest of these is for queries, 0 to 1: at 1 they are refused.
    pub saturation: f64,
    /// The embeddings of texts that are remembered.
    pub texts: CacheStats,
    /// What passed through each stage since the start, tokens.
    pub passed: Passed,
    /// Tokens worked off in a second, by the last batches; absent before the first.
    pub tokens_per_second: Option<f64>,
}

impl Snapshot {
    pub(super) fn of(inner: &Inner) -> Self {
        let (line, inside) = (inner.line.glance(), inner.door.inside());
        let by_class = |loads: [Load; Class::ALL.len()]| Class::ALL.map(|class| (class, loads[class as usize]));
        let memory = inner.studio.memory();
        let held = memory.held_bytes() as f64 / memory.bytes_max().max(1) as f64;
        let full = inner.door.fullness(Class::Interactive);
        Self {
            waiting: by_class(line.waiting),
            admitted: by_class(inside),
            admitted_max: inner.door.max(),
            running: line.running,
            preparing_items: inner.prepare.items(),
            media_bytes: memory.held_bytes(),
            media_bytes_max: memory.bytes_max(),
            saturation: full.max(held).min(1.0),
            texts: inner.texts.stats(),
            passed: line.passed,
            tokens_per_second: line.tokens_per_second,
        }
    }
}
