//! A wall clock that tests turn, for programs that a test starts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Library that adds the seconds in a mapped file to the wall clock of a program; its other clocks stay as they are.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long *ahead;
__attribute__((constructor)) static void map(void) {
    const char *path = getenv("ABBEY_TURNED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) ahead = page;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (!result && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += *ahead;
    return result;
}
"#;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A wall clock that is ahead of the host's.
#[derive(Debug)]
pub struct TurnedClock {
    library: PathBuf,
    file: PathBuf,
    ahead: i64,
}

impl TurnedClock {
    /// A clock that shows the host's time, with its files in a directory that every user may search.
    ///
    /// # Panics
    /// Without a C compiler.
    pub fn new(dir: &Path) -> TurnedClock {
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SOURCE).expect("a file");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status();
        assert!(
            made.expect("a C compiler").success(),
            "the library is built"
        );
        let mut clock = TurnedClock {
            library,
            file: dir.join("clock"),
            ahead: 0,
        };
        std::fs::write(&clock.file, 0i64.to_ne_bytes()).expect("a file");
        for file in [&clock.library, &clock.file] {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(file, mode).expect("its mode");
        }
        clock.turn(0);
        clock
    }

    /// Environment of a program that is to read this clock.
    pub fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("ABBEY_TURNED_CLOCK".to_owned(), text(&self.file)),
        ]
    }

    /// Turns the clock forward by this many seconds, for running programs as well.
    ///
    /// # Panics
    /// If its file can't be written.
    pub fn turn(&mut self, seconds: i64) {
        self.ahead += seconds;
        // In place: programs have mapped the file.
        let file = std::fs::OpenOptions::new().write(true).open(&self.file);
        let bytes = self.ahead.to_ne_bytes();
        std::os::unix::fs::FileExt::write_all_at(&file.expect("the file"), &bytes, 0)
            .expect("written");
    }

    /// Turns the clock forward to the next instant at which a day of UTC is this many seconds old.
    pub fn turn_to(&mut self, second_of_day: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0)) + self.ahead;
        self.turn((second_of_day - now).rem_euclid(DAY));
    }
}
