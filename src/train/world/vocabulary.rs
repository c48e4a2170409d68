//! Every word that the world can say, for the bundled model's tokenizer, and common words of questions
//! beyond it, so that they are words to it and not unknowns.

use super::family::Family;
use super::palette::{Colour, Direction, Pattern, Shape, Size};
use super::phrasing;
use super::scenario::Event;
use std::collections::BTreeSet;

/// Words of the slots and captions that stand in no list of answers.
const SPOKEN: &str = "object objects thing things shape shapes one ones big little largest biggest smallest \
    littlest moves move enters leaves appears disappears changes colour color grows shrinks turns collide \
    and on a an the background from top bottom";

/// Common words of questions that the world itself does not use.
const COMMON: &str = "about after all also am animal another any anything appear around at away back be became \
    because become been before behind being below beneath beside between blank both bounce box bright brown but \
    by cat center change changed changing child circles clear close corner crosses cyan dark did different dog \
    doing done dot dots each edge either empty end ends enter entered even ever every everything face fast few \
    finally first five for frame frames front get give goes gone got gray grey grow had hand happen has have he \
    hearts her here hers hidden high his hit house i if image images inside into itself just know lady last late \
    least leave left light like line lines long look looks lot low made main make man many may me meet middle \
    missing more most motion move moved movie moving much my near never new next nine no nobody nor not nothing \
    now off old only onto open opposite other others our out outside over pair part people person photo \
    picture pictures pink place please point push rectangle remain rings round same second seem seems seen seven \
    several she short should showing shown side six size slow small some someone something squares stand star \
    stars start starts stationary stay stays still stop stops such take tall ten than thank thanks that their \
    them then there these they third this those three through thus time tiny to together too touch toward towards \
    triangles two under until up upper us use vanish vanishes very video visible was way we were when while whole \
    whose why wide will with without woman word would yet you your zero";

/// Every word, lower case, sorted, each once; without punctuation.
pub fn vocabulary() -> Vec<String> {
    let names = Colour::ALL
        .iter()
        .map(|kind| kind.name())
        .chain(Shape::ALL.iter().map(|kind| kind.name()))
        .chain(Size::ALL.iter().map(|kind| kind.name()))
        .chain(Pattern::ALL.iter().map(|kind| kind.name()))
        .chain(Direction::ALL.iter().map(|kind| kind.name()))
        .chain(Event::PHRASES)
        .chain([SPOKEN, COMMON]);
    let wordings = Family::ALL.iter().flat_map(|family| phrasing::wordings(*family));
    let answers = Family::ALL.iter().flat_map(|family| family.candidates());
    let texts: Vec<String> = names.chain(wordings.copied()).map(str::to_owned).chain(answers).collect();
    let words: BTreeSet<String> =
        texts.iter().flat_map(|text| text.replace("{a}", " ").replace("{b}", " ").split_words()).collect();
    words.into_iter().collect()
}

trait SplitWords {
    fn split_words(&self) -> Vec<String>;
}

impl SplitWords for String {
    fn split_words(&self) -> Vec<String> {
        self.split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }
}
