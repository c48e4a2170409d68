//! Laws of streams: repeatable, without gaps, true to what is drawn, inside the picture.

use super::shot::Shot;
use super::view::Span;
use super::*;

fn world() -> World {
    World::new(Config::default())
}

fn shots(seeds: std::ops::Range<u64>) -> impl Iterator<Item = Shot> {
    let pace = StreamConfig { events: [1, 4], ..StreamConfig::default() };
    let config = Config::default();
    seeds.map(move |seed| Shot::draw(&config, &pace, 3_600_000, &mut ChaCha8Rng::seed_from_u64(seed)))
}

/// A stream of seconds, for tests that draw it.
fn short() -> StreamConfig {
    StreamConfig { duration_ms: [20_000, 30_000], hold_ms: [1_500, 4_000], ..StreamConfig::default() }
}

#[test]
fn a_seed_gives_the_same_stream_and_pixels() {
    for seed in 0..3 {
        let [first, second] = [(); 2].map(|()| world().stream(seed, &short()));
        assert_eq!(first.annotations, second.annotations);
        assert!(first.frames(24).eq(second.frames(24)), "seed {seed} differs from itself");
        assert_eq!(first.frames(24).count(), first.frames_len());
        assert_eq!(first.frames_len(), (first.duration_ms as usize * 4).div_ceil(1000));
        assert!(first.frames(24).all(|frame| frame.len() == 24 * 24 * 3));
    }
    assert_ne!(world().stream(1, &short()).annotations, world().stream(2, &short()).annotations);
}

#[test]
fn annotations_have_no_gaps_and_keep_the_pace() {
    let config = StreamConfig::default();
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let stream = world().stream(seed, &config);
        assert!((config.duration_ms[0]..=config.duration_ms[1]).contains(&stream.duration_ms));
        let said = &stream.annotations;
        assert_eq!((said[0].start_ms, said[said.len() - 1].end_ms, said[0].cut), (0, stream.duration_ms, false));
        for (index, now) in said.iter().enumerate() {
            let length = now.end_ms - now.start_ms;
            let next = said.get(index + 1);
            assert!(next.is_none_or(|next| next.start_ms == now.end_ms), "seed {seed}: a gap after {now:?}");
            assert!(!now.cut || now.event == Event::Nothing, "a shot begins with a hold");
            if now.event == Event::Nothing {
                let cut_short = next.is_none();
                assert!(cut_short || (1_500..=12_000).contains(&length), "seed {seed}: {now:?}");
                assert!(
                    next.is_none_or(|next| next.cut != (next.event != Event::Nothing)),
                    "holds and events by turns"
                );
            } else {
                assert!((1_500..=2_500).contains(&length), "seed {seed}: {now:?}");
                assert!(next.is_some_and(|next| next.event == Event::Nothing), "an event is followed by a hold");
            }
            lengths.insert(length);
            for at in [now.start_ms, now.end_ms - 1] {
                assert_eq!(stream.at(at as f64), Some(now));
            }
        }
        assert_eq!(stream.at(stream.duration_ms as f64), None);
    }
    assert!(lengths.len() > 1000, "only {} different lengths", lengths.len());
}

#[test]
fn every_event_happens_and_a_window_in_a_stretch_shows_what_is_said() {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for shot in shots(0..250) {
        for stretch in &shot.stretches {
            let whole = shot.stretch(stretch).expect("one to four objects").scenario;
            *seen.entry(stretch.event.phrase()).or_default() += 1;
            assert_eq!(whole.event, stretch.event);
            // Windows of two seconds at the beginning and at the end, or the stretch where it is shorter.
            let [start, end] = [stretch.start_ms as f32, stretch.end_ms as f32];
            let late = (end - 1750.0).max(start);
            for (from, to) in [(start, (start + 1750.0).min(end)), (late, end)] {
                let view = shot.view(Span { from, to, frames: 8 }).expect("one to four objects");
                assert_eq!(view.scenario.event, stretch.event, "{stretch:?} from {from} to {to}");
                if stretch.event == Event::Nothing {
                    assert!(view.clear);
                    assert!(view.scenario.objects.iter().all(Object::is_constant), "{stretch:?}");
                }
                assert_eq!(view.scenario.caption(), whole.caption(), "{stretch:?} from {from} to {to}");
            }
        }
    }
    assert_eq!(seen.len(), Event::PHRASES.len(), "{seen:?}");
    assert!(seen.values().all(|count| *count >= 4), "{seen:?}");
}

#[test]
fn what_an_event_changed_stays_changed() {
    for shot in shots(300..420) {
        for around in shot.stretches.windows(3).filter(|around| around[1].event != Event::Nothing) {
            let [before, after] = [&around[0], &around[2]].map(|hold| shot.stretch(hold).expect("a scene").scenario);
            let during = shot.stretch(&around[1]).expect("a scene").scenario;
            let more = match around[1].event {
                Event::Enters(_) | Event::Appears => 1,
                Event::Leaves(_) | Event::Disappears => -1,
                _ => 0,
            };
            assert_eq!(before.objects.len() as i64 + more, after.objects.len() as i64);
            for actor in during.actors() {
                let there = actor.at(1.0).filter(|_| !matches!(around[1].event, Event::Leaves(_)));
                let same = after.objects.iter().find(|object| object.shape == actor.shape && object.tilt == actor.tilt);
                assert_eq!(there, same.and_then(|object| object.at(0.0)), "{:?}", around[1]);
            }
            let sizes = [&before, &after].map(|scene| {
                let same = scene.objects.iter().find(|object| object.tilt == during.objects[0].tilt);
                same.map(|object| object.size)
            });
            match around[1].event {
                Event::Grows => assert_eq!(sizes, [Some(Size::Small), Some(Size::Large)]),
                Event::Shrinks => assert_eq!(sizes, [Some(Size::Large), Some(Size::Small)]),
                _ => {}
            }
        }
    }
}

#[test]
fn objects_stay_inside_and_apart() {
    for shot in shots(500..600) {
        for stretch in &shot.stretches {
            let crosses = matches!(stretch.event, Event::Enters(_) | Event::Leaves(_));
            for moment in 0..=8u64 {
                let time = (stretch.start_ms + moment * (stretch.end_ms - stretch.start_ms) / 8) as f32;
                let there: Vec<(usize, Pose)> = (0..shot.objects.len())
                    .filter_map(|index| Some((index, shot.objects[index].at(time)?)))
                    .filter(|(_, pose)| [pose.x, pose.y].iter().all(|at| (-0.1..=1.1).contains(at)))
                    .collect();
                for (index, pose) in &there {
                    let inside = [pose.x, pose.y].iter().all(|at| (pose.radius..=1.0 - pose.radius).contains(at));
                    assert!(inside || crosses && stretch.actors.contains(index), "{stretch:?} at {time}: {pose:?}");
                    for (other, beside) in there.iter().filter(|(other, _)| other != index) {
                        let gap = (pose.x - beside.x).hypot(pose.y - beside.y) / (pose.radius + beside.radius);
                        let pair = [index, other].iter().all(|one| stretch.actors.contains(one));
                        let met =
                            shot.stretches.iter().any(|s| s.event == Event::Collide && s.start_ms <= stretch.start_ms);
                        assert!(gap > if pair || met { 0.8 } else { 0.9 }, "{stretch:?} at {time}: {gap}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_hold_is_still_but_for_noise_and_some_shots_have_none() {
    let (mut quiet, mut noisy) = (0, 0);
    for shot in shots(600..640) {
        let hold = &shot.stretches[0];
        let mut painter = shot.painter(32);
        let [first, last] = [hold.start_ms, hold.end_ms - 1].map(|at| painter.frame(at as f32, at));
        let difference = first.iter().zip(&last).map(|(a, b)| f32::from(a.abs_diff(*b))).sum::<f32>() / 3072.0;
        if shot.light.noise == 0.0 {
            quiet += 1;
            assert_eq!(difference, 0.0);
        } else {
            noisy += 1;
            assert!(difference > 0.0 && difference < 1.3 * shot.light.noise, "{difference} of {}", shot.light.noise);
        }
    }
    assert!(quiet >= 4 && noisy >= 4, "{quiet} without noise, {noisy} with");
}

#[test]
fn a_stream_draws_what_its_annotations_say() {
    // Where the picture changes by more than noise, an event or a cut is annotated; where nothing is, it does not.
    let mut config = short();
    config.events = [1, 2];
    for seed in 20..26 {
        let stream = world().stream(seed, &config);
        let frames: Vec<_> = stream.frames(32).collect();
        for (index, pair) in frames.windows(2).enumerate() {
            let [before, now] = [index, index + 1].map(|frame| stream.at(stream.frame_ms(frame)).expect("within"));
            let far = pair[0].iter().zip(&pair[1]).filter(|(a, b)| a.abs_diff(**b) > 70).count();
            if before == now && now.event == Event::Nothing {
                assert_eq!(far, 0, "seed {seed}: a hold changes at frame {index}: {now:?}");
            }
            if now.cut && before != now {
                let changed = pair[0].iter().zip(&pair[1]).filter(|(a, b)| a.abs_diff(**b) > 4).count();
                assert!(changed > 300, "seed {seed}: a cut shows nothing at frame {index}");
            }
        }
    }
}

#[test]
fn held_out_pairs_stay_out_of_streams() {
    for pairs in [Pairs::Train, Pairs::HeldOut] {
        let world = World::new(Config { pairs, ..Config::default() });
        for seed in 0..10 {
            for (_, shot) in world.stream(seed, &StreamConfig::default()).shots() {
                for object in &shot.objects {
                    assert!(pairs.allows(object.colour, object.shape));
                    assert!(object.turns.is_none_or(|turn| pairs.allows(turn.1, object.shape)));
                }
            }
        }
    }
}

#[test]
fn odd_configurations_still_make_whole_streams() {
    let brief = StreamConfig { duration_ms: [1_500, 1_500], ..StreamConfig::default() };
    let hasty = StreamConfig { hold_ms: [1, 1], event_ms: [1, 9], duration_ms: [50, 90], ..StreamConfig::default() };
    let rare = StreamConfig { fps: 0.3, ..short() };
    let alone = World::new(Config { objects: 1..=1, ..Config::default() });
    for world in [world(), alone] {
        for config in [brief, hasty, rare] {
            for seed in 0..20 {
                let stream = world.stream(seed, &config);
                let last = stream.annotations.last().expect("something is said");
                assert_eq!(last.end_ms, stream.duration_ms);
                assert!(stream.annotations.iter().all(|said| said.start_ms < said.end_ms && !said.caption.is_empty()));
                assert_eq!(stream.frames(16).count(), stream.frames_len());
            }
        }
    }
}

#[test]
#[should_panic(expected = "hold_ms is 0")]
fn a_hold_of_no_length_is_refused() {
    world().stream(0, &StreamConfig { hold_ms: [0, 5], ..StreamConfig::default() });
}

#[test]
fn what_is_left_of_an_event_is_what_is_seen_of_it() {
    let mut seen = std::collections::BTreeSet::new();
    for shot in shots(700..900) {
        for stretch in shot.stretches.iter().filter(|stretch| stretch.event != Event::Nothing) {
            for shift in -6..=6i32 {
                let from = stretch.start_ms as f32 + shift as f32 * 300.0;
                let Some(view) = shot.view(Span { from, to: from + 1750.0, frames: 8 }) else { continue };
                let clip = view.scenario;
                assert!(clip.objects.len() <= OBJECTS_MAX && clip.actors().len() == clip.event.actors());
                seen.insert((stretch.event.phrase(), clip.event.phrase()));
                for actor in clip.actors() {
                    let visible =
                        (0..8).any(|frame| actor.at(clip.time(frame)).is_some_and(|p| (0.0..=1.0).contains(&p.x)));
                    assert!(visible, "{:?} of {stretch:?} is never there", clip.event);
                }
                match clip.event {
                    Event::Nothing => {}
                    Event::Appears => assert!(clip.actors()[0].at(0.0).is_none() && clip.actors()[0].at(1.0).is_some()),
                    Event::Disappears => {
                        assert!(clip.actors()[0].at(0.0).is_some() && clip.actors()[0].at(1.0).is_none())
                    }
                    _ => assert!(clip.actors().iter().all(|actor| !actor.is_constant()), "{:?}", clip.event),
                }
            }
        }
    }
    for (scripted, shown) in [
        ("an object enters from the left", "an object moves right"),
        ("an object leaves", "an object moves up"),
        ("two objects collide", "two objects move"),
        ("two objects move", "an object moves down"),
        ("an object grows", "nothing happens"),
        ("an object appears", "nothing happens"),
    ] {
        assert!(seen.contains(&(scripted, shown)), "{scripted} is never seen as {shown}");
    }
    assert!(!seen.contains(&("an object moves left", "an object moves right")));
}
