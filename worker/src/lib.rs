//! The worker: takes tasks from a dispatcher, copies objects from an origin to the backup bucket, and proves every copy.

pub mod store;
pub mod transfer;
