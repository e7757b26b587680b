//! Placeholder library of the examples; each example is a binary in `src/bin`.
