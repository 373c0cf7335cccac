//! A house in a temporary directory, driven by the real binary as a user would.

use crate::args;
use crate::args::Args;
use abbey_api::{AgentView, FleetDoc, TaskDoc, TaskView};
use abbey_model::{Presence, TaskState};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for any single change.
pub const WITHIN: Duration = Duration::from_secs(45);
const FIRST_PORT: u16 = 21_000;
const BLOCK: u16 = 40;

/// A block of ports that no other test on this host uses, held by an abstract socket name that the
/// kernel releases when the test's process ends.
#[derive(Debug)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    _held: UnixListener,
}

impl Ports {
    /// Allocates a free block of ports.
    ///
    /// # Panics
    /// If two hundred tests run at once.
    pub fn allocate() -> Ports {
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

/// Path of a microVM image that `cargo xtask image` built.
///
/// # Panics
/// If it was not built.
pub fn image(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    let target = target.join(name);
    assert!(
        target.join("image.json").exists(),
        "machines need an image; run `cargo xtask image` once"
    );
    target
}

/// Path of a program that `cargo xtask check` fetched for tests; `None` if it is missing, which is
/// printed and counted as a skipped test.
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

/// A house that is stopped when dropped.
#[derive(Debug)]
pub struct House {
    dir: tempfile::TempDir,
    abbey: PathBuf,
    /// Ports of this house.
    pub ports: Ports,
    /// Ordinary user who runs the binary; none runs it as whoever runs the test.
    user: Option<u32>,
    /// Additional host names for this house's processes, as text of `/etc/hosts`; needs root.
    pub hosts: Option<String>,
    /// Files that this house's processes see in place of the host's; needs root and `hosts`.
    pub replaced: Vec<(PathBuf, String)>,
    /// Crash point of this house's processes, as `NAME@PATH`.
    pub crash_at: Option<String>,
    /// Additional environment variables of every command.
    pub variables: Vec<(String, String)>,
    /// Additional arguments of [`House::start_control_plane`].
    pub serve_args: Vec<String>,
}

/// Writes a file of this mode, unless it is there already: a program can't be written while the control plane begins it.
fn write_if_changed(path: &Path, text: &str, mode: u32) {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return;
    }
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

impl House {
    /// A home in a new directory, without a running control plane.
    ///
    /// # Panics
    /// If no directory can be created.
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
            ports: Ports::allocate(),
            user: None,
            hosts: None,
            replaced: Vec::new(),
            crash_at: None,
            variables: Vec::new(),
            serve_args: Vec::new(),
        }
    }

    /// A home that an ordinary user owns and runs, with a copy of the binary that this user can
    /// execute.
    ///
    /// # Panics
    /// If the test does not run as root.
    pub fn run_by_user(abbey: &str, user: u32) -> House {
        let mut house = House::new(abbey);
        house.abbey = house.path("abbey");
        std::fs::copy(abbey, &house.abbey).expect("a copy of the binary");
        std::os::unix::fs::chown(house.dir.path(), Some(user), Some(user)).expect("root");
        house.user = Some(user);
        house
    }

    /// Whether the house's commands run as the user of the test, instead of an ordinary one.
    pub fn runs_as_root(&self) -> bool {
        self.user.is_none() && rustix::process::geteuid().is_root()
    }

    /// Path of `ABBEY_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Path of this name beside the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the manifest with the house's ports and a free operator port filled in, and returns
    /// its path.
    ///
    /// # Panics
    /// If it cannot be written.
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

    /// Installs the image that microVMs boot from.
    ///
    /// # Panics
    /// If it was not built; tests have a network of their own and cannot fetch it.
    pub fn install_default_image(&self) {
        self.install_image("base");
    }

    /// Installs another image that was built.
    ///
    /// # Panics
    /// As [`House::install_default_image`].
    pub fn install_image(&self, name: &str) {
        let from = image(name).display().to_string();
        self.expect(0, &["image", "import", &from, name]);
    }

    /// A command of the binary with these arguments in this home, with a clean environment.
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
        write_if_changed(&path, hosts, 0o644);
        let mut command = Command::new("unshare");
        // The name server of the tests' outside; one that is not there is asked in vain.
        let resolv = self.path("resolv.conf");
        write_if_changed(&resolv, "nameserver 198.51.100.8\n", 0o644);
        let script = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 1; shift 2; done && shift && exec \"$@\"";
        command
            .args(["--mount", "sh", "-c", script])
            .arg(&path)
            .arg(&resolv);
        for (n, (place, text)) in self.replaced.iter().enumerate() {
            let own = self.path(&format!("replaced-{n}"));
            // A program stays one.
            let mode = std::fs::metadata(place).map_or(0o644, |m| m.mode() & 0o755);
            write_if_changed(&own, text, mode);
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

    /// Runs the binary with these arguments, and returns its output.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, args: impl Into<Args>) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Runs the binary, requires this exit code, and returns standard output.
    ///
    /// # Panics
    /// With the whole output if the exit code is another.
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
            self.control_plane_log()
        );
        out.into_owned()
    }

    /// Runs the binary with `--json`, requires this exit code, and returns the parsed document.
    ///
    /// # Panics
    /// If the exit code is another or the output is not JSON.
    pub fn json(&self, code: i32, args: impl Into<Args>) -> Value {
        self.document(code, args)
    }

    /// Runs the binary with `--json`, requires this exit code, and returns the output as a document
    /// of the API.
    ///
    /// # Panics
    /// If the exit code is another or the output is not such a document.
    pub fn document<T: DeserializeOwned>(&self, code: i32, args: impl Into<Args>) -> T {
        let args = args.into().with(&["--json"]);
        let text = self.expect(code, &args);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("abbey {:?} printed no such document: {e}\n{text}", args.0))
    }

    /// The task with this number, such as `TASK-1`.
    ///
    /// # Panics
    /// If there is none.
    pub fn task(&self, number: &str) -> TaskView {
        let doc: TaskDoc = self.document(0, args!("task show {}", number));
        doc.task
    }

    /// Waits until a task is in this state.
    ///
    /// # Panics
    /// If that takes longer than [`WITHIN`].
    pub fn wait_for_task(&self, number: &str, state: TaskState) {
        until(&format!("{number} is {state}"), || {
            self.task(number).state == state
        });
    }

    /// The agent with this name, as `abbey ps` lists it.
    ///
    /// # Panics
    /// If there is none.
    pub fn agent(&self, name: &str) -> AgentView {
        let fleet: FleetDoc = self.document(0, "ps");
        let found = fleet.agents.into_iter().find(|a| a.name == name);
        found.unwrap_or_else(|| panic!("there is no agent `{name}`"))
    }

    /// Entries of the audit log with this action, oldest first.
    ///
    /// # Panics
    /// If the log cannot be read.
    pub fn audit_entries(&self, action: &str) -> Vec<Value> {
        let lines = self.expect(0, &["activity", "export"]);
        let all = lines
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("an entry"));
        all.filter(|e| e["action"] == action).collect()
    }

    /// Writes a file in an agent's cell, as that agent.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_agent_file(&self, agent: &str, path: &str, text: &str) {
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

    /// Waits until an agent is ready.
    ///
    /// # Panics
    /// If that takes longer than [`WITHIN`].
    pub fn wait_until_up(&self, agent: &str) {
        until("the agent is ready", || {
            self.agent(agent).presence == Presence::Ready
        });
    }

    /// Runs the binary, requires this exit code, and returns its error message.
    ///
    /// # Panics
    /// If the exit code is another.
    pub fn expect_refusal(&self, code: i32, args: impl Into<Args>) -> String {
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

    /// Text of the control plane's log.
    pub fn control_plane_log(&self) -> String {
        std::fs::read_to_string(self.home().join("logs/serve.log")).unwrap_or_default()
    }

    /// Process id of the control plane.
    ///
    /// # Panics
    /// If none runs.
    pub fn control_plane_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.home().join("run/serve.json"))
            .expect("a control plane runs");
        let value: Value = serde_json::from_str(&text).expect("an announcement");
        i32::try_from(value["pid"].as_i64().unwrap_or(0)).expect("a pid")
    }

    /// Kills the control plane with SIGKILL and waits until it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill_control_plane(&self) {
        kill(self.control_plane_pid());
    }

    /// The operator's credential.
    pub fn operator_token(&self) -> String {
        std::fs::read_to_string(self.home().join("operator.token")).unwrap_or_default()
    }

    /// The credential of an agent.
    pub fn agent_token(&self, agent: &str) -> String {
        std::fs::read_to_string(self.home().join("agents").join(agent).join("home/token"))
            .unwrap_or_default()
    }

    /// Starts a control plane with additional arguments, such as a shorter lease.
    ///
    /// # Panics
    /// If it is not ready in time.
    pub fn start_control_plane(&self, args: impl Into<Args>) {
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
            self.control_plane_log()
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

/// Puts the calling thread into a network namespace of its own, once, so that tests don't meet each
/// other or the host; does nothing for an ordinary user.
pub fn own_network() {
    thread_local!(static DONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !DONE.replace(true) && rustix::process::geteuid().is_root() {
        abbey_launch::unshare_network().expect("a network of its own");
    }
}

/// Kills a process with SIGKILL and waits until it has ended.
///
/// # Panics
/// If it does not end.
pub fn kill(pid: i32) {
    let target = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _gone_already = rustix::process::kill_process(target, rustix::process::Signal::KILL);
    until("the process is gone", || {
        abbey_cells::identify(pid).is_none()
    });
}

/// Waits until a condition is true; `what` names it in the failure.
///
/// # Panics
/// If that takes longer than [`WITHIN`].
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !reached() {
        assert!(Instant::now() < end, "not reached in {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
