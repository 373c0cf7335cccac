//! The command line on a terminal of its own, with somebody who types and looks.

use crate::args::Args;
use crate::house::{House, until};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// `abbey` on a terminal of its own.
#[derive(Debug)]
pub struct Typist {
    /// The program.
    pub child: Child,
    master: OwnedFd,
    seen: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Typist {
    /// Starts `abbey` with these arguments on a terminal of 24 rows and 80 columns.
    ///
    /// # Panics
    /// If there is no terminal or no program.
    pub fn new(house: &House, args: impl Into<Args>) -> Typist {
        Typist::start(&house.command(args), 80)
    }

    /// Starts a command on a terminal with this number of columns.
    ///
    /// # Panics
    /// As [`Typist::new`].
    pub fn start(inner: &Command, columns: u16) -> Typist {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        unlockpt(&master).expect("its other end");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let slave = std::fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("a path"))
            .expect("its other end");
        resize(&master, 24, columns);
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg("--wait")
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear()
            .env("TERM", "vt220")
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(slave.try_clone().expect("a descriptor"))
            .stdout(slave.try_clone().expect("a descriptor"))
            .stderr(slave);
        if let Some(dir) = inner.get_current_dir() {
            command.current_dir(dir);
        }
        let child = command.spawn().expect("a program");
        drop(command);
        let seen = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&seen);
        let mut from = std::fs::File::from(master.try_clone().expect("a descriptor"));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            let mut bytes = Vec::new();
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..n]);
                *shared.lock().expect("no panic") = String::from_utf8_lossy(&bytes).into_owned();
            }
        });
        Typist {
            child,
            master,
            seen,
            reader,
        }
    }

    /// Gives the terminal another size.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// Types a text.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn types(&self, text: &str) {
        rustix::io::write(&self.master, text.as_bytes()).expect("a terminal");
    }

    /// Waits until a text was shown.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn sees(&self, text: &str) {
        until(&format!("`{text}` is seen"), || {
            self.seen.lock().expect("no panic").contains(text)
        });
    }

    /// Waits for the end of the program; its exit code, or none if a signal ended it.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn ends(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    /// Waits for the end of the program, and returns all that it showed, with the line ends of a file.
    ///
    /// # Panics
    /// As [`Typist::ends`].
    pub fn screen(mut self) -> String {
        self.child.wait().expect("a child");
        self.reader.join().expect("no panic");
        let seen = self.seen.lock().expect("no panic");
        seen.replace("\r\n", "\n")
    }
}

fn resize(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).expect("a size");
}
