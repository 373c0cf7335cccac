//! Files that a user named, on a command line or in a file: read without waiting and within a bound, whatever is there.
//!
//! A regular file is read, and the null device as an empty one. A pipe is read if the caller handed it over as a descriptor
//! (`/dev/stdin`, `/dev/fd/N` of a process substitution). Anything else is refused before it is opened: a FIFO that nobody
//! writes would be waited for, and opening a device may have an effect.

use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, open};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Device number of `/dev/null`.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Why a file that a user named was not read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It could not be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no file that can be read to an end.
    #[error("it is {0}, not a regular file")]
    Kind(&'static str),
    /// It is longer than this number of bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    /// It is not text.
    #[error("it is not UTF-8 text")]
    NotText,
}

impl InputError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, InputError::Io(e) if e.kind() == io::ErrorKind::NotFound)
    }
}

impl From<InputError> for io::Error {
    fn from(error: InputError) -> io::Error {
        let kind = match error {
            InputError::Io(error) => return error,
            InputError::Kind(_) => io::ErrorKind::InvalidInput,
            InputError::TooLong(_) | InputError::NotText => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// Opens a file that a user named for reading; see the module. Links are followed.
///
/// # Errors
/// The system's error; [`InputError::Kind`] for anything but a file that can be read to an end.
pub fn open_input(path: &Path) -> Result<File, InputError> {
    // Only a place of the file: nothing is waited for, and no driver hears of it.
    let found =
        open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
    let stat = fstat(&found).map_err(io::Error::from)?;
    let device = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::CharacterDevice if device == NULL_DEVICE => {}
        FileType::Fifo if is_handed_over(path) => {}
        FileType::Directory => return Err(InputError::Kind("a directory")),
        FileType::Fifo => return Err(InputError::Kind("a FIFO")),
        FileType::Socket => return Err(InputError::Kind("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => {
            return Err(InputError::Kind("a device"));
        }
        _ => return Err(InputError::Kind("something else")),
    }
    // The very file that was judged, not what the path leads to now.
    let judged = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = open(judged, flags, Mode::empty()).map_err(io::Error::from)?;
    // From here on a pipe is read to its end.
    fcntl_setfl(&file, OFlags::empty()).map_err(io::Error::from)?;
    Ok(file.into())
}

/// Reads a file that a user named, of at most `limit` bytes; see the module.
///
/// # Errors
/// As [`open_input`]; [`InputError::TooLong`] for a longer file, of which no more than that was read.
pub fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, InputError> {
    read_within(open_input(path)?, limit)
}

/// As [`read_input`], for text.
///
/// # Errors
/// As [`read_input`]; [`InputError::NotText`] if it is not UTF-8.
pub fn read_input_text(path: &Path, limit: u64) -> Result<String, InputError> {
    text_of(read_input(path, limit)?)
}

/// Reads what is left of `source`, at most `limit` bytes of UTF-8 text.
///
/// # Errors
/// The error of `source`, [`InputError::TooLong`], [`InputError::NotText`].
pub fn read_text_within(source: impl Read, limit: u64) -> Result<String, InputError> {
    text_of(read_within(source, limit)?)
}

fn read_within(source: impl Read, limit: u64) -> Result<Vec<u8>, InputError> {
    let mut bytes = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(InputError::TooLong(limit)),
        false => Ok(bytes),
    }
}

fn text_of(bytes: Vec<u8>) -> Result<String, InputError> {
    String::from_utf8(bytes).map_err(|_| InputError::NotText)
}

/// Whether a path names a descriptor that whoever started this process gave it.
fn is_handed_over(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    let below = [&b"/dev/fd/"[..], b"/proc/self/fd/"];
    text == b"/dev/stdin" || below.iter().any(|dir| text.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    #[test]
    fn what_cannot_be_read_to_an_end_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink(path("fifo"), path("link")).unwrap();
        for (name, why) in [
            (path("fifo"), "it is a FIFO, not a regular file"),
            (path("link"), "it is a FIFO, not a regular file"),
            (path("socket"), "it is a socket, not a regular file"),
            (path(""), "it is a directory, not a regular file"),
            ("/dev/zero".into(), "it is a device, not a regular file"),
            ("/dev/tty".into(), "it is a device, not a regular file"),
        ] {
            let error = read_input_text(&name, 10).unwrap_err();
            assert_eq!(error.to_string(), why, "{}", name.display());
        }
        assert!(open_input(&path("missing")).unwrap_err().is_not_found());
        assert_eq!(read_input_text(Path::new("/dev/null"), 10).unwrap(), "");
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_input_text(&file, 10).unwrap(), "0123456789");
        assert!(matches!(read_input(&file, 9), Err(InputError::TooLong(9))));
        fs::write(&file, [0xff]).unwrap();
        assert!(matches!(
            read_input_text(&file, 9),
            Err(InputError::NotText)
        ));
        let sparse = File::create(&file).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(matches!(read_input(&file, 9), Err(InputError::TooLong(9))));
    }

    #[test]
    fn a_pipe_that_the_caller_hands_over_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let written = std::thread::spawn(move || writer.write_all(&[b'x'; 100_000]));
        let text = read_input_text(Path::new(&path), 1 << 20).unwrap();
        written.join().unwrap().unwrap();
        assert_eq!(text.len(), 100_000);
    }
}
