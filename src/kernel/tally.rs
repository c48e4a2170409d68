//! Where the time of a forward pass goes, kind by kind: kept on request, for the thread that asks.
//!
//! Every kernel that does work worth counting runs inside [`count`]. While nobody keeps a tally or listens to the
//! thread's pulse that is one look at two thread-local flags; kernels that run on threads of the pool are part of the kernel that called them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::clock::Moment;
use super::{pulse, threads};

/// What kernels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Products of ternary weights and bytes.
    Ternary,
    /// Products of bytes.
    Int8,
    /// Products of bf16 weights.
    Bf16,
    /// Products of floats.
    F32,
    /// Attention with products of floats: scores, softmax, mixing.
    AttentionF32,
    /// Attention with products of bf16.
    AttentionBf16,
    /// Floats to bytes, with the norm or gate that feeds them where they are one pass.
    Rounding,
    /// Norms, activations, rotation, sums.
    Elementwise,
}

impl Kind {
    /// Every kind, in the order of a table.
    pub const ALL: [Kind; 8] = [
        Kind::Ternary,
        Kind::Int8,
        Kind::Bf16,
        Kind::F32,
        Kind::AttentionF32,
        Kind::AttentionBf16,
        Kind::Rounding,
        Kind::Elementwise,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ternary => "ternary",
            Kind::Int8 => "int8",
            Kind::Bf16 => "bf16",
            Kind::F32 => "f32",
            Kind::AttentionF32 => "attention, f32",
            Kind::AttentionBf16 => "attention, bf16",
            Kind::Rounding => "rounding",
            Kind::Elementwise => "element-wise",
        }
    }
}

/// What one kind of work took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Time as [`Moment`] counts it, without that of kernels called from within.
    pub time: Duration,
    /// Multiplications and additions of products; 0 for work that is not counted in them.
    pub operations: f64,
    /// Calls.
    pub calls: u64,
}

/// What each kind of work took, by [`Kind`] as a number.
pub type Tally = [Share; Kind::ALL.len()];

thread_local! {
    static TALLY: RefCell<Option<Tally>> = const { RefCell::new(None) };
    static KEEPING: Cell<bool> = const { Cell::new(false) };
    /// Time of the kernels that ended inside the one that runs.
    static INNER: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `work` and tells what its kernels took, those called from this thread. Tallies do not nest.
pub fn kept<R>(work: impl FnOnce() -> R) -> (R, Tally) {
    TALLY.set(Some(Tally::default()));
    INNER.set(Duration::ZERO);
    KEEPING.set(true);
    let result = work();
    KEEPING.set(false);
    (result, TALLY.take().unwrap_or_default())
}

/// Runs `work` as one piece of `kind` that does so many operations.
#[inline]
pub(crate) fn count<R>(kind: Kind, operations: f64, work: impl FnOnce() -> R) -> R {
    pulse::beat();
    if !KEEPING.get() {
        return work();
    }
    let before = INNER.replace(Duration::ZERO);
    let start = Moment::now(threads::available());
    let result = work();
    let time = start.elapsed();
    let own = time.saturating_sub(INNER.replace(before + time));
    TALLY.with_borrow_mut(|tally| {
        let Some(share) = tally.as_mut().map(|tally| &mut tally[kind as usize]) else { return };
        share.time += own;
        share.operations += operations;
        share.calls += 1;
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for so long on this thread's clock.
    fn busy(time: Duration) {
        let start = Moment::now(1);
        while start.elapsed() < time {}
    }

    #[test]
    fn work_within_work_is_counted_once() {
        let inner = || count(Kind::AttentionF32, 3.0, || busy(Duration::from_millis(5)));
        let outer = || {
            inner();
            inner();
        };
        let ((), tally) = kept(|| threads::serial(|| count(Kind::Rounding, 0.0, outer)));
        let [attention, rounding] = [Kind::AttentionF32, Kind::Rounding].map(|kind| tally[kind as usize]);
        assert_eq!((attention.calls, attention.operations, rounding.calls), (2, 6.0, 1));
        assert!(attention.time >= Duration::from_millis(10), "{attention:?}");
        assert!(rounding.time < attention.time, "the outer work's own share is next to nothing: {rounding:?}");
    }

    #[test]
    fn nothing_is_counted_unasked() {
        count(Kind::F32, 1.0, || ());
        let ((), tally) = kept(|| ());
        count(Kind::F32, 1.0, || ());
        assert_eq!(tally, Tally::default());
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "tallies are indexed by kind");
        }
    }
}
