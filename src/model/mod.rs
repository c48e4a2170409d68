//! The parts of VL-JEPA in their published architectures, and the bundles they come from.

pub mod verify;
