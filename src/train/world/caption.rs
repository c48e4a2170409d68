//! The one true description of a clip, in canonical words: the answer of the describe family and the text
//! that the decoder learns to write.

use super::family::COUNTS;
use super::scenario::{Event, Object, Scenario};

impl Scenario {
    /// What is there and what happens, "a large red circle moves left on a striped background". A clip with an
    /// event names its actors, two in the order of the palette; else up to two objects are named from left to right, more
    /// are counted.
    pub fn caption(&self) -> String {
        let pattern = with_article(self.background.pattern.name());
        let scene = match self.event {
            Event::Nothing => self.still_life(),
            Event::Collide => format!("{} collide", both(&self.objects[..2])),
            Event::TwoMove => format!("{} move", both(&self.objects[..2])),
            event => format!("{} {}", look_with_size(&self.objects[0]), self.deed(event)),
        };
        format!("{scene} on {pattern} background")
    }

    fn still_life(&self) -> String {
        let mut objects: Vec<&Object> = self.objects.iter().collect();
        objects.sort_by(|a, b| a.track[0].x.total_cmp(&b.track[0].x));
        match objects[..] {
            [one] => look_with_size(one),
            [left, right] => format!("{} and {}", look(left), look(right)),
            _ => format!("{} objects", COUNTS[objects.len() - 1]),
        }
    }

    fn deed(&self, event: Event) -> String {
        match event {
            Event::Moves(way) => format!("moves {}", way.name()),
            Event::Enters(way) => format!("enters from the {}", way.origin()),
            Event::Leaves(_) => "leaves".to_owned(),
            Event::Appears => "appears".to_owned(),
            Event::Disappears => "disappears".to_owned(),
            Event::ChangesColour => {
                let turned = self.objects[0].turns.map_or("", |(_, colour, _)| colour.name());
                format!("turns {turned}")
            }
            Event::Grows => "grows".to_owned(),
            Event::Shrinks => "shrinks".to_owned(),
            Event::Nothing | Event::Collide | Event::TwoMove => String::new(),
        }
    }
}

/// Two that move, in the order of the palette: that of their places may change while they move, and what is said of every
/// part of it should be the same.
fn both(actors: &[Object]) -> String {
    let mut actors: Vec<&Object> = actors.iter().collect();
    actors.sort_by_key(|object| (object.colour, object.shape));
    actors.into_iter().map(look).collect::<Vec<_>>().join(" and ")
}

fn look(object: &Object) -> String {
    with_article(&format!("{} {}", object.colour.name(), object.shape.name()))
}

fn look_with_size(object: &Object) -> String {
    if object.keeps_size() {
        format!("a {} {} {}", object.size.name(), object.colour.name(), object.shape.name())
    } else {
        look(object)
    }
}

/// "a red circle", "an orange circle".
pub(super) fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {words}")
}
