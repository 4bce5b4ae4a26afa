//! How answers look on every face: plain data, and a few lines of text for a person.

pub mod batch;
pub mod image;
pub mod instance;
pub mod node;
pub mod ray;
pub mod registry;
pub mod table;
pub mod untrusted;
pub mod user;
