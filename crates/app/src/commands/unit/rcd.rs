//! Scripts for FreeBSD's rc.d: the control plane, hostd, and one that starts the agents of a list.
//!
//! Source: rc.subr(8), rc(8), daemon(8), FreeBSD 14.

use super::{Facts, File};

/// Script of the control plane.
pub(super) const HOUSE: &str = "abbey";

/// Renders the rc.d scripts of the house for FreeBSD.
pub(super) fn rcd_scripts(facts: &Facts) -> Vec<File> {
    let Facts { binary, home, .. } = facts;
    // The control plane drops its privileges by itself.
    let supervised = |name: &str, about: &str, needs: &str, role: &str| {
        format!(
            r#"#!/bin/sh
#
# {about} of the house in {home}.
#
# PROVIDE: {name}
# REQUIRE: {needs}
# KEYWORD: shutdown
#
# Add to /etc/rc.conf, or run `service {name} enable`:
#   {name}_enable="YES"

# shellcheck disable=SC1091
. /etc/rc.subr

# shellcheck disable=SC2034
name="{name}"
# shellcheck disable=SC2034
rcvar="{name}_enable"

load_rc_config "$name"

: "${{{name}_enable:=NO}}"

# Process IDs of daemon(8), which restarts the program, and of the program.
# shellcheck disable=SC2034
pidfile="/var/run/{name}.daemon.pid"
child_pidfile="/var/run/{name}.pid"
# shellcheck disable=SC2034
procname="/usr/sbin/daemon"
# shellcheck disable=SC2034
command="/usr/sbin/daemon"
# shellcheck disable=SC2034
command_args="-P $pidfile -p $child_pidfile -R 2 -S -T {name} {binary} {role} --home {home}"

run_rc_command "$1"
"#
        )
    };
    let agents = format!(
        r#"#!/bin/sh
#
# Agents of the house in {home}, started after it.
#
# PROVIDE: abbey_agents
# REQUIRE: abbey
# KEYWORD: shutdown
#
# Add to /etc/rc.conf:
#   abbey_agents_enable="YES"
#   abbey_agents_list="one another"

# shellcheck disable=SC1091
. /etc/rc.subr

# shellcheck disable=SC2034
name="abbey_agents"
# shellcheck disable=SC2034
rcvar="abbey_agents_enable"
# shellcheck disable=SC2034
start_cmd="abbey_agents_each start"
# shellcheck disable=SC2034
stop_cmd="abbey_agents_each stop"
# shellcheck disable=SC2034
status_cmd="abbey_agents_status"
# shellcheck disable=SC2034
extra_commands="status"

# Arguments after the verb are agents; without any, those of abbey_agents_list.
abbey_agents_each()
{{
	_verb="$1"
	shift
	# shellcheck disable=SC2086
	[ $# -gt 0 ] || set -- ${{abbey_agents_list}}
	[ $# -gt 0 ] || return 0
	"{binary}" --home "{home}" "$_verb" "$@"
}}

abbey_agents_status()
{{
	"{binary}" --home "{home}" ps
}}

load_rc_config "$name"

: "${{abbey_agents_enable:=NO}}"
: "${{abbey_agents_list:=}}"

run_rc_command "$@"
"#
    );
    let file = |name, text| File {
        name,
        mode: 0o555,
        text,
    };
    vec![
        file(
            "abbey_hostd",
            supervised(
                "abbey_hostd",
                "Privileged helper",
                "FILESYSTEMS NETWORKING",
                "role hostd --foreground",
            ),
        ),
        file(
            HOUSE,
            supervised(HOUSE, "Control plane", "abbey_hostd LOGIN", "role serve"),
        ),
        file("abbey_agents", agents),
    ]
}
