//! `src/kernel/` as a crate of its own.
//!
//! It has four dependencies instead of the whole tree, so its tests can be built for another chip and run under user-mode
//! emulation (`.ci/aarch64`). It must name nothing outside its floor, which this crate shows by compiling.

#[path = "../../src/kernel/mod.rs"]
pub mod kernel;
