//! The dispatcher: accepts backups, keeps them in three Redis queues and streams due tasks to workers.

pub mod queue;
pub mod session;
