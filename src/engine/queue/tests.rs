//! The rules as tables, and laws that hold for any sequence of what can happen to a queue.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::engine::cost::{Part, Passed};
use Class::{Interactive, Job, Watch};

const MS: Duration = Duration::from_millis(1);

/// A pace at which every token of text takes a millisecond.
fn pace() -> Pace {
    let mut pace = Pace::default();
    pace.learn(Passed { text: 1000, ..Passed::default() }, [Duration::ZERO, Duration::ZERO, 1000 * MS, Duration::ZERO]);
    pace
}

/// Eight entries or 10 tokens a batch, 4 tokens a batch of jobs; sessions are owed a fifth, jobs a twentieth.
fn rules() -> Rules {
    Rules {
        batch_max: Load { items: 8, cost: 10 },
        batch_job_cost_max: 4,
        batch_time_max: 10_000 * MS,
        batch_job_time_max: 10_000 * MS,
        owed_percent: [0, 20, 5],
    }
}

fn entry<W>(work: W, class: Class, cost: Cost, start: Instant, deadline_ms: u32) -> Entry<W> {
    Entry { work, cost, arrived: start, call: Call { class, ..Call::interactive(start + deadline_ms * MS) } }
}

fn text(tokens: usize) -> Cost {
    Cost { text: tokens, ..Cost::default() }
}

fn names(entries: &[Entry<char>]) -> String {
    entries.iter().map(|entry| entry.work).collect()
}

/// Batches that a queue gives until it is empty, at 100 ms after the start.
fn batches(rules: Rules, pace: &Pace, entries: &[(char, Class, Cost, u32)]) -> Vec<String> {
    let start = Instant::now();
    let mut queue = Queue::new(rules);
    for &(name, class, cost, deadline_ms) in entries {
        queue.push(entry(name, class, cost, start, deadline_ms));
    }
    let mut batches = vec![];
    while !queue.is_empty() {
        let batch = queue.next_batch(start + 100 * MS, pace);
        let expired = names(&batch.expired);
        batches.push(names(&batch.entries) + &if expired.is_empty() { expired } else { format!(" late {expired}") });
    }
    batches
}

#[test]
fn what_goes_next() {
    let query = |name, tokens| (name, Interactive, text(tokens), 200);
    let job = |name, tokens| (name, Job, text(tokens), 200);
    for (about, entries, expected) in [
        ("all fit", vec![query('a', 3), query('b', 4)], vec!["ab"]),
        ("the cost is bounded", vec![query('a', 6), query('b', 4), query('c', 1)], vec!["ab", "c"]),
        ("nobody overtakes", vec![query('a', 6), query('b', 5), query('c', 1)], vec!["a", "bc"]),
        ("the items are bounded", "abcdefghi".chars().map(|name| query(name, 1)).collect(), vec!["abcdefgh", "i"]),
        ("a dear one runs alone", vec![query('a', 1), query('b', 99), query('c', 1)], vec!["a", "b", "c"]),
        ("a dear one is not joined", vec![query('b', 99), query('c', 1)], vec!["b", "c"]),
        ("but by those who ask for nothing", vec![query('b', 99), query('c', 0), query('d', 1)], vec!["bc", "d"]),
        (
            "the late are set apart wherever they stand",
            vec![query('b', 1), ('a', Interactive, text(1), 100), ('c', Job, text(99), 99)],
            vec!["b late ac"],
        ),
        ("queries go first", vec![job('j', 1), ('w', Watch, text(1), 200), query('a', 1)], vec!["a", "w", "j"]),
        ("batches of jobs are smaller", vec![job('a', 2), job('b', 2), job('c', 2)], vec!["ab", "c"]),
    ] {
        assert_eq!(batches(rules(), &pace(), &entries), expected, "{about}");
    }
}

/// A question about a clip of six tokens.
fn scene(clip: u64, question: u64) -> Cost {
    let (vision, question) = (Part { tokens: 6, same: clip }, Part { tokens: 1, same: 10 * clip + question });
    Cost { vision, question, read: 6, ..Cost::default() }
}

#[test]
fn what_is_equal_is_counted_once() {
    let mut pace = Pace::default();
    pace.learn(Passed { vision: 1, predictor: 1, ..Passed::default() }, [Duration::ZERO; 4]);
    let ask = |name, clip, question| (name, Interactive, scene(clip, question), 200);
    let entries = [ask('a', 1, 1), ask('b', 1, 2), ask('c', 1, 3), ask('d', 2, 1), ask('e', 2, 2), ask('f', 2, 2)];
    assert_eq!(batches(rules(), &pace, &entries), ["abc", "def"]);
    // Each is too dear for a batch, and those that are equal still go together.
    let narrow = Rules { batch_max: Load { items: 8, cost: 3 }, ..rules() };
    assert_eq!(batches(narrow, &pace, &entries), ["a", "b", "c", "d", "ef"]);
}

#[test]
fn a_batch_takes_no_longer_than_it_should_and_what_is_unmeasured_runs_alone() {
    let rules = Rules { batch_time_max: 5 * MS, ..rules() };
    let query = |name, tokens| (name, Interactive, text(tokens), 200);
    let entries = [query('a', 3), query('b', 2), query('c', 1), query('d', 9), query('e', 1)];
    assert_eq!(batches(rules.clone(), &pace(), &entries), ["ab", "c", "d", "e"]);
    let entries = [query('a', 1), query('b', 1)];
    assert_eq!(batches(rules.clone(), &Pace::default(), &entries), ["a", "b"]);
    let decoded = ('b', Interactive, Cost { decoder: Part { tokens: 1, same: 0 }, ..text(1) }, 200);
    assert_eq!(batches(rules, &pace(), &[query('a', 1), decoded, query('c', 1)]), ["a", "b", "c"]);
    let rules = Rules { batch_job_time_max: 2 * MS, ..self::rules() };
    let job = |name| (name, Job, text(1), 200);
    let entries = [query('a', 1), query('b', 1), query('c', 1), job('d'), job('e'), job('f')];
    assert_eq!(batches(rules, &pace(), &entries), ["abc", "de", "f"]);
}

#[test]
fn who_is_passed_by_is_owed_for_it_and_goes_once() {
    let start = Instant::now();
    let mut queue = Queue::new(rules());
    let push = |queue: &mut Queue<char>, name, class, tokens| {
        queue.push(entry(name, class, text(tokens), start, 1_000_000));
    };
    for _ in 0..3 {
        push(&mut queue, 'j', Job, 4);
        push(&mut queue, 'w', Watch, 10);
    }
    let mut order = String::new();
    for _ in 0..30 {
        push(&mut queue, 'q', Interactive, 10);
        order += &names(&queue.next_batch(start, &pace()).entries);
    }
    // After 50 tokens of others a session is owed its 10, after 80 a job its 4.
    assert_eq!(order, "qqqqqwqqjqqqwqqqqjqwqqqqqqjqqq");
}

#[test]
fn what_left_does_not_run() {
    let start = Instant::now();
    let mut queue = Queue::new(rules());
    let tickets: Vec<Ticket> = "abc".chars().map(|name| queue.push(entry(name, Watch, text(1), start, 200))).collect();
    assert_eq!(queue.waiting(), [Load::default(), Load { items: 3, cost: 3 }, Load::default()]);
    assert_eq!(queue.cancel(tickets[1]).map(|entry| entry.work), Some('b'));
    assert!(queue.cancel(tickets[1]).is_none());
    assert_eq!(names(&queue.next_batch(start, &pace()).entries), "ac");
    assert!(queue.cancel(tickets[0]).is_none(), "it runs");
    assert!(queue.is_empty() && queue.next_batch(start, &pace()).entries.is_empty());
}

/// What can happen to a queue.
#[derive(Debug, Clone)]
enum Event {
    Push { class: Class, cost: Cost, deadline_ms: u32 },
    Cancel { which: usize },
    Batch { after_ms: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    let class = prop::sample::select(Class::ALL.to_vec());
    let part =
        |tokens, step| (0..tokens, 0..3_u64).prop_map(move |(tokens, same)| Part { tokens: step * tokens, same });
    let cost = (part(4_usize, 4), part(3, 1), 0..30_usize, part(3, 1))
        .prop_map(|(vision, question, text, decoder)| Cost { vision, question, read: vision.tokens, text, decoder });
    prop_oneof![
        5 => (class, cost, 1..2000_u32).prop_map(|(class, cost, deadline_ms)| Event::Push { class, cost, deadline_ms }),
        1 => (0..64_usize).prop_map(|which| Event::Cancel { which }),
        3 => (0..100_u32).prop_map(|after_ms| Event::Batch { after_ms }),
    ]
}

/// A queue and what became of everything that was pushed.
struct Trial {
    queue: Queue<usize>,
    pace: Pace,
    start: Instant,
    now: Instant,
    tickets: Vec<Ticket>,
    ends: HashMap<usize, &'static str>,
}

impl Trial {
    fn new(pace: Pace) -> Self {
        let start = Instant::now();
        let (tickets, ends) = (vec![], HashMap::new());
        Self { queue: Queue::new(rules()), pace, start, now: start, tickets, ends }
    }

    fn end(&mut self, entry: &Entry<usize>, how: &'static str) {
        assert_eq!(self.ends.insert(entry.work, how), None, "{} ends twice", entry.work);
    }

    fn batch(&mut self) -> Batch<usize> {
        let waiting = !self.queue.is_empty();
        let batch = self.queue.next_batch(self.now, &self.pace);
        assert_eq!(waiting, !(batch.entries.is_empty() && batch.expired.is_empty()), "something always goes");
        batch.expired.iter().for_each(|entry| self.end(entry, "expired"));
        batch.entries.iter().for_each(|entry| self.end(entry, "run"));
        for entry in &batch.expired {
            assert!(entry.call.deadline <= self.now);
        }
        let Some(first) = batch.entries.first() else { return batch };
        let (mut before, mut added) = (Vec::new(), Vec::new());
        for Entry { cost, call, .. } in &batch.entries {
            assert!(call.class == first.call.class && call.deadline > self.now);
            added.push(cost.beside(&before).tokens());
            before.push(*cost);
        }
        let cost: usize = added.iter().sum();
        assert_eq!(batch.load, Load { items: batch.entries.len(), cost });
        assert!(batch.entries.len() <= rules().batch_max.items);
        let alone = added[1..].iter().all(|&added| added == 0);
        assert!(cost <= rules().cost_max(first.call.class) || alone, "{cost} tokens of {added:?}");
        batch
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Push { class, cost, deadline_ms } => {
                let late = (self.now - self.start).as_millis() as u32 + deadline_ms;
                let entry = entry(self.tickets.len(), class, cost, self.start, late);
                self.tickets.push(self.queue.push(entry));
            }
            Event::Cancel { which } if which < self.tickets.len() => {
                if let Some(left) = self.queue.cancel(self.tickets[which]) {
                    assert_eq!(left.work, which);
                    self.end(&left, "left");
                }
            }
            Event::Cancel { .. } => {}
            Event::Batch { after_ms } => {
                self.now += after_ms * MS;
                self.batch();
            }
        }
    }
}

proptest! {
    #[test]
    fn everything_ends_once_and_no_item_blocks_the_queue(
        events in prop::collection::vec(event(), 1..200),
        measured in any::<bool>(),
    ) {
        let mut trial = Trial::new(if measured { pace() } else { Pace::default() });
        for event in events {
            trial.happens(event);
        }
        // Every batch takes something away.
        for _ in 0..trial.tickets.len() {
            trial.batch();
        }
        prop_assert!(trial.queue.is_empty());
        prop_assert_eq!(trial.ends.len(), trial.tickets.len());
    }

    #[test]
    fn within_a_class_nobody_overtakes(events in prop::collection::vec(event(), 1..200)) {
        let mut trial = Trial::new(pace());
        let mut last = [None; 3];
        for event in events {
            if !matches!(event, Event::Batch { .. }) {
                trial.happens(event);
                continue;
            }
            for entry in trial.batch().entries {
                let last = &mut last[entry.call.class as usize];
                prop_assert!(last.replace(entry.work).is_none_or(|last| last < entry.work));
            }
        }
    }

    /// However much comes, a query waits for one batch of another class at most between two of its own class.
    #[test]
    fn a_query_waits_for_one_batch_of_others(events in prop::collection::vec(event(), 1..200)) {
        let mut trial = Trial::new(pace());
        let mut others = 0;
        for event in events {
            let is_batch = matches!(event, Event::Batch { .. });
            if !is_batch {
                trial.happens(event);
                continue;
            }
            let waits = trial.queue.waits(Interactive);
            let batch = trial.batch();
            let Some(first) = batch.entries.first() else { continue };
            others = if waits && first.call.class != Interactive { others + 1 } else { 0 };
            prop_assert!(others <= 1, "{} batches went before a query", others);
        }
    }

    /// While queries and sessions never end, everybody's turn comes within what is owed.
    #[test]
    fn no_class_starves(
        query in 1..20_usize, session in 1..20_usize, job in 1..20_usize, class in prop::sample::select(vec![Watch, Job]),
    ) {
        let mut trial = Trial::new(pace());
        let push = |trial: &mut Trial, class, tokens| {
            trial.happens(Event::Push { class, cost: text(tokens), deadline_ms: 1_000_000 });
        };
        let (mut waited, mut runs) = (0, 0);
        for _ in 0..1000 {
            for (class, tokens) in [(Interactive, query), (Watch, session), (Job, job)] {
                while trial.queue.waiting()[class as usize].items < 9 {
                    push(&mut trial, class, tokens);
                }
            }
            let batch = trial.batch();
            if batch.entries[0].call.class == class {
                (waited, runs) = (0, runs + 1);
                continue;
            }
            waited += batch.load.cost;
            // What its batch takes, at its part; two more for who is owed as well, and for who went when it was not.
            let (own, percent) = if class == Watch { (session.max(10), 20) } else { (job.max(4), 5) };
            let bound = 2 * own * 100 / percent + 3 * 20;
            prop_assert!(waited <= bound, "{:?} waits while {} tokens pass, at most {}", class, waited, bound);
        }
        prop_assert!(runs > 0);
    }
}
