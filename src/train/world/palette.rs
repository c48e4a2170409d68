//! What objects and backgrounds are made of, each kind with its one word, and the colour-shape pairs that
//! are kept out of training. The words stand here once: questions, answers and labels all read them.

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $word] $variant),* }

        impl $name {
            /// Every kind, in the order of [`index`](Self::index).
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its word in questions and answers.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// Its class index, from 0.
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

words! {
    /// The colour of an object.
    Colour {
        Red = "red", Orange = "orange", Yellow = "yellow", Green = "green",
        Blue = "blue", Purple = "purple", White = "white", Black = "black",
    }
}

words! {
    /// The outline of an object.
    Shape {
        Circle = "circle", Square = "square", Triangle = "triangle", Star = "star",
        Cross = "cross", Ring = "ring", Heart = "heart",
    }
}

words! {
    /// The size of an object; the diameters leave a clear gap between the two.
    Size { Small = "small", Large = "large" }
}

words! {
    /// What a background is like.
    Pattern {
        Plain = "plain", Gradient = "gradient", Striped = "striped",
        Checkered = "checkered", Spotted = "spotted",
    }
}

words! {
    /// The way something moves in the picture.
    Direction { Left = "left", Right = "right", Up = "up", Down = "down" }
}

impl Colour {
    /// The pure paint, RGB 0..255, before jitter.
    pub fn paint(self) -> [f32; 3] {
        match self {
            Self::Red => [222.0, 32.0, 36.0],
            Self::Orange => [248.0, 136.0, 20.0],
            Self::Yellow => [246.0, 228.0, 44.0],
            Self::Green => [38.0, 164.0, 62.0],
            Self::Blue => [34.0, 82.0, 226.0],
            Self::Purple => [146.0, 48.0, 188.0],
            Self::White => [246.0, 246.0, 246.0],
            Self::Black => [14.0, 14.0, 16.0],
        }
    }
}

impl Size {
    /// The diameters of this size, in picture widths.
    pub fn diameters(self) -> std::ops::RangeInclusive<f32> {
        match self {
            Self::Small => 0.18..=0.22,
            Self::Large => 0.34..=0.39,
        }
    }
}

impl Size {
    /// The size of an object that may be between the two, by its radius in picture widths.
    pub fn of_radius(radius: f32) -> Self {
        let middle = 0.25 * (Self::Small.diameters().end() + Self::Large.diameters().start());
        if radius < middle { Self::Small } else { Self::Large }
    }
}

impl Direction {
    /// Of the point (x, y), how far it is from the edge that this direction comes from, and across:
    /// the reverse of [`point`](Self::point).
    pub fn along(self, (x, y): (f32, f32)) -> (f32, f32) {
        match self {
            Self::Right => (x, y),
            Self::Left => (1.0 - x, y),
            Self::Down => (y, x),
            Self::Up => (1.0 - y, x),
        }
    }

    /// The way of a step: that of its longer side.
    pub fn of_step(dx: f32, dy: f32) -> Self {
        match (dx.abs() > dy.abs(), dx > 0.0, dy > 0.0) {
            (true, false, _) => Self::Left,
            (true, true, _) => Self::Right,
            (false, _, false) => Self::Up,
            (false, _, true) => Self::Down,
        }
    }

    /// The point `along` picture widths after the edge that this direction comes from, `across` beside it.
    pub fn point(self, along: f32, across: f32) -> (f32, f32) {
        match self {
            Self::Right => (along, across),
            Self::Left => (1.0 - along, across),
            Self::Down => (across, along),
            Self::Up => (across, 1.0 - along),
        }
    }

    /// The edge that something moving this way enters from.
    pub fn origin(self) -> &'static str {
        match self {
            Self::Right => "left",
            Self::Left => "right",
            Self::Down => "top",
            Self::Up => "bottom",
        }
    }
}

/// Pairs that no training clip shows and no training question names: six colours, six shapes, each once.
pub const HELD_OUT_PAIRS: [(Colour, Shape); 6] = [
    (Colour::Red, Shape::Star),
    (Colour::Green, Shape::Ring),
    (Colour::Blue, Shape::Triangle),
    (Colour::Yellow, Shape::Cross),
    (Colour::Purple, Shape::Square),
    (Colour::Orange, Shape::Heart),
];

/// Which colour-shape pairs a world shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// All but [`HELD_OUT_PAIRS`].
    Train,
    /// [`HELD_OUT_PAIRS`] alone.
    HeldOut,
    /// All.
    Any,
}

impl Pairs {
    /// Whether an object of this colour and shape may occur.
    pub fn allows(self, colour: Colour, shape: Shape) -> bool {
        let held_out = HELD_OUT_PAIRS.contains(&(colour, shape));
        match self {
            Self::Train => !held_out,
            Self::HeldOut => held_out,
            Self::Any => true,
        }
    }
}
