//! What waits, in tables and as a law.

use super::*;
use crate::engine::{MediaFrame, PixelOrder};
use crate::watch::Query;
use proptest::prelude::*;

fn frame(seq: u64, bytes: usize) -> Input {
    let (width, pixels, pts_ms) = (bytes as u32, vec![0; bytes], 10 * seq);
    let picture = MediaFrame::Raw { width, height: 1, order: PixelOrder::Gray, pixels, pts_ms };
    Input::Frame(Frame::new(seq, picture))
}

fn inbox(drops: Drops, frames: usize, bytes: usize) -> Inbox {
    let bounds = WatchSettings {
        frames_waiting_max: frames,
        bytes_waiting_max: bytes,
        requests_waiting_max: 2,
        ..WatchSettings::default()
    };
    Inbox::new(drops, &bounds)
}

fn update() -> Input {
    Input::Update { query: 0, to: Query { question: "what?".into(), manner: None, held: None } }
}

/// What is taken, as numbers of frames; -1 is anything else.
fn taken(inbox: &mut Inbox) -> Vec<i64> {
    std::iter::from_fn(|| inbox.take())
        .map(|next| match next {
            Input::Frame(frame) => frame.seq as i64,
            _ => -1,
        })
        .collect()
}

fn refused(outcome: Result<(), (Unsent, Input)>) -> Option<Unsent> {
    outcome.err().map(|(why, _)| why)
}

#[test]
fn who_waits_is_not_dropped_and_credit_comes_back_with_understanding() {
    let mut inbox = inbox(Drops::Wait, 2, 100);
    assert_eq!((inbox.granted(), inbox.seq()), (2, None));
    assert!(inbox.offer(frame(5, 10)).is_ok() && inbox.offer(frame(7, 10)).is_ok());
    assert_eq!(refused(inbox.offer(frame(8, 10))), Some(Unsent::Full));
    assert_eq!(taken(&mut inbox), [5, 7]);
    inbox.understood();
    inbox.known();
    assert_eq!(refused(inbox.offer(frame(8, 10))), Some(Unsent::Full), "taken is not understood");
    inbox.understood();
    assert_eq!(inbox.granted(), 3);
    assert!(inbox.offer(frame(8, 10)).is_ok());
    assert_eq!((inbox.seq(), inbox.came(), inbox.dropped()), (Some(8), 3, 0));
    assert!(inbox.take_notice().is_none());
}

#[test]
fn bytes_are_bounded_and_one_large_frame_is_alone() {
    let mut waits = inbox(Drops::Wait, 9, 100);
    assert!(waits.offer(frame(1, 1000)).is_ok(), "alone it may");
    assert_eq!(refused(waits.offer(frame(2, 1))), Some(Unsent::Full));
    assert_eq!(taken(&mut waits), [1]);
    assert!(waits.offer(frame(2, 60)).is_ok() && waits.offer(frame(3, 40)).is_ok());
    assert_eq!(refused(waits.offer(frame(4, 1))), Some(Unsent::Full));

    let mut drops = inbox(Drops::Oldest, 9, 100);
    for (seq, bytes) in [(1, 60), (2, 40), (3, 30)] {
        assert!(drops.offer(frame(seq, bytes)).is_ok());
    }
    assert_eq!((drops.bytes, drops.frames), (70, 2), "one had to go");
    assert!(drops.offer(frame(4, 500)).is_ok());
    assert_eq!(taken(&mut drops), [4]);
    assert_eq!((drops.bytes, drops.frames), (0, 0));
}

#[test]
fn the_oldest_go_and_are_told_as_one() {
    let mut inbox = inbox(Drops::Oldest, 3, 100);
    for seq in 1..=8 {
        assert!(inbox.offer(frame(seq, 1)).is_ok());
        assert_eq!(inbox.granted(), 3 + seq, "there is always room for the next");
    }
    let span = Span { seq: [1, 5], ms: [10, 50] };
    assert_eq!(inbox.take_notice(), Some(Dropped { span, frames: 5, reason: DropReason::Behind }));
    assert!(inbox.take_notice().is_none());
    assert_eq!(taken(&mut inbox), [6, 7, 8]);
    inbox.known();
    inbox.understood();
    assert_eq!(inbox.granted(), 11, "it has come back already");
}

#[test]
fn only_the_latest_waits_and_requests_keep_their_places() {
    let mut inbox = inbox(Drops::LatestOnly, 3, 100);
    assert!(inbox.offer(frame(1, 1)).is_ok() && inbox.offer(Input::Flush).is_ok() && inbox.offer(frame(2, 1)).is_ok());
    assert!(inbox.offer(update()).is_ok() && inbox.offer(frame(3, 1)).is_ok());
    assert_eq!(taken(&mut inbox), [-1, -1, 3]);
    assert_eq!(inbox.take_notice().map(|notice| notice.frames), Some(2));
}

#[test]
fn duplicates_are_ignored_and_requests_bounded_and_nothing_follows_a_stop() {
    let mut inbox = inbox(Drops::Wait, 2, 100);
    for seq in [3, 3, 2, 0] {
        assert!(inbox.offer(frame(seq, 1)).is_ok());
    }
    assert_eq!((inbox.came(), inbox.granted(), inbox.seq()), (1, 5, Some(3)));
    assert!(inbox.offer(update()).is_ok() && inbox.offer(Input::Flush).is_ok());
    assert_eq!(refused(inbox.offer(update())), Some(Unsent::Full));
    assert!(inbox.offer(Input::Stop).is_ok(), "an end has always room");
    assert_eq!(refused(inbox.offer(Input::Stop)), Some(Unsent::Ended));
    assert_eq!(refused(inbox.offer(frame(9, 1))), Some(Unsent::Ended));
    assert_eq!(taken(&mut inbox), [3, -1, -1, -1]);
    assert_eq!(inbox.requests, 0);
}

#[test]
fn the_end_drops_what_is_under_way_and_what_waits() {
    let mut inbox = inbox(Drops::Wait, 9, 100);
    for seq in 1..=4 {
        assert!(inbox.offer(frame(seq, 1)).is_ok());
    }
    assert!(inbox.take().is_some() && inbox.take().is_some());
    inbox.known();
    let span = Span { seq: [2, 4], ms: [20, 40] };
    assert_eq!(inbox.end(), Some(Dropped { span, frames: 3, reason: DropReason::Ended }));
    assert!(inbox.end().is_none() && inbox.take().is_none());
    assert_eq!((inbox.came(), inbox.dropped()), (4, 3));
    assert_eq!(refused(inbox.offer(frame(9, 1))), Some(Unsent::Ended));
}

proptest! {
    #[test]
    fn bounds_hold_and_every_frame_is_accounted_for_once(
        drops in prop::sample::select(vec![Drops::Wait, Drops::Oldest, Drops::LatestOnly]),
        steps in prop::collection::vec((0..6_u8, 0..60_usize), 1..120),
    ) {
        let (mut inbox, mut seq, mut accepted, mut told) = (inbox(drops, 4, 100), 0, 0_u64, 0);
        let (mut understood, mut sent, mut granted) = (0_u64, 0_u64, 4);
        for (step, bytes) in steps {
            match step {
                0..=2 => {
                    seq += 1;
                    let room = sent < inbox.granted();
                    let taken = inbox.offer(frame(seq, bytes)).is_ok();
                    prop_assert!(drops == Drops::Wait || taken);
                    prop_assert!(room || !taken, "without credit nothing is taken");
                    accepted += u64::from(taken);
                    sent += u64::from(taken);
                }
                3 => {
                    inbox.take();
                }
                4 => {
                    understood += u64::from(!inbox.under_way.is_empty());
                    inbox.known();
                    if bytes % 2 == 0 {
                        inbox.understood();
                    }
                }
                _ => told += inbox.take_notice().map_or(0, |notice| notice.frames),
            }
            prop_assert!(inbox.frames <= 4 && (inbox.bytes <= 100 || inbox.frames == 1));
            prop_assert!(inbox.granted() >= granted, "credit is never taken back");
            granted = inbox.granted();
            let inside = (inbox.frames + inbox.under_way.len()) as u64;
            prop_assert_eq!(inbox.came(), inside + understood + inbox.dropped());
        }
        told += inbox.take_notice().map_or(0, |notice| notice.frames);
        told += inbox.end().map_or(0, |notice| notice.frames);
        prop_assert_eq!((inbox.came(), inbox.dropped()), (accepted, told));
        prop_assert_eq!(accepted, understood + told);
    }
}
