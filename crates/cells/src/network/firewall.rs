//! The table in the kernel: checked, applied in one transaction, read back, and put back as it was
//! when contact is lost (S1-13). Nothing but the house's own table is ever touched.

use super::nftables::SUBSYSTEM;
use super::rules;
use crate::allocation::Allocations;
use crate::record;
use crate::sys::process;
use crate::{Error, HouseTag, Result, crash};
use abbey_model::Egress;
use netlink_packet_core::{Emitable, NLM_F_REQUEST, NetlinkHeader, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Firewall table that was applied last, in `firewall.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppliedFirewall {
    /// Text that was given to `nft`.
    text: String,
    /// Table as the kernel listed it afterwards.
    listed: String,
    /// Whether an owner needs IP forwarding.
    forwards: bool,
}

/// Under which circumstances the table was last seen to be as it should. As long as they are the
/// same it still is, which takes no look at the table itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct VerifiedFirewall {
    /// This boot of the host and this network: the kernel counts anew in each.
    place: String,
    /// Version of what the owners hold.
    #[serde(rename = "claims")]
    allocations: u64,
    /// Number of the kernel's rules: it grows with every change by anybody.
    generation: u32,
}

/// Path of the `nft` program, if it is installed.
pub(crate) fn nft_path() -> Option<PathBuf> {
    system_program("nft")
}

/// A program for administrators, wherever a host has those: hostd has no search path.
pub(super) fn system_program(name: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
    let mut paths = places.into_iter().map(|place| Path::new(place).join(name));
    paths.find(|path| path.is_file())
}

/// Runs `nft` with text on its input, in the network of this thread.
pub(super) fn run(args: &[&str], input: &str) -> io::Result<String> {
    let program = nft_path().ok_or(io::ErrorKind::NotFound)?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said
                .lines()
                .next()
                .unwrap_or("it printed no error")
                .to_owned();
            Err(io::Error::other(first))
        }
    }
}

/// Checks that the kernel accepts nftables rules from this process, without applying any.
///
/// # Errors
/// A sentence with the reason.
pub(crate) fn check_kernel_support() -> std::result::Result<(), String> {
    run(&["-c", "-f", "-"], "table inet abbey_probe {}\n")
        .map(drop)
        .map_err(|e| format!("the kernel accepts no rules from `nft`: {e}"))
}

/// Number of the kernel's rules: it grows with every change of any table (`NFT_MSG_GETGEN`).
fn generation() -> io::Result<u32> {
    const GETGEN: u16 = (SUBSYSTEM << 8) | 16;
    const GEN_ID: u16 = 1;
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.length = 20;
    header.message_type = GETGEN;
    header.flags = NLM_F_REQUEST;
    let mut bytes = [0u8; 20];
    header.emit(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let attributes = answer.get(20..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(io::Error::other)?;
        if attribute.kind() & 0x3fff == GEN_ID
            && let Ok(number) = attribute.value().try_into()
        {
            return Ok(u32::from_be_bytes(number));
        }
    }
    Err(io::Error::other(
        "the kernel did not report the generation of its rules",
    ))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    Error::file(what, "the firewall")
}

fn path(dir: &Path) -> PathBuf {
    dir.join("firewall.json")
}

fn seen_path(dir: &Path) -> PathBuf {
    dir.join("firewall.seen")
}

fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Both tables as the kernel lists them; the one of the bridge only where there is one.
fn list(tag: HouseTag) -> io::Result<String> {
    let table = tag.table_name();
    let mut listed = run(&["-s", "list", "table", "inet", &table], "")?;
    listed += &run(&["-s", "list", "table", "bridge", &table], "").unwrap_or_default();
    Ok(listed)
}

/// Text that removes a table, there or not.
fn without(family: &str, table: &str) -> String {
    format!("table {family} {table} {{}}\ndelete table {family} {table}\n")
}

fn forwards() -> bool {
    std::fs::read_to_string(FORWARD).is_ok_and(|t| t.trim() == "1")
}

/// Whether anybody goes out directly, so that the host has to forward.
pub(super) fn wanted(allocations: &Allocations) -> bool {
    let mut allocations = allocations.owners.values().filter(|c| c.subnet.is_some());
    allocations.any(|c| c.egress == Egress::Full || c.egress.nets().next().is_some())
}

/// File that says that a house enabled forwarding in this network. Whichever house leaves last disables it again, so the
/// file is the host's and no house's; both are gone after a boot.
fn forwarding_file() -> PathBuf {
    let network = std::fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    let number = network
        .to_string_lossy()
        .replace(|c: char| !c.is_ascii_digit(), "");
    Path::new(crate::sys::host::HOST_FILES).join(format!("forwarding-{number}"))
}

/// Enables IP forwarding, unless it is.
fn enable_forwarding() -> Result<()> {
    if forwards() {
        return Ok(());
    }
    let file = forwarding_file();
    crate::sys::host::create_host_files_dir()?;
    std::fs::write(&file, "0").map_err(Error::file("write", &file))?;
    std::fs::write(FORWARD, "1").map_err(Error::file("write", FORWARD))
}

/// This boot of the host and the network of this process.
fn current_place() -> String {
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    format!("{} {}", process::boot_id(), network.display())
}

/// Puts the table that was applied last back if another program changed it, or the forwarding that it needs. Rules for
/// allocations that came since are not applied: those are on trial first. Returns whether anything was put back.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn repair_firewall(dir: &Path, tag: HouseTag) -> Result<bool> {
    let applied: AppliedFirewall = read(&path(dir));
    if applied.text.is_empty() {
        return Ok(false);
    }
    let is_open = !applied.forwards || forwards();
    let now = VerifiedFirewall {
        place: current_place(),
        generation: generation().map_err(failed("read"))?,
        ..read(&seen_path(dir))
    };
    if is_open && now == read(&seen_path(dir)) {
        return Ok(false);
    }
    if is_open && list(tag).is_ok_and(|listed| listed == applied.listed) {
        let _looked_at_again_next_time = record::write_json(&seen_path(dir), &now);
        return Ok(false);
    }
    put(dir, tag, applied.text, applied.forwards)?;
    Ok(true)
}

/// Whether the kernel's table matches the allocations. If nothing has changed since the last check, this is one
/// netlink query.
pub(crate) fn is_firewall_current(dir: &Path, tag: HouseTag, allocations: &Allocations) -> bool {
    let Ok(generation) = generation() else {
        return false;
    };
    let now = VerifiedFirewall {
        place: current_place(),
        allocations: allocations.version,
        generation,
    };
    if wanted(allocations) && !forwards() {
        return false;
    }
    if read::<VerifiedFirewall>(&seen_path(dir)) == now {
        return true;
    }
    let applied: AppliedFirewall = read(&path(dir));
    let text = rules::render_nftables(tag, allocations);
    let same = applied.text == text && list(tag).is_ok_and(|listed| listed == applied.listed);
    if same {
        let _looked_at_again_next_time = record::write_json(&seen_path(dir), &now);
    }
    same
}

/// Applies the table for the allocations in one transaction. Returns the previous table, for [`restore_firewall`].
///
/// # Errors
/// When the kernel refuses it; then nothing was changed.
pub(crate) fn apply_firewall(
    dir: &Path,
    tag: HouseTag,
    allocations: &Allocations,
) -> Result<AppliedFirewall> {
    let before = read(&path(dir));
    let text = rules::render_nftables(tag, allocations);
    put(dir, tag, text, wanted(allocations))?;
    Ok(before)
}

/// Replaces the table by a previous one, or removes it if there was none.
pub(crate) fn restore_firewall(dir: &Path, tag: HouseTag, before: AppliedFirewall) -> Result<()> {
    match before.text.is_empty() {
        true => remove_firewall(dir, tag),
        false => put(dir, tag, before.text, before.forwards),
    }
}

fn put(dir: &Path, tag: HouseTag, text: String, forward: bool) -> Result<()> {
    run(&["-c", "-f", "-"], &text).map_err(failed("check"))?;
    if !forward {
        close(tag);
    }
    // The intent first: whoever is ended behind the next lines leaves a table that is known of.
    let _was_never_seen = std::fs::remove_file(seen_path(dir));
    let mut applied = AppliedFirewall {
        text,
        listed: String::new(),
        forwards: forward,
    };
    // Whoever left the bridge takes its table along.
    let before: AppliedFirewall = read(&path(dir));
    let bridged = |text: &str| text.contains("table bridge");
    let gone = match bridged(&before.text) && !bridged(&applied.text) {
        true => without("bridge", &tag.table_name()),
        false => String::new(),
    };
    record::write_json(&path(dir), &applied)?;
    run(&["-f", "-"], &(gone + &applied.text)).map_err(failed("apply"))?;
    crash::point("hostd.ruled");
    applied.listed = list(tag).map_err(failed("read back"))?;
    // The rules are there before anything is forwarded.
    if forward {
        enable_forwarding()?;
    }
    record::write_json(&path(dir), &applied)
}

/// Disables the forwarding that a house enabled, unless another house is there, which may need it.
fn close(tag: HouseTag) {
    let tables = run(&["list", "tables"], "").unwrap_or_default();
    let others = |l: &str| l.contains(" abbey_") && !l.ends_with(&tag.table_name());
    let file = forwarding_file();
    if file.exists() && !tables.lines().any(others) {
        let _stays_as_it_is = std::fs::write(FORWARD, "0");
        let _gone_already = std::fs::remove_file(file);
    }
}

/// Whether the house has applied a firewall table, according to hostd's records.
pub(crate) fn was_firewall_applied(dir: &Path) -> bool {
    path(dir).exists()
}

/// Removes the tables of a house whose records were deleted with its home, and IP forwarding if no other house is there.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_unrecorded_firewall(tag: HouseTag) -> Result<()> {
    if nft_path().is_none() {
        return Ok(());
    }
    let tables = run(&["list", "tables"], "").map_err(failed("read"))?;
    let name = format!(" {}", tag.table_name());
    let own = tables.lines().filter(|line| line.ends_with(&name));
    let text: String = own.map(|line| format!("delete {line}\n")).collect();
    if text.is_empty() {
        return Ok(());
    }
    close(tag);
    run(&["-f", "-"], &text).map_err(failed("remove"))?;
    Ok(())
}

/// Removes the house's firewall table, and IP forwarding if the house had enabled it. Does nothing if there is no
/// table.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_firewall(dir: &Path, tag: HouseTag) -> Result<()> {
    if !was_firewall_applied(dir) {
        return Ok(());
    }
    close(tag);
    let _was_never_seen = std::fs::remove_file(seen_path(dir));
    let table = tag.table_name();
    let applied: AppliedFirewall = read(&path(dir));
    let mut text = without("inet", &table);
    if applied.text.contains("table bridge") {
        text += &without("bridge", &table);
    }
    run(&["-f", "-"], &text).map_err(failed("remove"))?;
    std::fs::remove_file(path(dir)).map_err(Error::file("remove", path(dir)))
}
