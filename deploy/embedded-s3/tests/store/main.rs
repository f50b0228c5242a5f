//! The store as a client of the AWS SDK sees it, over HTTP, on both storages.

mod keys;
mod objects;
mod support;
