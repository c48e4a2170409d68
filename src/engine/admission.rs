//! The door: counts what has been let in and is not answered yet, and refuses the rest at once.
//!
//! Every class has a ceiling, so that jobs are refused before sessions and sessions before queries, and every class
//! keeps a few places that the classes before it cannot take: who may never enter could not be treated fairly inside.

use std::sync::{Arc, Mutex, PoisonError};

use super::request::Class;
use crate::settings::QueueSettings;

/// Items and their cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// How many items.
    pub items: usize,
    /// What they cost together, tokens.
    pub cost: usize,
}

impl Load {
    /// One item.
    pub fn one(cost: usize) -> Self {
        Self { items: 1, cost }
    }

    /// Both together.
    pub fn plus(self, other: Load) -> Self {
        Self { items: self.items.saturating_add(other.items), cost: self.cost.saturating_add(other.cost) }
    }

    fn minus(self, other: Load) -> Self {
        Self { items: self.items - other.items, cost: self.cost - other.cost }
    }

    fn within(self, max: Load) -> bool {
        self.items <= max.items && self.cost <= max.cost
    }

    /// So many percent of it, rounded up.
    fn percent(self, percent: usize) -> Self {
        let part = |whole: usize| (whole as u128 * percent as u128).div_ceil(100) as usize;
        Self { items: part(self.items), cost: part(self.cost) }
    }

    /// How full `max` is with it, by what is fuller, 0 to 1.
    pub fn part_of(self, max: Load) -> f64 {
        let part = |value: usize, max: usize| if max == 0 { 0.0 } else { value as f64 / max as f64 };
        part(self.items, max.items).max(part(self.cost, max.cost)).min(1.0)
    }
}

/// Which classes share a ceiling.
type Members = fn(Class) -> bool;

/// The door; clones are the same door.
#[derive(Debug, Clone)]
pub struct Admission {
    inside: Arc<Mutex<[Load; Class::ALL.len()]>>,
    max: Load,
    /// Who together may fill how much.
    ceilings: [(Members, Load); 5],
}

/// Stands for what was let in, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Admission,
    class: Class,
    load: Load,
}

impl Admission {
    /// A door with nobody inside that lets in `max`, shared as `queue` says.
    pub fn new(max: Load, queue: &QueueSettings) -> Self {
        let free = |percent: usize| max.percent(100_usize.saturating_sub(percent));
        let ceilings: [(Members, Load); 5] = [
            (|_| true, max),
            (|class| class >= Class::Watch, max.percent(queue.watch_percent_max)),
            (|class| class >= Class::Job, max.percent(queue.job_percent_max)),
            (|class| class <= Class::Watch, free(queue.job_percent_min)),
            (|class| class <= Class::Interactive, free(queue.job_percent_min + queue.watch_percent_min)),
        ];
        Self { inside: Arc::default(), max, ceilings }
    }

    /// The most that may be inside.
    pub fn max(&self) -> Load {
        self.max
    }

    /// The most that a class may have inside when nobody else is there.
    pub fn max_of(&self, class: Class) -> Load {
        let ceilings = self.ceilings.iter().filter(|(members, _)| members(class)).map(|(_, max)| *max);
        let least = |a: Load, b: Load| Load { items: a.items.min(b.items), cost: a.cost.min(b.cost) };
        ceilings.fold(self.max, least)
    }

    /// What is inside, by class.
    pub fn inside(&self) -> [Load; Class::ALL.len()] {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `load` in, or nothing of it if it does not fit now.
    pub fn enter(&self, class: Class, load: Load) -> Option<Permit> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |&(members, max): &(Members, Load)| {
            let members = Class::ALL.into_iter().filter(|&class| members(class));
            let filled = members.map(|class| inside[class as usize]).fold(load, Load::plus);
            filled.within(max)
        };
        if !self.ceilings.iter().filter(|(members, _)| members(class)).all(fits) {
            return None;
        }
        inside[class as usize] = inside[class as usize].plus(load);
        Some(Permit { admission: self.clone(), class, load })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.admission.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let left = &mut inside[self.class as usize];
        *left = left.minus(self.load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{Interactive, Job, Watch};

    fn door(items: usize, cost: usize) -> Admission {
        // Watch and jobs 70 %, jobs 40 %; kept for watch 15 %, for jobs 5 %.
        Admission::new(Load { items, cost }, &QueueSettings::default())
    }

    #[test]
    fn the_door_counts_items_and_cost_and_forgets_who_left() {
        let door = door(3, 10);
        let first = door.enter(Watch, Load::one(5)).expect("empty");
        assert!(door.enter(Interactive, Load::one(6)).is_none(), "too dear");
        let second = door.enter(Interactive, Load::one(5)).expect("just fits");
        assert!(door.enter(Interactive, Load { items: 2, cost: 0 }).is_none(), "too many");
        assert_eq!(door.inside(), [Load::one(5), Load::one(5), Load::default()]);
        drop(first);
        assert_eq!(door.inside(), [Load::one(5), Load::default(), Load::default()]);
        drop(second);
        assert!(door.enter(Interactive, Load::one(usize::MAX)).is_none(), "no overflow");
        assert_eq!(door.inside(), [Load::default(); 3]);
    }

    #[test]
    fn jobs_are_refused_before_sessions_and_sessions_before_queries_and_each_keeps_its_places() {
        for (about, inside, class, most) in [
            ("alone", vec![], Interactive, 80),
            ("alone", vec![], Watch, 70),
            ("alone", vec![], Job, 40),
            ("jobs leave room for sessions", vec![(Job, 40)], Watch, 30),
            ("both leave room for queries", vec![(Job, 40), (Watch, 30)], Interactive, 30),
            ("queries leave room for sessions", vec![(Interactive, 80)], Watch, 15),
            ("queries and sessions leave room for jobs", vec![(Interactive, 80), (Watch, 15)], Job, 5),
        ] {
            for field in ["items", "cost"] {
                let door = door(100, 100);
                let load = |amount| match field {
                    "items" => Load { items: amount, cost: 0 },
                    _ => Load { items: 0, cost: amount },
                };
                let _permits: Vec<_> =
                    inside.iter().map(|&(class, amount)| door.enter(class, load(amount)).expect("room")).collect();
                assert!(door.enter(class, load(most + 1)).is_none(), "{about}: {class:?}, {field}");
                assert!(door.enter(class, load(most)).is_some(), "{about}: {class:?}, {field}");
            }
        }
    }

    #[test]
    fn a_tiny_door_still_has_a_place_for_every_class() {
        for class in Class::ALL {
            let door = door(1, 1);
            assert_eq!(door.max_of(class), Load::one(1));
            let _inside = door.enter(class, Load::one(1)).expect("empty");
            assert!(door.enter(Interactive, Load::one(0)).is_none());
        }
    }
}
