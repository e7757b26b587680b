//! A coordinator's machine, message by message: each test asserts everything that it wants done.
