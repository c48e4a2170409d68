//! What stands for the second format on machines that have no use for one.

use super::{Lookup, Sink};
use crate::kernel::micro::Words;
use crate::kernel::quantize::QuantizedRows;

/// Nothing.
#[derive(Default)]
pub(in crate::kernel) struct Second(());

impl Second {
    /// No bytes.
    pub(in crate::kernel) fn bytes(&self) -> usize {
        0
    }

    /// No product.
    pub(in crate::kernel) fn product<S: Sink>(
        &self,
        _: &[Words],
        _: &QuantizedRows,
        _: (Lookup, usize),
        _: impl Fn() -> S + Sync + Send,
    ) -> bool {
        false
    }
}
