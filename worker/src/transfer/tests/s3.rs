//! The engine over real HTTP.
