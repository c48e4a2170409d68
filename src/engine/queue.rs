//! What waits for the model, and what goes next.
//!
//! [`Admission`] counts what has been let in and not yet been answered, and refuses the rest at once.
//! [`Queue`] belongs to the model thread; it is a plain struct that is given the time, so that its rules are
//! tables without a clock.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::request::Class;

/// Items and their cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// How many items.
    pub items: usize,
    /// What they cost together, tokens.
    pub cost: usize,
}

/// The door: lets in until items or cost reach their bound.
#[derive(Debug, Clone)]
pub struct Admission {
    load: Arc<Mutex<Load>>,
    max: Load,
}

/// Stands for what was let in, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Admission,
    load: Load,
}

impl Admission {
    /// A door with nobody inside.
    pub fn new(max: Load) -> Self {
        Self { load: Arc::new(Mutex::new(Load { items: 0, cost: 0 })), max }
    }

    /// The most that may be inside.
    pub fn max(&self) -> Load {
        self.max
    }

    /// What is inside.
    #[cfg(test)]
    pub fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `load` in, or nothing of it if it does not fit now.
    pub fn enter(&self, load: Load) -> Option<Permit> {
        let mut inside = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let items = inside.items.checked_add(load.items).filter(|&items| items <= self.max.items)?;
        let cost = inside.cost.checked_add(load.cost).filter(|&cost| cost <= self.max.cost)?;
        *inside = Load { items, cost };
        Some(Permit { admission: self.clone(), load })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.admission.load.lock().unwrap_or_else(PoisonError::into_inner);
        inside.items -= self.load.items;
        inside.cost -= self.load.cost;
    }
}

/// What can be waited for.
pub trait Waiting {
    /// Whether nobody waits for it any more.
    fn abandoned(&self) -> bool;
    /// Whether it goes before all others.
    fn urgent(&self) -> bool;
}

/// One piece of work in the queue.
#[derive(Debug)]
pub struct Entry<W> {
    /// The work.
    pub work: W,
    /// What it costs, tokens.
    pub cost: usize,
    /// Its place among others.
    pub class: Class,
    /// When it came.
    pub arrived: Instant,
    /// When nobody wants its answer any more.
    pub deadline: Instant,
}

/// What the model does next.
#[derive(Debug)]
pub struct Batch<W> {
    /// What is to be run together.
    pub entries: Vec<Entry<W>>,
    /// What came too late to run.
    pub expired: Vec<Entry<W>>,
}

/// First come, first served; urgent work first.
#[derive(Debug)]
pub struct Queue<W> {
    entries: VecDeque<Entry<W>>,
    batch_max: Load,
}

impl<W: Waiting> Queue<W> {
    /// An empty queue whose batches stay within `batch_max`; a dearer entry runs alone.
    pub fn new(batch_max: Load) -> Self {
        Self { entries: VecDeque::new(), batch_max }
    }

    /// Adds one entry.
    pub fn push(&mut self, entry: Entry<W>) {
        if entry.work.urgent() { self.entries.push_front(entry) } else { self.entries.push_back(entry) }
    }

    /// Takes in all that has come; sleeps while there is nothing. False once nothing is left and nothing can come.
    pub fn fill(&mut self, inbox: &Receiver<Entry<W>>) -> bool {
        if self.entries.is_empty() {
            let Ok(entry) = inbox.recv() else { return false };
            self.push(entry);
        }
        while let Ok(entry) = inbox.try_recv() {
            self.push(entry);
        }
        true
    }

    /// The longest run from the front that fits a batch; the abandoned vanish, the expired are set apart.
    pub fn next_batch(&mut self, now: Instant) -> Batch<W> {
        let (mut entries, mut expired) = (Vec::new(), Vec::new());
        let mut cost = 0;
        while let Some(entry) = self.entries.front() {
            let fits = entries.len() < self.batch_max.items && cost + entry.cost <= self.batch_max.cost;
            let runs = !entry.work.abandoned() && entry.deadline > now;
            if runs && !fits && !entries.is_empty() {
                break;
            }
            let entry = self.entries.pop_front().expect("there is a front");
            match runs {
                true => {
                    cost += entry.cost;
                    entries.push(entry);
                }
                false if entry.work.abandoned() => {}
                false => expired.push(entry),
            }
        }
        Batch { entries, expired }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[derive(Debug)]
    struct Work {
        name: char,
        abandoned: bool,
    }

    impl Waiting for Work {
        fn abandoned(&self) -> bool {
            self.abandoned
        }

        fn urgent(&self) -> bool {
            self.name == '!'
        }
    }

    fn entry(name: char, cost: usize, start: Instant, deadline_ms: u64) -> Entry<Work> {
        let deadline = start + Duration::from_millis(deadline_ms);
        Entry { work: Work { name, abandoned: name == 'x' }, cost, class: Class::Interactive, arrived: start, deadline }
    }

    fn names(entries: &[Entry<Work>]) -> String {
        entries.iter().map(|entry| entry.work.name).collect()
    }

    /// Batches that a queue gives until it is empty, at 100 ms after the start.
    fn batches(entries: &[(char, usize, u64)], items: usize, cost: usize) -> Vec<(String, String)> {
        let start = Instant::now();
        let mut queue = Queue::new(Load { items, cost });
        for &(name, cost, deadline_ms) in entries {
            queue.push(entry(name, cost, start, deadline_ms));
        }
        let mut batches = vec![];
        while !queue.entries.is_empty() {
            let batch = queue.next_batch(start + Duration::from_millis(100));
            batches.push((names(&batch.entries), names(&batch.expired)));
        }
        batches
    }

    #[test]
    fn what_goes_next() {
        let pair = |run: &str, expired: &str| (run.to_string(), expired.to_string());
        for (about, entries, items, cost, expected) in [
            ("all fit", vec![('a', 3, 200), ('b', 4, 200)], 8, 10, vec![pair("ab", "")]),
            (
                "the cost is bounded",
                vec![('a', 6, 200), ('b', 4, 200), ('c', 1, 200)],
                8,
                10,
                vec![pair("ab", ""), pair("c", "")],
            ),
            (
                "nobody overtakes",
                vec![('a', 6, 200), ('b', 5, 200), ('c', 1, 200)],
                8,
                10,
                vec![pair("a", ""), pair("bc", "")],
            ),
            (
                "the items are bounded",
                vec![('a', 1, 200), ('b', 1, 200), ('c', 1, 200)],
                2,
                10,
                vec![pair("ab", ""), pair("c", "")],
            ),
            (
                "a dear one runs alone",
                vec![('a', 1, 200), ('b', 99, 200), ('c', 1, 200)],
                8,
                10,
                vec![pair("a", ""), pair("b", ""), pair("c", "")],
            ),
            ("the late are set apart", vec![('a', 1, 100), ('b', 1, 101), ('c', 99, 99)], 8, 10, vec![pair("b", "ac")]),
            ("the abandoned vanish", vec![('x', 1, 200), ('b', 1, 200), ('x', 1, 50)], 8, 10, vec![pair("b", "")]),
            (
                "urgent work goes first",
                vec![('a', 9, 200), ('b', 9, 200), ('!', 0, 200)],
                8,
                10,
                vec![pair("!a", ""), pair("b", "")],
            ),
        ] {
            assert_eq!(batches(&entries, items, cost), expected, "{about}");
        }
    }

    #[test]
    fn filling_ends_when_all_senders_are_gone_and_nothing_is_left() {
        let (sender, inbox) = mpsc::channel();
        let start = Instant::now();
        let mut queue = Queue::new(Load { items: 1, cost: 1 });
        sender.send(entry('a', 1, start, 1)).expect("open");
        sender.send(entry('b', 1, start, 1)).expect("open");
        drop(sender);
        assert!(queue.fill(&inbox));
        assert_eq!(names(&queue.next_batch(start).entries), "a");
        assert!(queue.fill(&inbox));
        assert_eq!(names(&queue.next_batch(start).entries), "b");
        assert!(!queue.fill(&inbox));
    }

    #[test]
    fn the_door_counts_items_and_cost_and_forgets_who_left() {
        let door = Admission::new(Load { items: 2, cost: 10 });
        let first = door.enter(Load { items: 1, cost: 6 }).expect("empty");
        assert!(door.enter(Load { items: 1, cost: 5 }).is_none(), "too dear");
        let second = door.enter(Load { items: 1, cost: 4 }).expect("just fits");
        assert!(door.enter(Load { items: 1, cost: 0 }).is_none(), "too many");
        assert_eq!(door.load(), Load { items: 2, cost: 10 });
        drop(first);
        assert_eq!(door.load(), Load { items: 1, cost: 4 });
        drop(second);
        assert!(door.enter(Load { items: 1, cost: usize::MAX }).is_none(), "no overflow");
        assert_eq!(door.load(), Load { items: 0, cost: 0 });
    }
}
