//! Every setting and every limit of the program, read once: defaults, then environment, then flags.
