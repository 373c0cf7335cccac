//! A whole host that QEMU emulates, for what a test can't do to the host that it runs on: cut the power, step the
//! clock, boot a kernel without a feature. It runs Debian's kernel for clouds with control groups of version 2 alone,
//! has no network beyond loopback, and its disk survives [`EmulatedHost::cut_power`].

use base64::Engine;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a boot or for one script.
const PATIENCE: Duration = Duration::from_secs(280);
const DISK: &str = "2G";

/// Exit status and output of a script.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; 124 after four minutes.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
}

/// A running host, which is ended when dropped.
#[derive(Debug)]
pub struct EmulatedHost {
    dir: tempfile::TempDir,
    qemu: Child,
    line: BufReader<UnixStream>,
}

impl EmulatedHost {
    /// Boots a new host, in which the programs in the directory of `abbey` are in `/srv/bin`. `parameters` go to its
    /// kernel.
    ///
    /// # Panics
    /// If the image `host` was not built or the host does not boot.
    pub fn boot(abbey: &str, parameters: &str) -> EmulatedHost {
        let dir = tempfile::Builder::new()
            .prefix("abbey-host-")
            .tempdir()
            .expect("a temporary directory");
        let srv = dir.path().join("files/srv");
        std::fs::create_dir_all(srv.join("bin")).expect("a directory");
        let beside = Path::new(abbey).parent().expect("a directory");
        for name in ["abbey", "abbey-scripted-model"] {
            // Debugging information is most of a program, and the emulated disk is slow.
            let (from, to) = (beside.join(name), srv.join("bin").join(name));
            let stripped = Command::new("strip").arg("-o").arg(&to).arg(&from).status();
            assert!(stripped.expect("`strip`").success(), "{}", from.display());
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        std::fs::write(srv.join("first"), include_str!("first.sh")).expect("a file");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "root_owner=0:0,lazy_itable_init=1", "-d"])
            .arg(dir.path().join("files"))
            .arg(dir.path().join("disk"))
            .arg(DISK)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .status();
        assert!(made.expect("`mkfs.ext4`").success(), "a disk");
        write_initrd(dir.path());
        let (qemu, line) = start(dir.path(), parameters);
        EmulatedHost { dir, qemu, line }
    }

    /// Runs a script of bash as root in `/srv`; processes that it leaves in the background go on.
    ///
    /// # Panics
    /// If the host does not answer.
    pub fn run(&mut self, script: &str) -> Outcome {
        let head = "export PATH=/srv/bin:$PATH ABBEY_HOME=/srv/house\n";
        let script = base64::engine::general_purpose::STANDARD.encode(format!("{head}{script}"));
        writeln!(self.line.get_mut(), "{script}").expect("a host that listens");
        let mut head = String::new();
        let read = self.line.read_line(&mut head);
        let (status, length) = head
            .trim()
            .split_once(' ')
            .unwrap_or_else(|| panic!("{read:?} {head:?}\n{}", self.console()));
        let mut output = vec![0; length.parse().expect("a length")];
        self.line.read_exact(&mut output).expect("the output");
        Outcome {
            status: status.parse().expect("a status"),
            text: String::from_utf8_lossy(&output).into_owned(),
        }
    }

    /// Runs a script, requires this exit status, and returns the output.
    ///
    /// # Panics
    /// With the output if the status is another.
    pub fn expect(&mut self, status: i32, script: &str) -> String {
        let outcome = self.run(script);
        assert_eq!(
            outcome.status,
            status,
            "{script}\n--- output\n{}\n--- serve\n{}",
            outcome.text,
            self.run("tail -n 40 $ABBEY_HOME/logs/*.log").text
        );
        outcome.text
    }

    /// Ends the host at once, without a flush of anything, and boots it again from the same disk.
    ///
    /// # Panics
    /// If it does not boot again.
    pub fn cut_power(&mut self, parameters: &str) {
        let _ended_itself = self.qemu.kill();
        let _status = self.qemu.wait();
        (self.qemu, self.line) = start(self.dir.path(), parameters);
    }

    /// What the kernel printed.
    fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for EmulatedHost {
    fn drop(&mut self) {
        let _ended_itself = self.qemu.kill();
        let _status = self.qemu.wait();
    }
}

fn image() -> PathBuf {
    crate::house::image("host")
}

/// The image's first file system, with another first program behind it: of two files of one name the kernel keeps the
/// later one.
fn write_initrd(dir: &Path) {
    let own = dir.join("initrd.d");
    std::fs::create_dir(&own).expect("a directory");
    let init = own.join("init");
    std::fs::write(&init, include_str!("init.sh")).expect("a file");
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet", "-R", "0:0"])
        .current_dir(&own)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`cpio`");
    let names = cpio.stdin.take();
    names.expect("a pipe").write_all(b"init\n").expect("a name");
    let behind = cpio.wait_with_output().expect("an archive").stdout;
    let mut all = std::fs::read(image().join("initrd")).expect("a built image");
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(behind);
    std::fs::write(dir.join("initrd"), all).expect("a file");
}

/// Starts QEMU and waits until the host takes scripts.
fn start(dir: &Path, parameters: &str) -> (Child, BufReader<UnixStream>) {
    let socket = dir.join("line");
    let _of_the_previous_boot = std::fs::remove_file(&socket);
    let drive = |name: &str, file: &Path, options: &str| {
        [
            "-drive".to_owned(),
            format!(
                "if=none,id={name},format=raw,file={},{options}",
                file.display()
            ),
            "-device".to_owned(),
            format!("virtio-blk-device,drive={name},serial={name}"),
        ]
    };
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-M", "microvm,acpi=on,pit=on,pic=on,rtc=on"])
        .args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"])
        .args(["-smp", "2", "-m", "1536", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(image().join("kernel"))
        .arg("-initrd")
        .arg(dir.join("initrd"))
        .arg("-append")
        .arg(format!(
            "console=ttyS0 reboot=t panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check lpj=4000000 tsc_early_khz={} {parameters}",
            abbey_launch::tsc_khz().unwrap_or(2_000_000)
        ))
        .arg("-serial")
        .arg(format!("file:{}", dir.join("console").display()))
        .args(["-device", "virtio-serial-device", "-device", "virtio-rng-device"])
        .arg("-chardev")
        .arg(format!("socket,id=line,server=on,wait=on,path={}", socket.display()))
        .args(["-device", "virtserialport,chardev=line,name=abbey.test"])
        .args(drive("base", &image().join("base.ext4"), "readonly=on"))
        // What QEMU was told is written is there after a power cut; what the guest did not flush need not be.
        .args(drive("disk", &dir.join("disk"), "cache=writeback"))
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU");
    let end = Instant::now() + PATIENCE;
    let line = loop {
        match UnixStream::connect(&socket) {
            Ok(line) => break line,
            Err(e) => assert!(
                Instant::now() < end && matches!(qemu.try_wait(), Ok(None)),
                "QEMU did not start: {e}"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    line.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut line = BufReader::new(line);
    let mut ready = String::new();
    let read = line.read_line(&mut ready);
    if ready != "ready\n" {
        let _ended_itself = qemu.kill();
        let _status = qemu.wait();
        let console = std::fs::read(dir.join("console")).unwrap_or_default();
        panic!(
            "the host did not boot: {read:?}\n{}",
            String::from_utf8_lossy(&console)
        );
    }
    (qemu, line)
}
