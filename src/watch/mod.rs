//! Live sessions over the engine: frames come in, embeddings and, where the meaning changes, words go out.
//!
//! A [`Session`] is one stream: its frames become windows, every window is asked all standing queries in one vision
//! pass, and each query's [`Segmenter`](crate::segment::Segmenter) says which embeddings become words. What comes out are
//! numbered [`Event`]s, kept until they are acknowledged. The service and the commands hold the same sessions; neither
//! protobuf nor a terminal is known here.
//!
//! The rules are plain structs, tested as tables: `inbox` what waits, `still` which frames are the same, `windows` which of
//! them belong together, `standing` when there are words, `outbox` what has been told. `session` is the hand that callers
//! have on a session, `task` what runs, `looker` what is done in order. [`Sessions`] are all sessions of a server.

mod event;
mod inbox;
mod looker;
mod outbox;
pub mod seen;
mod session;
mod sessions;
mod shared;
mod spec;
mod standing;
mod still;
mod task;
mod windows;

pub use event::{DropReason, Dropped, Event, Finished, FrameFailed, Numbered, Seen, Span, Spoken, Stats, Trigger};
pub use session::{Ended, Session, Unsent};
pub use sessions::{Attached, Counted, Sessions, Token};
pub use spec::{Decode, Drops, Frame, Held, Input, Query, Spec, Unusable, View};
