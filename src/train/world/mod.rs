//! The generator of clips, questions and answers that the bundled model learns from.
