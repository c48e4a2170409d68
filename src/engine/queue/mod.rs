//! What waits for the model, and what goes next: a plain struct that is given the time and the pace, so that its
//! rules are tables without a clock.
//!
//! Classes go in strict order, for a person waits for a query and nobody for a job; and so that the order starves
//! nobody, a class that others pass by is owed a part of the time they took. When the part has grown to what its
//! first entry takes, that class goes once, and only once before those above it are served again: a query waits
//! for one batch of jobs at most. Strict order with credit was taken instead of weighted turns, because with turns a
//! query would wait for jobs even when jobs have had all they are owed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::admission::Load;
use super::cost::{Cost, Pace};
use super::request::{Call, Class};
use crate::settings::QueueSettings;

/// One piece of work in the queue.
#[derive(Debug)]
pub struct Entry<W> {
    /// The work.
    pub work: W,
    /// What it asks of the model.
    pub cost: Cost,
    /// When it came.
    pub arrived: Instant,
    /// Its class, and when nobody wants its answer any more.
    pub call: Call,
}

/// Where an entry stands, to take it away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    class: Class,
    number: u64,
}

/// What the model does next.
#[derive(Debug)]
pub struct Batch<W> {
    /// What is to be run together; of one class.
    pub entries: Vec<Entry<W>>,
    /// What came too late to run.
    pub expired: Vec<Entry<W>>,
    /// What it all costs, equal parts counted once.
    pub load: Load,
}

/// Bounds of batches, and what the classes are owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Of one batch, items and tokens.
    pub batch_max: Load,
    /// Of one batch of jobs, tokens.
    pub batch_job_cost_max: usize,
    /// Of one batch, time.
    pub batch_time_max: Duration,
    /// Of one batch of jobs, time.
    pub batch_job_time_max: Duration,
    /// Part of the time of others that each class is owed, percent, by class; nothing is owed to the first.
    pub owed_percent: [u32; Class::ALL.len()],
}

impl Rules {
    /// As the settings say.
    pub fn new(queue: &QueueSettings) -> Self {
        Self {
            batch_max: Load { items: queue.batch_items_max, cost: queue.batch_cost_max },
            batch_job_cost_max: queue.batch_job_cost_max,
            batch_time_max: Duration::from_millis(queue.batch_ms_max),
            batch_job_time_max: Duration::from_millis(queue.batch_job_ms_max),
            owed_percent: [0, queue.watch_percent_min as u32, queue.job_percent_min as u32],
        }
    }

    /// The most that a batch of a class costs, tokens.
    pub fn cost_max(&self, class: Class) -> usize {
        match class {
            Class::Interactive | Class::Watch => self.batch_max.cost,
            Class::Job => self.batch_max.cost.min(self.batch_job_cost_max),
        }
    }

    /// The longest that a batch of a class should take.
    fn time_max(&self, class: Class) -> Duration {
        match class {
            Class::Interactive | Class::Watch => self.batch_time_max,
            Class::Job => self.batch_time_max.min(self.batch_job_time_max),
        }
    }
}

/// One class's entries in the order they came, and how long others went first.
#[derive(Debug)]
struct Lane<W> {
    entries: BTreeMap<u64, Entry<W>>,
    /// Time of others' batches while it waited, less what it had of it; microseconds.
    passed_by: i64,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<W> {
    lanes: [Lane<W>; Class::ALL.len()],
    next_number: u64,
    rules: Rules,
    /// Whether the last batch went before those above it.
    went_before: bool,
}

impl<W> Queue<W> {
    /// An empty queue.
    pub fn new(rules: Rules) -> Self {
        let lanes = Class::ALL.map(|_| Lane { entries: BTreeMap::new(), passed_by: 0 });
        Self { lanes, next_number: 0, rules, went_before: false }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.entries.is_empty())
    }

    /// Adds one entry behind all others of its class.
    pub fn push(&mut self, entry: Entry<W>) -> Ticket {
        let ticket = Ticket { class: entry.call.class, number: self.next_number };
        self.next_number += 1;
        self.lanes[ticket.class as usize].entries.insert(ticket.number, entry);
        ticket
    }

    /// Takes an entry away, if it has not gone already.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<Entry<W>> {
        self.lanes[ticket.class as usize].entries.remove(&ticket.number)
    }

    /// Takes everything away.
    pub fn drain(&mut self) -> Vec<Entry<W>> {
        self.lanes.iter_mut().flat_map(|lane| std::mem::take(&mut lane.entries).into_values()).collect()
    }

    /// What waits, by class.
    pub fn waiting(&self) -> [Load; Class::ALL.len()] {
        [0, 1, 2].map(|class| {
            let entries = &self.lanes[class].entries;
            Load { items: entries.len(), cost: entries.values().map(|entry| entry.cost.tokens()).sum() }
        })
    }

    /// What goes next; empty only when nothing waits. A dear entry runs alone, or with those that ask the same.
    pub fn next_batch(&mut self, now: Instant, pace: &Pace) -> Batch<W> {
        let late = |lane: &mut Lane<W>| {
            let late = lane.entries.extract_if(.., |_, entry| entry.call.deadline <= now);
            late.map(|(_, entry)| entry).collect::<Vec<_>>()
        };
        let expired = self.lanes.iter_mut().flat_map(late).collect();
        let Some(class) = self.next_class(pace) else {
            return Batch { entries: Vec::new(), expired, load: Load::default() };
        };
        let (entries, load, time) = self.run_of(class, pace);
        self.settle(class, time);
        Batch { entries, expired, load }
    }

    /// The first class with an entry, or the one most owed if it is owed enough.
    fn next_class(&self, pace: &Pace) -> Option<Class> {
        let mut waiting = Class::ALL.into_iter().filter(|&class| !self.lanes[class as usize].entries.is_empty());
        let first = waiting.next()?;
        if self.went_before {
            return Some(first);
        }
        let owed_enough = |class: &Class| {
            let lane = &self.lanes[*class as usize];
            let head = lane.entries.values().next().map_or(0, |entry| micros(pace.estimate(&entry.cost).time)).max(1);
            lane.passed_by.saturating_mul(self.rules.owed_percent[*class as usize].into()) >= head.saturating_mul(100)
        };
        let owed = waiting.filter(owed_enough).max_by_key(|&class| self.lanes[class as usize].passed_by);
        Some(owed.unwrap_or(first))
    }

    /// Takes the longest run from the front of a class that fits a batch.
    fn run_of(&mut self, class: Class, pace: &Pace) -> (Vec<Entry<W>>, Load, Duration) {
        let mut entries = Vec::<Entry<W>>::new();
        let (mut cost, mut time, mut room) = (0, Duration::ZERO, true);
        let lane = &mut self.lanes[class as usize].entries;
        while let Some(first) = lane.first_entry() {
            let added = first.get().cost.beside(entries.iter().map(|entry| &entry.cost));
            let estimate = pace.estimate(&added);
            let (cost_then, time_then) = (cost + added.tokens(), time + estimate.time);
            let affordable =
                estimate.measured && cost_then <= self.rules.cost_max(class) && time_then <= self.rules.time_max(class);
            // Who asks what is computed anyway may come along even with a dear one.
            let fits = entries.len() < self.rules.batch_max.items && (added.tokens() == 0 || room && affordable);
            if !fits && !entries.is_empty() {
                break;
            }
            (cost, time, room) = (cost_then, time_then, room && affordable);
            entries.push(first.remove());
        }
        let load = Load { items: entries.len(), cost };
        (entries, load, time)
    }

    /// Notes who was passed by: those that wait are owed for it, who went before its turn has had its part.
    fn settle(&mut self, class: Class, time: Duration) {
        let time = micros(time).max(1);
        self.went_before = Class::ALL.into_iter().any(|above| above < class && self.waits(above));
        for other in Class::ALL {
            let waits = self.waits(other);
            let percent = i64::from(self.rules.owed_percent[other as usize]).max(1);
            let lane = &mut self.lanes[other as usize];
            lane.passed_by = match (other == class, waits) {
                // What is left over is forfeited, or it could go twice in a row later.
                (true, _) if self.went_before => lane.passed_by.saturating_sub(time * 100 / percent).min(0),
                (true, _) => lane.passed_by.min(0),
                (false, true) => lane.passed_by.saturating_add(time),
                // Who does not wait is owed nothing, but works off what it had.
                (false, false) => lane.passed_by.saturating_add(time).min(0),
            };
        }
    }

    fn waits(&self, class: Class) -> bool {
        !self.lanes[class as usize].entries.is_empty()
    }
}

fn micros(time: Duration) -> i64 {
    /// A year; sums and products of it stay far below what the type holds.
    const MOST: u128 = 365 * 24 * 3600 * 1_000_000;
    time.as_micros().min(MOST) as i64
}

#[cfg(test)]
mod tests;
