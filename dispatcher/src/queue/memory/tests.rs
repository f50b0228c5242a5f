//! The suite on the reference queue itself, and what it cannot ask of every queue: real time and a clock that jumps.

use crate::queue::conformance::Factory;

crate::queue_conformance!(Factory::memory());
