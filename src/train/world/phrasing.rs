//! The wordings of every family. The last [`HELD_OUT`] of each are never trained: evaluation asks with them
//! to see whether the question was understood or its wording remembered. `{a}` and `{b}` are gaps.

use super::family::Family;
use rand::Rng;

/// Which wordings are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phrasings {
    /// Those of training.
    Train,
    /// Those kept out of training.
    HeldOut,
}

/// Wordings a family that are kept out of training.
pub(super) const HELD_OUT: usize = 3;

/// A question in words: a random phrasing, its gaps filled, both spellings of colour, often no question mark.
pub(super) fn ask(family: Family, phrasings: Phrasings, slots: &[String; 2], rng: &mut impl Rng) -> String {
    let wordings = wordings(family);
    let (train, held_out) = wordings.split_at(wordings.len() - HELD_OUT);
    let chosen = match phrasings {
        Phrasings::Train => train,
        Phrasings::HeldOut => held_out,
    };
    let wording = chosen[rng.random_range(0..chosen.len())];
    let mut text = wording.replace("{a}", &slots[0]).replace("{b}", &slots[1]);
    if rng.random_bool(0.4) {
        text = text.replace("colour", "color");
    }
    if rng.random_bool(0.3) && text.ends_with('?') {
        text.pop();
    }
    text
}

/// Every wording of a family, the held-out ones last.
pub(super) fn wordings(family: Family) -> &'static [&'static str] {
    match family {
        Family::Colour => &COLOUR,
        Family::Shape => &SHAPE,
        Family::Size => &SIZE,
        Family::Count => &COUNT,
        Family::CountColour => &COUNT_COLOUR,
        Family::Existence => &EXISTENCE,
        Family::Motion => &MOTION,
        Family::Position => &POSITION,
        Family::Background => &BACKGROUND,
        Family::Largest => &LARGEST,
        Family::Event => &EVENT,
        Family::Actor => &ACTOR,
        Family::Relation => &RELATION,
        Family::Describe => &DESCRIBE,
    }
}

const COLOUR: [&str; 13] = [
    "what colour is the {a}?",
    "which colour is the {a}?",
    "what is the colour of the {a}?",
    "what colour does the {a} have?",
    "the {a} is what colour?",
    "colour of the {a}?",
    "{a} colour?",
    "name the colour of the {a}.",
    "tell me what colour the {a} is.",
    "can you see which colour the {a} has?",
    "which colour does the {a} have?",
    "can you tell me what colour the {a} is?",
    "the colour of the {a} is?",
];

const SHAPE: [&str; 13] = [
    "what shape is the {a}?",
    "which shape is the {a}?",
    "what is the shape of the {a}?",
    "what shape does the {a} have?",
    "the {a} has which shape?",
    "shape of the {a}?",
    "what is the {a}?",
    "what kind of shape is the {a}?",
    "tell me the shape of the {a}.",
    "what form does the {a} have?",
    "which shape does the {a} have?",
    "can you tell me what shape the {a} is?",
    "name the shape of the {a}.",
];

const SIZE: [&str; 13] = [
    "how large is the {a}?",
    "how big is the {a}?",
    "what size is the {a}?",
    "is the {a} large or small?",
    "is the {a} small or large?",
    "size of the {a}?",
    "what is the size of the {a}?",
    "the {a} is of what size?",
    "tell me how big the {a} is.",
    "would you say the {a} is big or little?",
    "which size does the {a} have?",
    "is the {a} big or small?",
    "tell me the size of the {a}.",
];

const COUNT: [&str; 13] = [
    "how many objects are there?",
    "how many things are there?",
    "how many objects do you see?",
    "how many shapes are in the picture?",
    "how many objects are in the clip?",
    "count the objects.",
    "number of objects?",
    "what is the number of objects?",
    "how many shapes can you count?",
    "tell me how many things you see.",
    "count the things in the picture.",
    "how many shapes are there?",
    "what number of objects do you see?",
];

const COUNT_COLOUR: [&str; 13] = [
    "how many {a} objects are there?",
    "how many {a} things are there?",
    "how many {a} shapes do you see?",
    "how many objects are {a}?",
    "how many of the objects are {a}?",
    "count the {a} objects.",
    "number of {a} objects?",
    "what is the number of {a} things?",
    "how many {a} ones are in the picture?",
    "tell me how many {a} objects there are.",
    "how many of the things are {a}?",
    "count the {a} things in the clip.",
    "how many {a} shapes are there?",
];

const EXISTENCE: [&str; 13] = [
    "is there {a}?",
    "is there {a} in the picture?",
    "is there {a} in the clip?",
    "do you see {a}?",
    "can you see {a}?",
    "does the picture have {a}?",
    "is {a} there?",
    "is {a} in the scene?",
    "can {a} be seen?",
    "{a}, yes or no?",
    "is there {a} in the scene?",
    "can you see {a} in the picture?",
    "does the clip have {a}?",
];

const MOTION: [&str; 13] = [
    "which way does the {a} move?",
    "which way does the {a} go?",
    "in which direction does the {a} move?",
    "where does the {a} move?",
    "the {a} goes where?",
    "what is the direction of the {a}?",
    "how does the {a} move?",
    "direction of the {a}?",
    "which way is the {a} going?",
    "which way is the {a} moving?",
    "in which direction is the {a} moving?",
    "in what direction does the {a} go?",
    "tell me which way the {a} goes.",
];

const POSITION: [&str; 13] = [
    "where is the {a}?",
    "where in the picture is the {a}?",
    "in which part of the picture is the {a}?",
    "what is the position of the {a}?",
    "where can you see the {a}?",
    "position of the {a}?",
    "which part of the image has the {a}?",
    "where do you see the {a}?",
    "tell me where the {a} is.",
    "the {a} is in which corner?",
    "where is the {a} in the image?",
    "tell me the position of the {a}.",
    "in which part of the image do you see the {a}?",
];

const BACKGROUND: [&str; 13] = [
    "what is the background like?",
    "what does the background look like?",
    "what kind of background is it?",
    "which background do you see?",
    "what is behind the objects?",
    "background?",
    "how does the background look?",
    "what pattern does the background have?",
    "what is the pattern of the background?",
    "tell me what the background is like.",
    "what kind of background is there?",
    "what pattern is behind the objects?",
    "how would you describe the background?",
];

const LARGEST: [&str; 13] = [
    "which object is the {a}?",
    "what is the {a} object?",
    "which is the {a} object?",
    "which thing is the {a}?",
    "what is the {a} thing in the picture?",
    "the {a} object?",
    "name the {a} object.",
    "which of the objects is the {a}?",
    "which one is the {a}?",
    "tell me which object is the {a}.",
    "which shape is the {a}?",
    "what is the {a} of the objects?",
    "tell me the {a} thing.",
];

const EVENT: [&str; 13] = [
    "what happens?",
    "what happens in the clip?",
    "what is happening?",
    "what is going on?",
    "what do you see happening?",
    "what changes?",
    "which event is it?",
    "what event do you see?",
    "tell me what happens.",
    "what happened?",
    "what is happening in the clip?",
    "tell me what is going on.",
    "which event do you see?",
];

const ACTOR: [&str; 13] = [
    "which object {a}?",
    "what {a}?",
    "which thing {a}?",
    "which of the objects {a}?",
    "what is it that {a}?",
    "name the object that {a}.",
    "which one {a}?",
    "which object is the one that {a}?",
    "tell me which object {a}.",
    "what {a} in the clip?",
    "which of the things {a}?",
    "tell me what {a}.",
    "name the thing that {a}.",
];

const RELATION: [&str; 13] = [
    "where is the {a} relative to the {b}?",
    "where is the {a} seen from the {b}?",
    "on which side of the {b} is the {a}?",
    "what is the position of the {a} relative to the {b}?",
    "from the {b}, where is the {a}?",
    "the {a} is where, relative to the {b}?",
    "on what side of the {b} do you see the {a}?",
    "position of the {a} relative to the {b}?",
    "is the {a} left of, right of, above or below the {b}?",
    "tell me where the {a} is relative to the {b}.",
    "where do you see the {a} relative to the {b}?",
    "on which side of the {b} can you see the {a}?",
    "relative to the {b}, where is the {a}?",
];

const DESCRIBE: [&str; 13] = [
    "describe the clip.",
    "describe the picture.",
    "describe what you see.",
    "what do you see?",
    "what does the clip show?",
    "what can be seen?",
    "give a description.",
    "describe the scene.",
    "what is in the clip?",
    "tell me what you see.",
    "what does the picture show?",
    "give a description of the scene.",
    "what can you see in the clip?",
];
