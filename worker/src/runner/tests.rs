//! What the runner does with copies that end, stop, hang and panic.
