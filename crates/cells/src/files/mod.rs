//! An agent's files by name, and archives of them.

pub(crate) mod archive;
mod names;
pub(crate) mod store;

pub(crate) use archive::{pack_below, unpack_in};
pub(crate) use names::CREDENTIAL;
pub use names::{FileEntry, FileName, NoteName};
pub(crate) use store::{brought_to, kept, prepare_in, read_in};
