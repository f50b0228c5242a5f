//! The gRPC face of the dispatcher: what callers send is checked here, and what the queue answers is put into the contract's words.
//!
//! Reading order: [`backup_service`] and [`prefix_service`] (the calls of internal services), `event_service` and `rule_service` (what operators
//! see of events, and of rules and their runs), `validate` (what is taken), `status` (how everything that goes wrong with a call is told),
//! [`gate`], [`identity`], [`tokens`] and [`access`] (who is let in to what), [`layers`] (what surrounds each call), [`worker_service`] (where
//! streams of workers come in), [`scaler`] (what
//! KEDA asks).
//! Services are thin: no decision about a task is made here, and nothing here may know Redis.

pub mod access;
pub mod backup_service;
pub mod ending;
pub(crate) mod event_service;
pub mod gate;
pub mod health;
pub mod identity;
pub mod layers;
pub mod name_path;
mod openings;
pub(crate) mod page_token;
pub mod prefix_service;
pub(crate) mod present;
pub mod roles;
pub(crate) mod rule_service;
pub mod scaler;
pub(crate) mod status;
pub mod tokens;
pub(crate) mod validate;
pub mod worker_service;

#[cfg(test)]
pub(crate) mod testing;
