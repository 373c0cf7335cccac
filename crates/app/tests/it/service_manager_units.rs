//! Files for the service manager of the host: they verify, are restricted, and start a house (S3-08 to S3-12, S1-20).

use crate::{TWO, house};
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Installs the units of a kind into a directory beside the home.
fn written(house: &House, kind: &str) -> PathBuf {
    let dir = house.path(kind);
    let place = dir.display().to_string();
    house.expect(0, args!("unit install --kind {} --dir {}", kind, place));
    dir
}

/// Name of the units of a house whose home is not the usual one.
fn unit_name(house: &House) -> String {
    format!(
        "abbey{}",
        house.home().display().to_string().replace('/', "-")
    )
}

/// Name of its scripts for rc.d.
fn script_name(house: &House) -> String {
    unit_name(house).replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

#[test]
fn units_of_a_second_house_leave_the_first_ones_alone() {
    let (one, two) = (house(), house());
    let dir = one.path("units");
    let place = dir.display().to_string();
    for kind in ["systemd", "rcd"] {
        for house in [&one, &two] {
            house.expect(0, args!("unit install --kind {} --dir {}", kind, place));
        }
    }
    let texts: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap())
        .collect();
    assert_eq!(texts.len(), 12);
    for house in [&one, &two] {
        let home = house.home().display().to_string();
        let serves = |t: &&String| t.contains("role serve") && t.contains(&home);
        assert_eq!(texts.iter().filter(serves).count(), 2);
        // A second time changes nothing and refuses nothing.
        house.expect(0, args!("unit install --dir {}", place));
    }
    // A file of another house is never overwritten.
    let taken = dir.join(format!("{}.service", unit_name(&one)));
    std::fs::write(
        &taken,
        "Description=Control plane of the house in /elsewhere\n",
    )
    .unwrap();
    let told = one.expect_refusal(4, args!("unit install --dir {}", place));
    assert!(told.contains("belongs to another house"), "{told}");
}

fn analyze(args: &[&str]) -> (String, String) {
    let output = Command::new("systemd-analyze")
        .args(args)
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Exposure of a unit as `systemd-analyze security` counts it, from 0 to 10.
fn exposure(dir: &Path, unit: &str) -> f64 {
    let place = dir.join(unit).display().to_string();
    let (out, err) = analyze(&["security", "--offline=true", "--no-pager", &place]);
    let line = out.lines().find(|l| l.contains("Overall exposure level"));
    let line = line.unwrap_or_else(|| panic!("{out}\n{err}"));
    let number = line.split(':').nth(1).unwrap().split_whitespace().next();
    number.unwrap().parse().unwrap()
}

#[test]
fn systemd_units_verify_and_have_low_exposure() {
    let house = house();
    let dir = written(&house, "systemd");
    let name = unit_name(&house);
    let unit = |suffix: &str| format!("{name}{suffix}");
    let names = [
        unit("-hostd.service"),
        unit(".service"),
        unit("-agent@.service"),
    ];
    let places: Vec<String> = names
        .iter()
        .map(|n| dir.join(n).display().to_string())
        .collect();
    let instance = dir
        .join(unit("-agent@git-admin.service"))
        .display()
        .to_string();
    std::os::unix::fs::symlink(&places[2], &instance).unwrap();
    let mut args = vec!["verify", "--man=no"];
    args.extend(places[..2].iter().map(String::as_str));
    args.push(&instance);
    let (_, err) = analyze(&args);
    assert_eq!(err, "");
    // A temporary home cannot have `PrivateTmp`; the usual one is better still.
    let score = exposure(&dir, &unit(".service"));
    assert!(score <= 2.5, "{score}");
    let score = exposure(&dir, &unit("-agent@.service"));
    assert!(score <= 1.5, "{score}");
    let text = std::fs::read_to_string(dir.join(unit(".service"))).unwrap();
    let (head, rest) = text.split_once("[Service]").unwrap();
    assert!(
        head.contains("StartLimitBurst=5") && !rest.contains("StartLimit"),
        "limits stand where they count"
    );
    let printed = house.expect(0, "unit print");
    assert!(
        printed.contains(&format!("# /etc/systemd/system/{name}.service")),
        "{printed}"
    );
    // A place that would need quoting is refused, not quoted badly.
    let odd = house.path("a b").display().to_string();
    let told = house.expect_refusal(2, args!("--home {} unit print", odd));
    assert!(told.contains("cannot be used in a unit"), "{told}");
}

#[test]
fn user_units_are_installed_with_a_lingering_note() {
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 4242);
    let dir = house.path("units");
    let place = dir.display().to_string();
    let output = house.run(args!("unit install --dir {}", place));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && told.contains("lingering is off for this user"),
        "{told}"
    );
    let unit = dir.join(format!("{}.service", unit_name(&house)));
    let unit = unit.display().to_string();
    let (_, err) = analyze(&["verify", "--user", "--man=no", &unit]);
    assert_eq!(err, "");
    let root = crate::house();
    let told = root.expect_refusal(2, "unit print --kind user");
    assert!(told.contains("root has no user units"), "{told}");
}

#[test]
fn rc_scripts_pass_shellcheck_and_run_their_verbs() {
    let house = house();
    let dir = written(&house, "rcd");
    let script = script_name(&house);
    let (agents, hostd) = (format!("{script}_agents"), format!("{script}_hostd"));
    for name in [&script, &agents, &hostd] {
        let path = dir.join(name);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o555
        );
        let output = Command::new("shellcheck")
            .args(["-s", "sh"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    // What rc.subr does with the variables, as far as these scripts need it.
    let stub = house.path("rc.subr");
    std::fs::write(
        &stub,
        "load_rc_config() { :; }\nrun_rc_command() {\n  eval \"on=\\$$rcvar\"\n  case \"$1\" in one*) v=\"${1#one}\" ;; *) v=\"$1\"; [ \"$on\" = YES ] || { echo \"$name is off\"; return 0; } ;; esac\n  shift\n  eval \"c=\\${${v}_cmd:-}\"\n  if [ -n \"$c\" ]; then $c \"$@\"; else echo \"$v: $command $command_args\"; fi\n}\n",
    )
    .unwrap();
    let run = |name: &str, args: &[&str], on: &str| {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        let text = text.replace(". /etc/rc.subr", &format!(". {}", stub.display()));
        let copy = house.path(&format!("{name}.sh"));
        std::fs::write(&copy, text).unwrap();
        let output = Command::new("sh")
            .arg(&copy)
            .args(args)
            .env(format!("{name}_enable"), on)
            .env("ABBEY_HOME", house.home())
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert_eq!(run(&script, &["start"], "NO"), format!("{script} is off\n"));
    let started = run(&script, &["start"], "YES");
    let home = house.home().display().to_string();
    assert!(
        started.starts_with(&format!(
            "start: /usr/sbin/daemon -P /var/run/{script}.daemon.pid -p /var/run/{script}.pid"
        )),
        "{started}"
    );
    assert!(
        started
            .trim_end()
            .ends_with(&format!("role serve --home {home}")),
        "{started}"
    );
    let started = run(&hostd, &["onestart"], "NO");
    assert!(
        started.contains("role hostd --foreground"),
        "started without being enabled: {started}"
    );
    house.manifest(TWO);
    house.expect(0, "up");
    house.expect(0, "stop sysadmin");
    run(&agents, &["start", "sysadmin"], "YES");
    until("the script started it", || {
        house.json(0, "ps")["agents"][1]["presence"] == "ready"
    });
    assert!(run(&agents, &["onestatus"], "NO").contains("sysadmin"));
}

/// A process as a service manager starts it, and the socket for its readiness notification.
struct Started {
    child: Child,
    told: UnixDatagram,
}

impl Started {
    fn new(house: &House, name: &str, uid: Option<u32>, args: &[&str]) -> Started {
        let place = house.path(&format!("{name}.notify"));
        let _of_one_before = std::fs::remove_file(&place);
        let told = UnixDatagram::bind(&place).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).unwrap();
        told.set_read_timeout(Some(abbey_testkit::house::WITHIN))
            .unwrap();
        let mut command = house.command(args);
        if let Some(uid) = uid {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(uid);
        }
        let log = std::fs::File::create(house.path(&format!("{name}.log"))).unwrap();
        let child = command
            .env("NOTIFY_SOCKET", &place)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Started { child, told }
    }

    fn is_ready(&self) {
        let mut buffer = [0u8; 256];
        let n = self
            .told
            .recv(&mut buffer)
            .expect("it says that it is ready");
        assert_eq!(buffer[..n].trim_ascii(), b"READY=1");
    }
}

#[test]
fn units_start_a_house_and_cells_outlive_control_plane_and_hostd() {
    let mut house = house();
    // As `LoadCredential` hands it over: in a directory that only the unit reads, under its name.
    let handed = house.path("handed");
    std::fs::create_dir(&handed).unwrap();
    std::fs::write(handed.join("hook"), "a secret of some length").unwrap();
    let place = handed.display().to_string();
    house
        .variables
        .push(("CREDENTIALS_DIRECTORY".to_owned(), place));
    house.manifest(&format!(
        "{TWO}hooks:\n  told: {{ kind: gitea, secret: \"credential:hook\", event: news }}\n"
    ));
    let dir = written(&house, "systemd");
    let line = |unit: &str, key: &str| {
        let text = std::fs::read_to_string(dir.join(unit)).unwrap();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key).map(str::to_owned));
        line.unwrap()
    };
    let words = |unit: &str| {
        let line = line(unit, "ExecStart=");
        let words = line.split(' ').skip(1).map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let (hostd_args, serve_args) = (
        words(&format!("{}-hostd.service", unit_name(&house))),
        words(&format!("{}.service", unit_name(&house))),
    );
    let uid: u32 = line(&format!("{}.service", unit_name(&house)), "User=")
        .parse()
        .unwrap();
    assert_ne!(uid, 0);
    let start = |name: &str, uid: Option<u32>, args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let started = Started::new(&house, name, uid, &args);
        started.is_ready();
        started
    };
    let mut hostd = start("hostd", None, &hostd_args);
    let mut serve = start("serve", Some(uid), &serve_args);
    house.expect(0, "up");
    assert_eq!(
        house.control_plane_pid(),
        i32::try_from(serve.child.id()).unwrap(),
        "no other control plane was started"
    );
    let boots = || {
        house.json(0, "ps")["agents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| (a["presence"].clone(), a["generation"].clone()))
            .collect::<Vec<_>>()
    };
    let printed = house.expect(0, "unit print");
    let named = format!(
        "LoadCredential=hook:{}/credentials/hook",
        house.home().display()
    );
    assert!(printed.contains(&named), "{printed}");
    let before = boots();
    assert!(before.iter().all(|(p, _)| p == "ready"), "{before:?}");
    // Both of them end, as at an upgrade; the cells go on and are found again.
    kill(i32::try_from(serve.child.id()).unwrap());
    serve.child.wait().unwrap();
    kill(i32::try_from(hostd.child.id()).unwrap());
    hostd.child.wait().unwrap();
    let mut hostd = start("hostd", None, &hostd_args);
    let mut serve = start("serve", Some(uid), &serve_args);
    until("the same boots are there", || boots() == before);
    // `abbey down` ends them for good, which a manager takes for a success.
    house.expect(0, "down");
    assert!(serve.child.wait().unwrap().success());
    assert!(hostd.child.wait().unwrap().success());
}
