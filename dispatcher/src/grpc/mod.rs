//! The gRPC face of the dispatcher: thin services over the parts that decide.

pub mod worker_service;
