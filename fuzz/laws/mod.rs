//! What must hold for any bytes whatever. Each law is a function that panics where it does not hold. They stand here
//! once: libFuzzer feeds them what it thinks of (fuzz/targets), the tests what was worth keeping (tests/it/fuzz.rs).

mod bundle;
mod convert;
mod decode;
mod elements;
mod line;
mod ternary;

pub use bundle::bundle;
pub use convert::convert;
pub use decode::{decode, video};
pub use elements::elements;
pub use line::line;
pub use ternary::ternary;
