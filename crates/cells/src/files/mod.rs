//! An agent's files by name, and archives of them.

pub(crate) mod archive;
pub(crate) mod guarded;
mod names;
pub(crate) mod store;
pub(crate) mod tree;

pub(crate) use archive::{ArchivedLinks, pack_to_stream, unpack_stream};
pub(crate) use names::CREDENTIAL;
pub use names::{FileEntry, FileName, NoteName};
pub(crate) use store::{
    list_removable_files, open_owner_dir, prepare_owner_files, read_file_written_by_house,
    read_owner_file,
};
