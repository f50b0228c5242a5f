//! The store as a client of the AWS SDK sees it, over HTTP, on both storages.

mod copies;
mod details;
mod faults;
mod keys;
mod multipart;
mod objects;
mod races;
mod restart;
mod support;
mod versions;
