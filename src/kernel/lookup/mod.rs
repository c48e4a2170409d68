//! Faster than the multiplier: a core that multiplies some tokens and looks the products of others up, at once.
//!
//! product.rs explains and draws it; it needs AVX-512. Here stands what every machine knows of it: the setting, and the
//! second format of a packed stack, which is made when a product first wants it and never elsewhere.

mod choice;
#[cfg(target_arch = "x86_64")]
mod codes;
#[cfg(target_arch = "x86_64")]
mod fused;
#[cfg(target_arch = "x86_64")]
mod multiplier;
#[cfg(target_arch = "x86_64")]
mod plan;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod second;
#[cfg(target_arch = "x86_64")]
mod tables;
#[cfg(target_arch = "x86_64")]
mod transpose;
#[cfg(target_arch = "x86_64")]
mod windows;

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::ops::Range;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use absent::Second;
pub use choice::{Lookup, LookupError, current, force};
#[cfg(target_arch = "x86_64")]
pub(super) use second::Second;

use super::micro::Sums;

/// Takes the sums of a product.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) trait Sink {
    /// Tokens of a panel will be handed over soon: their place in memory may be fetched.
    fn expect(&mut self, tokens: Range<usize>, panel: usize);

    /// Takes the sums of some tokens with a panel.
    fn put(&mut self, tokens: Range<usize>, panel: usize, sums: &[Sums]);
}
