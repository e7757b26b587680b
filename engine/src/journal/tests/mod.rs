//! The journal's promises, each against a disk that breaks every way it may.
