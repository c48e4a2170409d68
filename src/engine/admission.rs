//! The door: counts what has been let in and is not answered yet, and refuses the rest at once.
//!
//! Every class has a ceiling, so that jobs are refused before sessions and sessions before queries, and every class
//! keeps a few places that the classes before it cannot take: who may never enter could not be treated fairly inside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

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

/// What is inside, by class, and what one guest usually costs.
#[derive(Debug, Default)]
struct Inside {
    loads: [Load; Class::ALL.len()],
    usual_cost: usize,
}

/// The door; clones are the same door.
#[derive(Debug, Clone)]
pub struct Admission {
    inside: Arc<Mutex<Inside>>,
    /// Told whenever room comes free.
    left: Arc<Notify>,
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
        Self { inside: Arc::default(), left: Arc::default(), max, ceilings }
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

    /// How full it is for a class, 0 to 1: at 1 it is refused.
    pub fn fullness(&self, class: Class) -> f64 {
        let inside = self.inside();
        let ceilings = self.ceilings.iter().filter(|(members, _)| members(class));
        ceilings.map(|ceiling| filled(&inside, ceiling).part_of(ceiling.1)).fold(0.0, f64::max)
    }

    /// What is inside, by class.
    pub fn inside(&self) -> [Load; Class::ALL.len()] {
        self.lock().loads
    }

    /// What one guest usually costs, tokens; 0 before the first.
    pub fn usual_cost(&self) -> usize {
        self.lock().usual_cost
    }

    /// Lets `load` in, or nothing of it if it does not fit now.
    pub fn enter(&self, class: Class, load: Load) -> Option<Permit> {
        let mut inside = self.lock();
        if !self.has_room(&inside.loads, class, load) {
            return None;
        }
        inside.loads[class as usize] = inside.loads[class as usize].plus(load);
        Some(Permit { admission: self.clone(), class, load })
    }

    /// Lets one in whose cost is not known yet, for what one usually costs.
    pub fn enter_unknown(&self, class: Class) -> Option<Permit> {
        self.enter(class, Load::one(self.usual_cost().clamp(1, self.max_of(class).cost.max(1))))
    }

    /// Waits until `enter` finds room.
    pub async fn when_free(&self, enter: impl Fn(&Self) -> Option<Permit>) -> Permit {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Before the look: who leaves between it and the waiting is not missed.
            left.as_mut().enable();
            if let Some(permit) = enter(self) {
                return permit;
            }
            left.await;
        }
    }

    fn has_room(&self, inside: &[Load; Class::ALL.len()], class: Class, load: Load) -> bool {
        let fits = |ceiling: &(Members, Load)| filled(inside, ceiling).plus(load).within(ceiling.1);
        self.ceilings.iter().filter(|(members, _)| members(class)).all(fits)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Stands for `cost` from now on; or, if that does not fit now, for what it did.
    pub fn settle(&mut self, cost: usize) -> bool {
        let mut inside = self.admission.lock();
        // One in eight: a few dear guests do not make all dear.
        inside.usual_cost = match inside.usual_cost {
            0 => cost,
            usual => (usual * 7 + cost).div_ceil(8),
        };
        let (class, load) = (self.class as usize, Load { cost, ..self.load });
        let mut others = inside.loads;
        others[class] = others[class].minus(self.load);
        // Who takes less than before needs no room.
        let fits = cost <= self.load.cost || self.admission.has_room(&others, self.class, load);
        if fits {
            inside.loads[class] = others[class].plus(load);
            self.load = load;
        }
        drop(inside);
        // It may have shrunk.
        self.admission.left.notify_waiters();
        fits
    }
}

/// What those who share a ceiling have inside.
fn filled(inside: &[Load; Class::ALL.len()], (members, _): &(Members, Load)) -> Load {
    let members = Class::ALL.into_iter().filter(|&class| members(class));
    members.map(|class| inside[class as usize]).fold(Load::default(), Load::plus)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.admission.lock();
        let left = &mut inside.loads[self.class as usize];
        *left = left.minus(self.load);
        drop(inside);
        self.admission.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{Interactive, Job, Watch};
    use proptest::prelude::*;

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
                let before = door.fullness(class);
                let _permit = door.enter(class, load(most)).expect(about);
                assert!(before < 1.0 && door.fullness(class) == 1.0, "{about}: {class:?}, {field}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_ceiling_is_ever_passed_and_everything_comes_back(
            loads in prop::collection::vec((0..3_usize, 0..4_usize, 0..30_usize, 0..9_usize), 1..100),
        ) {
            let door = door(20, 100);
            let mut permits = Vec::new();
            for (class, items, cost, leaving) in loads {
                permits.extend(door.enter(Class::ALL[class], Load { items, cost }));
                let [query, session, job] = door.inside();
                for (sum, items, cost) in [
                    (query.plus(session).plus(job), 20, 100),
                    (session.plus(job), 14, 70),
                    (job, 8, 40),
                    (query.plus(session), 19, 95),
                    (query, 16, 80),
                ] {
                    prop_assert!(sum.within(Load { items, cost }), "{:?}", door.inside());
                }
                permits.truncate(permits.len().saturating_sub(leaving / 4));
            }
            drop(permits);
            prop_assert_eq!(door.inside(), [Load::default(); 3]);
        }
    }

    #[test]
    fn who_comes_in_unknown_takes_what_others_took_until_its_cost_is_known() {
        let door = door(100, 1000);
        let mut first = door.enter_unknown(Interactive).expect("empty");
        assert_eq!(door.inside()[0], Load::one(1), "nothing is known of anybody");
        assert!(first.settle(400));
        assert_eq!(door.inside()[0], Load::one(400));
        let mut second = door.enter_unknown(Interactive).expect("room");
        assert_eq!(door.inside()[0], Load { items: 2, cost: 800 });
        assert!(!second.settle(401), "800 are for queries");
        assert_eq!(door.inside()[0], Load { items: 2, cost: 800 }, "it stands for what it did");
        assert!(second.settle(400) && first.settle(1));
        assert_eq!(door.inside()[0], Load { items: 2, cost: 401 });
        drop((first, second));
        assert_eq!(door.inside(), [Load::default(); 3]);
        for _ in 0..100 {
            let mut dear = door.enter_unknown(Interactive).expect("empty");
            assert!(dear.settle(800));
        }
        assert_eq!(door.enter_unknown(Job).map(|_| door.inside()[2]), Some(Load::one(400)), "never more than may be");
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

    #[tokio::test]
    async fn who_waits_comes_in_when_somebody_leaves() {
        let door = door(1, 10);
        let inside = door.enter(Job, Load::one(1)).expect("empty");
        let waiting = |class| {
            let door = door.clone();
            tokio::spawn(async move { drop(door.when_free(|door| door.enter(class, Load::one(1))).await) })
        };
        let all = [waiting(Interactive), waiting(Watch), waiting(Job)];
        let gone = waiting(Interactive);
        tokio::task::yield_now().await;
        gone.abort();
        assert!(all.iter().all(|one| !one.is_finished()));
        drop(inside);
        for one in all {
            let within = tokio::time::timeout(std::time::Duration::from_secs(30), one);
            within.await.expect("it came in").expect("no panic");
        }
        assert_eq!(door.inside(), [Load::default(); 3]);
    }
}
