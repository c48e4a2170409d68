//! Live sessions over the engine: frames come in, embeddings and, where the meaning changes, words go out.
//!
//! A [`Session`] is one stream: its frames become windows, every window is asked all standing queries in one vision
//! pass, and each query's [`Segmenter`](crate::segment::Segmenter) says which embeddings become words. What comes out are
//! numbered [`Event`]s, kept until they are acknowledged. The service and the commands hold the same sessions; neither
//! protobuf nor a terminal is known here.

mod event;
mod session;
mod spec;

pub use event::{DropReason, Dropped, Event, Finished, FrameFailed, Numbered, Seen, Span, Spoken, Stats, Trigger};
pub use session::{Ended, Session, Unsent};
pub use spec::{Decode, Drops, Frame, Input, Query, Spec, View};
