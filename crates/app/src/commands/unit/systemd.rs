//! Units of systemd: the control plane as an ordinary user behind every wall that it can live with, hostd as root, and
//! a template whose instances are agents.
//!
//! Source: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.resource-control(5), version 252.

use super::{Facts, File};
use std::fmt::Write as _;

/// The control plane.
pub(super) const HOUSE: &str = "abbey.service";
/// Oldest version that is looked after: Debian 12 has it.
pub(super) const OLDEST: u32 = 252;
/// First version whose pauses between restarts grow.
const GROWING_PAUSES: u32 = 254;

/// Walls that every unit of an ordinary user has. What is left open: the processes of other users can be seen, because
/// whose shim lives is read from them; and the network, where there is one.
const WALLS: &str = "NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
ProtectSystem=strict
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
PrivateDevices=yes
DevicePolicy=closed
UMask=0077
";

/// Directories that a unit may hide, unless the house lives there.
fn hidden(home: &str) -> String {
    let mut text = String::new();
    let below = |dirs: &[&str]| dirs.iter().any(|d| home.starts_with(d));
    if !below(&["/home/", "/root/", "/run/user/"]) {
        text.push_str("ProtectHome=yes\n");
    }
    if !below(&["/tmp/", "/var/tmp/"]) {
        text.push_str("PrivateTmp=yes\n");
    }
    text
}

fn restarts(facts: &Facts) -> String {
    let mut text = "Restart=on-failure\nRestartSec=2\n".to_owned();
    if facts.systemd >= GROWING_PAUSES {
        text.push_str("RestartSteps=6\nRestartMaxDelaySec=60\n");
    }
    text
}

fn credentials(facts: &Facts) -> String {
    let mut text = String::new();
    for name in &facts.credentials {
        let _to_a_string = writeln!(
            text,
            "LoadCredential={name}:{}/credentials/{name}",
            facts.home
        );
    }
    text
}

/// Of a house that root set up.
pub(super) fn system(facts: &Facts) -> Vec<File> {
    let Facts {
        binary,
        home,
        serve_uid,
        ..
    } = facts;
    let hostd = format!(
        "[Unit]
Description=Privileged helper of the house in {home}
Documentation=man:abbey(1)
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={binary} role hostd --foreground --home {home}
Restart=on-failure
RestartSec=2
# Cells are started from it and go on without it: the next one finds them.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
OOMScoreAdjust=-900
# No wall around it: every wall would be one around the cells too, and theirs are built in it.
"
    );
    let house = format!(
        "[Unit]
Description=Control plane of the house in {home}
Documentation=man:abbey(1)
Requires=abbey-hostd.service
After=abbey-hostd.service network-online.target
Wants=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
User={serve_uid}
Group={serve_uid}
ExecStart={binary} role serve --home {home}
{restarts}TimeoutStopSec=20
LimitNOFILE=65536
TasksMax=1024
OOMScoreAdjust=-500
{credentials}{WALLS}{hidden}ReadWritePaths={home}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6

[Install]
WantedBy=multi-user.target
",
        restarts = restarts(facts),
        credentials = credentials(facts),
        hidden = hidden(home),
    );
    vec![
        File {
            name: "abbey-hostd.service",
            mode: 0o644,
            text: hostd,
        },
        File {
            name: HOUSE,
            mode: 0o644,
            text: house,
        },
        File {
            name: "abbey-agent@.service",
            mode: 0o644,
            text: agent(
                facts,
                &format!("User={serve_uid}\nGroup={serve_uid}\n"),
                true,
            ),
        },
    ]
}

/// Of a house of a user's own.
pub(super) fn user(facts: &Facts) -> Vec<File> {
    let Facts { binary, home, .. } = facts;
    // hostd and every cell are begun from here, so what walls they need they build themselves.
    let house = format!(
        "[Unit]
Description=House in {home}
Documentation=man:abbey(1)
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={binary} role serve --home {home}
{restarts}TimeoutStopSec=20
# Cells go on without it, and the next one finds them.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
UMask=0077
{credentials}
[Install]
WantedBy=default.target
",
        restarts = restarts(facts),
        credentials = credentials(facts),
    );
    vec![
        File {
            name: HOUSE,
            mode: 0o644,
            text: house,
        },
        File {
            name: "abbey-agent@.service",
            mode: 0o644,
            text: agent(facts, "", false),
        },
    ]
}

/// An agent as a unit: it asks the house, which starts, limits and watches the cell; so the walls around the unit are
/// the same whatever runs in the cell.
fn agent(facts: &Facts, user: &str, walled: bool) -> String {
    let Facts { binary, home, .. } = facts;
    let (walls, target) = match walled {
        true => (
            format!(
                "{WALLS}{}PrivateNetwork=yes\nIPAddressDeny=any\nRestrictAddressFamilies=AF_UNIX\nProtectProc=invisible\nProcSubset=pid\n",
                hidden(home)
            ),
            "multi-user.target",
        ),
        false => ("UMask=0077\n".to_owned(), "default.target"),
    };
    format!(
        "[Unit]
Description=Agent %i of the house in {home}
Documentation=man:abbey(1)
Requires={HOUSE}
After={HOUSE}
PartOf={HOUSE}

[Service]
Type=oneshot
RemainAfterExit=yes
{user}ExecStart={binary} --home {home} start %i
ExecStop={binary} --home {home} stop %i
TimeoutStartSec=120
TimeoutStopSec=60
{walls}
[Install]
WantedBy={target}
"
    )
}
