//! Scripts for FreeBSD's rc.d: the control plane, hostd, and one that starts the agents of a list.
//!
//! Source: rc.subr(8), rc(8), daemon(8), FreeBSD 14.

use super::{Facts, File};

/// Script of the control plane of the house with this unit name: rc.subr makes variables of it.
pub(super) fn house_script(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// Renders the rc.d scripts of the house for FreeBSD.
pub(super) fn rcd_scripts(facts: &Facts) -> Vec<File> {
    let Facts { binary, home, .. } = facts;
    let house = house_script(&facts.name);
    let (helper, all_agents) = (format!("{house}_hostd"), format!("{house}_agents"));
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
# PROVIDE: {all_agents}
# REQUIRE: {house}
# KEYWORD: shutdown
#
# Add to /etc/rc.conf:
#   {all_agents}_enable="YES"
#   {all_agents}_list="one another"

# shellcheck disable=SC1091
. /etc/rc.subr

# shellcheck disable=SC2034
name="{all_agents}"
# shellcheck disable=SC2034
rcvar="{all_agents}_enable"
# shellcheck disable=SC2034
start_cmd="{all_agents}_each start"
# shellcheck disable=SC2034
stop_cmd="{all_agents}_each stop"
# shellcheck disable=SC2034
status_cmd="{all_agents}_status"
# shellcheck disable=SC2034
extra_commands="status"

# Arguments after the verb are agents; without any, those of {all_agents}_list.
{all_agents}_each()
{{
	_verb="$1"
	shift
	# shellcheck disable=SC2086
	[ $# -gt 0 ] || set -- ${{{all_agents}_list}}
	[ $# -gt 0 ] || return 0
	"{binary}" --home "{home}" "$_verb" "$@"
}}

{all_agents}_status()
{{
	"{binary}" --home "{home}" ps
}}

load_rc_config "$name"

: "${{{all_agents}_enable:=NO}}"
: "${{{all_agents}_list:=}}"

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
            helper.clone(),
            supervised(
                &helper,
                "Privileged helper",
                "FILESYSTEMS NETWORKING",
                "role hostd --foreground",
            ),
        ),
        file(
            house.clone(),
            supervised(
                &house,
                "Control plane",
                &format!("{helper} LOGIN"),
                "role serve",
            ),
        ),
        file(all_agents, agents),
    ]
}
