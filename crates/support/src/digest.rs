//! SHA-256 in hexadecimal.

use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// SHA-256 of bytes, as 64 lowercase hexadecimal digits.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hex(Sha256::digest(bytes))
}

/// SHA-256 of everything that a reader yields, as 64 lowercase hexadecimal digits; memory use does not depend on the
/// length.
///
/// # Errors
/// The reader's.
pub fn sha256_hex_of_reader(mut reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Bytes as lowercase hexadecimal digits, two for each byte.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    ::hex::encode(bytes)
}

/// Bytes of hexadecimal digits; none for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    ::hex::decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Source: FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sha256_of_the_published_example() {
        assert_eq!(sha256_hex("abc"), ABC);
        assert_eq!(sha256_hex_of_reader(&b"abc"[..]).unwrap(), ABC);
    }

    #[test]
    fn a_reader_longer_than_the_buffer_is_hashed_whole() {
        let bytes = vec![7; (1 << 20) + 3];
        assert_eq!(
            sha256_hex_of_reader(&bytes[..]).unwrap(),
            sha256_hex(&bytes)
        );
    }

    #[test]
    fn hex_keeps_leading_zeros() {
        assert_eq!(hex([0, 1, 0xab]), "0001ab");
    }
}
