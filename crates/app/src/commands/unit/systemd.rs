//! systemd units: the control plane as an unprivileged user with every restriction under which it works, hostd as
//! root, and a template unit whose instances are agents.
//!
//! Source: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.resource-control(5), version 252.

use super::{Facts, File};
use std::fmt::Write as _;

/// Unit of the control plane of the house with this unit name.
pub(super) fn house_unit(name: &str) -> String {
    format!("{name}.service")
}
/// Oldest supported version of systemd, the one of Debian 12.
pub(super) const OLDEST: u32 = 252;
/// First version with increasing delays between restarts.
const RESTART_BACKOFF: u32 = 254;

/// Restrictions of every unit of an unprivileged user. Two things stay open: processes of other users are visible,
/// because the control plane checks which shims are alive, and the network.
const RESTRICTIONS: &str = "NoNewPrivileges=yes
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

/// Restrictions on directories, except those that hold the house.
fn private_directories(home: &str) -> String {
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
    if facts.systemd >= RESTART_BACKOFF {
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

/// Renders the systemd system units of a house that root owns.
pub(super) fn system_units(facts: &Facts) -> Vec<File> {
    let Facts {
        name,
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
# Cells are its children and keep running without it; the next hostd adopts them.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
OOMScoreAdjust=-900
# No sandboxing here: cells are started from this unit and would inherit every restriction.
"
    );
    let house = format!(
        "[Unit]
Description=Control plane of the house in {home}
Documentation=man:abbey(1)
Requires={name}-hostd.service
After={name}-hostd.service network-online.target
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
{credentials}{RESTRICTIONS}{private}ReadWritePaths={home}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6

[Install]
WantedBy=multi-user.target
",
        restarts = restarts(facts),
        credentials = credentials(facts),
        private = private_directories(home),
    );
    vec![
        File {
            name: format!("{name}-hostd.service"),
            mode: 0o644,
            text: hostd,
        },
        File {
            name: house_unit(name),
            mode: 0o644,
            text: house,
        },
        File {
            name: format!("{name}-agent@.service"),
            mode: 0o644,
            text: agent(
                facts,
                &format!("User={serve_uid}\nGroup={serve_uid}\n"),
                true,
            ),
        },
    ]
}

/// Renders the systemd user units of a house that an unprivileged user owns.
pub(super) fn user_units(facts: &Facts) -> Vec<File> {
    let Facts {
        name, binary, home, ..
    } = facts;
    // hostd and every cell are started from this unit and would inherit every restriction.
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
# Cells keep running without it; the next control plane adopts them.
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
            name: house_unit(name),
            mode: 0o644,
            text: house,
        },
        File {
            name: format!("{name}-agent@.service"),
            mode: 0o644,
            text: agent(facts, "", false),
        },
    ]
}

/// Template unit of an agent. It only asks the house to start and stop the agent; the house isolates, limits and
/// supervises the cell, so the restrictions of the unit do not depend on what runs there.
fn agent(facts: &Facts, user: &str, restricted: bool) -> String {
    let Facts {
        name, binary, home, ..
    } = facts;
    let house = house_unit(name);
    let (restrictions, target) = match restricted {
        true => (
            format!(
                "{RESTRICTIONS}{}PrivateNetwork=yes\nIPAddressDeny=any\nRestrictAddressFamilies=AF_UNIX\nProtectProc=invisible\nProcSubset=pid\n",
                private_directories(home)
            ),
            "multi-user.target",
        ),
        false => ("UMask=0077\n".to_owned(), "default.target"),
    };
    format!(
        "[Unit]
Description=Agent %i of the house in {home}
Documentation=man:abbey(1)
Requires={house}
After={house}
PartOf={house}

[Service]
Type=oneshot
RemainAfterExit=yes
{user}ExecStart={binary} --home {home} start %i
ExecStop={binary} --home {home} stop %i
TimeoutStartSec=120
TimeoutStopSec=60
{restrictions}
[Install]
WantedBy={target}
"
    )
}
