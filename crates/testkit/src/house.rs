//! A house in a temporary directory, driven by the real binary as a user would.

use crate::args;
use crate::args::Args;
use abbey_api::{AgentView, FleetDoc, TaskDoc, TaskView};
use abbey_model::{Presence, TaskState};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for any single change.
pub const WITHIN: Duration = Duration::from_secs(45);
const FIRST_PORT: u16 = 21_000;
const BLOCK: u16 = 40;

/// Ports that no other test on this host uses. Held by a name in the abstract socket namespace,
/// which the kernel releases when the test's process ends, however it ends.
#[derive(Debug)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    _held: UnixListener,
}

impl Ports {
    /// Takes a free block.
    ///
    /// # Panics
    /// When two hundred tests run at once.
    pub fn take() -> Ports {
        for n in 0..200 {
            let address = SocketAddr::from_abstract_name(format!("abbey-test-ports-{n}"))
                .expect("a short name");
            if let Ok(held) = UnixListener::bind_addr(&address) {
                let first = FIRST_PORT + n * BLOCK;
                return Ports {
                    first,
                    last: first + BLOCK - 1,
                    _held: held,
                };
            }
        }
        panic!("no block of ports is free");
    }
}

/// An image for machines, as `cargo xtask image` builds it.
///
/// # Panics
/// When it was not built.
pub fn image(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    let target = target.join(name);
    assert!(
        target.join("image.json").exists(),
        "machines need an image; run `cargo xtask image` once"
    );
    target
}

/// A program that `cargo xtask check` fetched for tests, or none, which is counted and told.
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
pub fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let place = target.join("tools").join(name);
    if place.exists() {
        return place.canonicalize().ok();
    }
    let why = format!("`{name}` could not be had; `cargo xtask check` says why");
    println!("skipped: {why}");
    let dir = target.join("skipped");
    let _only_for_the_count =
        std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join(test), why));
    None
}

/// A house that is taken down when dropped.
#[derive(Debug)]
pub struct House {
    dir: tempfile::TempDir,
    abbey: PathBuf,
    /// Ports of this house.
    pub ports: Ports,
    /// Ordinary user who runs the binary; none runs it as whoever runs the test.
    user: Option<u32>,
    /// Names that this house alone knows, as the text of `/etc/hosts`; needs root.
    pub hosts: Option<String>,
    /// Files that this house alone sees in place of the host's; needs root, and works with `hosts` alone.
    pub replaced: Vec<(PathBuf, String)>,
    /// Where a process of the house is to be ended: `NAME@PATH`.
    pub crash_at: Option<String>,
    /// Further variables of every command.
    pub variables: Vec<(String, String)>,
    /// Extra arguments for the control plane when started by [`House::serve`].
    pub serve_args: Vec<String>,
}

impl House {
    /// A home in a fresh directory, for this binary.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn new(abbey: &str) -> House {
        own_network();
        let dir = tempfile::Builder::new()
            .prefix("abbey-t-")
            .tempdir()
            .expect("a temporary directory");
        // Agents have users of their own and walk through here.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))
            .expect("permissions");
        House {
            dir,
            abbey: PathBuf::from(abbey),
            ports: Ports::take(),
            user: None,
            hosts: None,
            replaced: Vec::new(),
            crash_at: None,
            variables: Vec::new(),
            serve_args: Vec::new(),
        }
    }

    /// A home that an ordinary user owns and runs, with a copy of the binary that it can reach.
    ///
    /// # Panics
    /// When the test is not run by root.
    pub fn of_user(abbey: &str, user: u32) -> House {
        let mut house = House::new(abbey);
        house.abbey = house.path("abbey");
        std::fs::copy(abbey, &house.abbey).expect("a copy of the binary");
        std::os::unix::fs::chown(house.dir.path(), Some(user), Some(user)).expect("root");
        house.user = Some(user);
        house
    }

    /// Whether the house is run by whoever runs the test.
    pub fn runs_as_root(&self) -> bool {
        self.user.is_none() && rustix::process::geteuid().is_root()
    }

    /// `ABBEY_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A place beside the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the manifest, with the house's ports and a free outside port put in.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn manifest(&self, text: &str) -> PathBuf {
        let path = self.path("abbey.yaml");
        let ports = format!(
            "network: {{ ports: {}-{}",
            self.ports.first, self.ports.last
        );
        let head = "version: 1\nlisten: { address: 127.0.0.1:0 }\n";
        let text = match text.contains("network: {") {
            true => text.replacen("network: {", &format!("{ports},"), 1),
            false => format!("{ports} }}\n{text}"),
        };
        std::fs::write(&path, format!("{head}{text}")).expect("a manifest");
        path
    }

    /// Brings the image that machines boot from.
    ///
    /// # Panics
    /// When it was not built; tests have a network of their own and cannot fetch it.
    pub fn bring_image(&self) {
        self.bring("base");
    }

    /// Brings another image that was built.
    ///
    /// # Panics
    /// As [`House::bring_image`].
    pub fn bring(&self, name: &str) {
        let from = image(name).display().to_string();
        self.expect(0, &["image", "import", &from, name]);
    }

    /// A command of the binary in this home, with an environment of its own.
    pub fn command(&self, args: impl Into<Args>) -> Command {
        let mut command = match &self.hosts {
            Some(hosts) => self.with_names(hosts),
            None => Command::new(&self.abbey),
        };
        let dir = self.abbey.parent().unwrap_or(Path::new("/"));
        command
            .args(args.into().0)
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", dir.display()),
            )
            .env("HOME", self.dir.path())
            .env("ABBEY_HOME", self.home())
            .current_dir(self.dir.path())
            .envs(self.variables.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        if let Some(place) = &self.crash_at {
            command.env(abbey_cells::crash::VARIABLE, place);
        }
        if let (Some(user), None) = (self.user, &self.hosts) {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user);
        }
        command
    }

    /// The binary in mounts of its own, where other names are known.
    fn with_names(&self, hosts: &str) -> Command {
        let path = self.path("hosts");
        std::fs::write(&path, hosts).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let mut command = Command::new("unshare");
        // The name server of the tests' outside; one that is not there is asked in vain.
        let resolv = self.path("resolv.conf");
        std::fs::write(&resolv, "nameserver 198.51.100.8\n").expect("a file");
        std::fs::set_permissions(&resolv, std::fs::Permissions::from_mode(0o644))
            .expect("its mode");
        let script = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 1; shift 2; done && shift && exec \"$@\"";
        command
            .args(["--mount", "sh", "-c", script])
            .arg(&path)
            .arg(&resolv);
        for (n, (place, text)) in self.replaced.iter().enumerate() {
            let own = self.path(&format!("replaced-{n}"));
            std::fs::write(&own, text).expect("a file");
            std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o644))
                .expect("its mode");
            command.arg(&own).arg(place);
        }
        command.arg("--");
        if let Some(user) = self.user {
            let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
            command.args(["setpriv", &uid, &gid, "--clear-groups"]);
        }
        command.arg(&self.abbey);
        command
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, args: impl Into<Args>) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Runs it, expects this exit code, and gives standard output.
    ///
    /// # Panics
    /// With everything it said, when the code is another.
    pub fn expect(&self, code: i32, args: impl Into<Args>) -> String {
        let args = args.into();
        let output = self.run(&args);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(
            output.status.code(),
            Some(code),
            "abbey {:?}\n--- stdout\n{out}\n--- stderr\n{err}\n--- serve\n{}",
            args.0,
            self.serve_log()
        );
        out.into_owned()
    }

    /// As [`House::expect`], with `--json`.
    ///
    /// # Panics
    /// When the output is no document.
    pub fn json(&self, code: i32, args: impl Into<Args>) -> Value {
        self.document(code, args)
    }

    /// As [`House::json`], as a document of the API.
    ///
    /// # Panics
    /// When the output is no such document.
    pub fn document<T: DeserializeOwned>(&self, code: i32, args: impl Into<Args>) -> T {
        let args = args.into().with(&["--json"]);
        let text = self.expect(code, &args);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("abbey {:?} printed no such document: {e}\n{text}", args.0))
    }

    /// The task with this number.
    ///
    /// # Panics
    /// When there is none.
    pub fn task(&self, number: &str) -> TaskView {
        let doc: TaskDoc = self.document(0, args!("task show {}", number));
        doc.task
    }

    /// Waits until a task is in this state.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn wait_for_task(&self, number: &str, state: TaskState) {
        until(&format!("{number} is {state}"), || {
            self.task(number).state == state
        });
    }

    /// The agent of this name, as `abbey ps` lists it.
    ///
    /// # Panics
    /// When there is none.
    pub fn agent(&self, name: &str) -> AgentView {
        let fleet: FleetDoc = self.document(0, "ps");
        let found = fleet.agents.into_iter().find(|a| a.name == name);
        found.unwrap_or_else(|| panic!("there is no agent `{name}`"))
    }

    /// Entries of the audit log with this action, oldest first.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn entries(&self, action: &str) -> Vec<Value> {
        let lines = self.expect(0, &["activity", "export"]);
        let all = lines
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("an entry"));
        all.filter(|e| e["action"] == action).collect()
    }

    /// Writes a file in the cell of an agent, as that agent.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, agent: &str, path: &str, text: &str) {
        use std::io::Write;
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.expect(0, &["exec", agent, "--", "mkdir", "-p", dir]);
        }
        let mut child = self
            .command(&["exec", agent, "--", "tee", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("it reads");
        drop(input);
        assert!(child.wait().expect("it ends").success(), "{agent}: {path}");
    }

    /// Waits until an agent is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn is_up(&self, agent: &str) {
        until("the agent is ready", || {
            self.agent(agent).presence == Presence::Ready
        });
    }

    /// What a refused command said.
    ///
    /// # Panics
    /// When it was not refused with this code.
    pub fn refused(&self, code: i32, args: impl Into<Args>) -> String {
        let args = args.into();
        let output = self.run(&args);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "abbey {:?}\n{}\n{err}",
            args.0,
            String::from_utf8_lossy(&output.stdout)
        );
        err
    }

    /// Log of the control plane.
    pub fn serve_log(&self) -> String {
        std::fs::read_to_string(self.home().join("logs/serve.log")).unwrap_or_default()
    }

    /// Process of the control plane.
    ///
    /// # Panics
    /// When none runs.
    pub fn serve_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.home().join("run/serve.json"))
            .expect("a control plane runs");
        let value: Value = serde_json::from_str(&text).expect("an announcement");
        i32::try_from(value["pid"].as_i64().unwrap_or(0)).expect("a pid")
    }

    /// `kill -9` of the control plane, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill_serve(&self) {
        kill(self.serve_pid());
    }

    /// The operator's credential.
    pub fn operator_token(&self) -> String {
        std::fs::read_to_string(self.home().join("operator.token")).unwrap_or_default()
    }

    /// An agent's credential.
    pub fn agent_token(&self, agent: &str) -> String {
        std::fs::read_to_string(self.home().join("agents").join(agent).join("home/token"))
            .unwrap_or_default()
    }

    /// Starts a control plane with further arguments, for leases shorter than usual.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn serve(&self, args: impl Into<Args>) {
        use std::io::{BufRead, BufReader};
        std::fs::create_dir_all(self.home().join("logs")).expect("a directory");
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.home().join("logs/serve.log"))
            .expect("a log");
        let mut all = Args::from("role serve");
        all.0.extend(args.into().0);
        let mut child = self
            .command(&all)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let pipe = child.stdout.take().expect("a pipe");
        BufReader::new(pipe).read_line(&mut line).expect("a line");
        assert!(
            line.contains("\"pid\""),
            "the control plane did not come up: {line}\n{}",
            self.serve_log()
        );
        // Nobody waits for it here; its parent's end makes it an orphan as in real life.
        drop(std::thread::spawn(move || drop(child.wait())));
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _best_effort = self.run(&["down"]);
    }
}

/// Puts the calling thread into a network of its own, once, so that no test meets the host's or
/// another test's. An ordinary user stays where they are.
pub fn own_network() {
    thread_local!(static DONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !DONE.replace(true) && rustix::process::geteuid().is_root() {
        abbey_launch::unshare_network().expect("a network of its own");
    }
}

/// Kills a process and waits until it is gone.
///
/// # Panics
/// When it does not go.
pub fn kill(pid: i32) {
    let target = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _gone_already = rustix::process::kill_process(target, rustix::process::Signal::KILL);
    until("the process is gone", || {
        abbey_cells::identify(pid).is_none()
    });
}

/// Waits for a condition.
///
/// # Panics
/// When it is not reached in time.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !reached() {
        assert!(Instant::now() < end, "not reached in {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
