//! A shim against a guest that sends anything.

use super::*;
use std::io::Write;

fn session() -> (GuestSession, UnixStream, UnixStream) {
    let pair = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (OwnedFd::from(ours), theirs)
    };
    let ((channel, guest), (monitor, qemu)) = (pair(), pair());
    let prepared = PreparedGuest {
        outer: CellSpec::sample(),
        fds: Vec::new(),
        line: GuestLine::Open(channel),
        firecracker_setup: None,
        monitor: Some(monitor),
        held: None,
        aside: SnapshotRole::Nothing,
    };
    (
        GuestSession::new(
            &CellSpec::sample(),
            "/nonexistent".into(),
            false,
            prepared,
            None,
        ),
        guest,
        qemu,
    )
}

/// Numbers that look like chance and can be had again (xorshift64*).
struct Chance(u64);
impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        usize::try_from(number % (n.max(1) as u64)).unwrap()
    }
}

/// Sound words of a guest, and what is no word at all. Those that start a process of the shim are left
/// out: a test has several threads.
const WORDS: [&str; 15] = [
    r#"{"say":"running","kernel":"6.1"}"#,
    r#"{"say":"ready"}"#,
    r#"{"say":"ended","status":0,"out_of_memory":false,"clean":true}"#,
    r#"{"say":"ended","status":-2147483648,"out_of_memory":true,"clean":false}"#,
    r#"{"say":"warm"}"#,
    r#"{"say":"clock","off_ms":-9223372036854775808}"#,
    r#"{"open":"forward","index":0}"#,
    r#"{"open":"forward","index":18446744073709551615}"#,
    r#"{"open":"output","errors":false}"#,
    r#"{"open":"output","errors":true}"#,
    r#"{"open":"input"}"#,
    r#"{"say":{"say":{"say":{"say":{"say":{}}}}}}"#,
    r#"{"__proto__":1,"say":"ready","say":"failed"}"#,
    "\u{0}\u{1}\u{ffff}",
    "",
];

/// One frame, mostly sound, of a guest that has opened so many streams.
fn frame(chance: &mut Chance, opened: &mut u32) -> Vec<u8> {
    let kind = match chance.below(80) {
        0 => chance.below(256) as u8,
        n => b"nnodddcer"[n % 9],
    };
    let id = match kind {
        b'n' => 0,
        b'o' => {
            *opened += 1;
            *opened * 2 - 1
        }
        _ => match chance.below(80) {
            0 => [0u32, 2, u32::MAX][chance.below(3)],
            _ => u32::try_from(chance.below(*opened as usize + 1)).unwrap() * 2 + 1,
        },
    };
    let content: Vec<u8> = match (kind, chance.below(8)) {
        (b'c', _) => u32::try_from(chance.below(3))
            .unwrap()
            .to_le_bytes()
            .to_vec(),
        (b'e' | b'r', _) => Vec::new(),
        (b'd', _) => vec![b'x'; chance.below(2_000)],
        (_, 0) => (0..chance.below(64))
            .map(|_| chance.below(256) as u8)
            .collect(),
        _ => WORDS[chance.below(WORDS.len())].as_bytes().to_vec(),
    };
    let mut bytes = vec![kind];
    bytes.extend(id.to_le_bytes());
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.extend(content);
    if chance.below(100) == 0 {
        let at = chance.below(bytes.len());
        bytes[at] ^= 1 << chance.below(8);
    }
    bytes
}

/// Sessions in every check: a few seconds of computing.
const SESSIONS: u64 = 5_000;

/// [`SESSIONS`] sessions, or as long as `ABBEY_FUZZ_SECONDS`, from a start that `ABBEY_FUZZ_SEED` repeats.
#[test]
fn a_shim_survives_whatever_a_guest_sends() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let until =
        number("ABBEY_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = number("ABBEY_FUZZ_SEED").unwrap_or(0x5eed);
    let mut chance = Chance(seed.max(1));
    let (mut sessions, mut frames, mut broken) = (0u64, 0u64, 0u64);
    while until.map_or(sessions < SESSIONS, |until| Instant::now() < until) {
        sessions += 1;
        let (mut session, mut guest, mut qemu) = session();
        let mut opened = 0;
        for _ in 0..200 {
            frames += 1;
            let bytes = frame(&mut chance, &mut opened);
            let _full_or_closed = guest.write_all(&bytes);
            if chance.below(20) == 0 {
                let _full_or_closed = qemu.write_all(&bytes);
                let _full_or_closed = qemu.write_all(b"\n");
            }
            let (outputs, fair) = session.process_messages();
            assert!(outputs.len() <= crate::guest::channel::STREAMS_MAX);
            if chance.below(4) == 0 {
                let mut heard = [0u8; 4096];
                let _nothing = std::io::Read::read(&mut guest, &mut heard);
            }
            if !fair {
                broken += 1;
                break;
            }
        }
        let _whatever_it_was = session.exit_kind(false, Some(0)).to_string();
        session.finish_file_transfers();
    }
    println!("{frames} frames in {sessions} sessions from seed {seed}: {broken} were cut off");
    assert!(broken > 0 && frames > sessions, "it bites, and not at once");
}

/// A guest whose clock is an hour behind is asked again after it has set it, and what it says last is reported.
#[test]
fn a_clock_that_was_off_is_compared_again() {
    let (mut session, mut guest, _qemu) = session();
    session.house.microvm = true;
    let say = |guest: &mut UnixStream, text: &str| {
        let length = u16::try_from(text.len()).unwrap().to_le_bytes();
        let mut bytes = vec![b'n', 0, 0, 0, 0];
        bytes.extend(length);
        bytes.extend(text.as_bytes());
        guest.write_all(&bytes).unwrap();
    };
    let asked = |guest: &mut UnixStream| {
        let mut bytes = vec![0u8; 4096];
        let n = std::io::Read::read(guest, &mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).contains(r#""say":"clock","now_ms":"#)
    };
    session.process_messages();
    assert!(!asked(&mut guest), "it has not booted");
    say(&mut guest, r#"{"say":"running","kernel":"6.1"}"#);
    for _ in 0..2 {
        session.process_messages();
    }
    assert!(asked(&mut guest) && session.clock_off_ms().is_none());
    say(&mut guest, r#"{"say":"clock","off_ms":-3600000}"#);
    session.process_messages();
    assert_eq!(session.clock_off_ms(), Some(-3_600_000));
    let soon = Instant::now() + Duration::from_secs(2);
    assert!(session.next_deadline().is_some_and(|at| at <= soon));
    // Paused, nobody asks it; then at once.
    session.set_clock_compared(false);
    session.process_messages();
    assert!(!asked(&mut guest) && session.clock_off_ms().is_none());
    session.set_clock_compared(true);
    for _ in 0..2 {
        session.process_messages();
    }
    assert!(asked(&mut guest));
}

#[test]
fn a_guest_that_calls_without_descriptors_does_not_wake_poll_until_later() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Each test is a process of its own.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit_files = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = UnixListener::bind(dir.path().join("calls")).unwrap();
    at.set_nonblocking(true).unwrap();
    let _guest = UnixStream::connect(dir.path().join("calls")).unwrap();
    let prepared = PreparedGuest {
        outer: CellSpec::sample(),
        fds: Vec::new(),
        line: GuestLine::Called { at, uid: None },
        firecracker_setup: None,
        monitor: None,
        held: None,
        aside: SnapshotRole::Nothing,
    };
    let spec = CellSpec::sample();
    let mut session = GuestSession::new(&spec, "/nonexistent".into(), false, prepared, None);
    let polled = |session: &GuestSession| {
        let mut fds = Vec::new();
        session.add_poll_fds(&mut fds);
        fds.len()
    };
    assert_eq!(polled(&session), 1);
    limit_files(Some(3));
    session.process_messages();
    let again = session.next_deadline().expect("a pause");
    assert_eq!(polled(&session), 0, "the caller would wake poll at once");
    limit_files(maximum);
    while Instant::now() < again {
        std::thread::yield_now();
    }
    session.process_messages();
    assert!(session.channel.is_some() && session.calls.is_none());
}
