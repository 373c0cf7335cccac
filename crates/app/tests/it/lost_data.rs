//! Data that would be lost: what a plan closes and deletes in services, files that are gone, and drives that are too small.

use crate::up;
use abbey_api::{DoctorDoc, PlanDoc, ServicesDoc};
use abbey_model::Presence;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};

const SITES: &str = "house: sites
defaults: { cell: process, waive: [limits] }
services:
  web: { kind: site, grace: 7d, cell: process }
agents:
  iris: { uses: [web] }
  otto: { uses: [web] }
";

/// A house in which both agents have their site.
fn sites() -> House {
    let house = up(SITES);
    until("both have a site", || {
        house.audit_entries("service.open").len() == 2
    });
    house
}

fn without_otto() -> String {
    SITES.replace("otto: { uses: [web] }", "otto: {}")
}

fn plan(house: &House) -> PlanDoc {
    house.document(0, "plan")
}

#[test]
fn data_goes_to_another_agent_only_with_consent() {
    let house = sites();
    let swapped = "cell: process, names: { otto: iris, iris: otto } }";
    house.manifest(&SITES.replace("cell: process }", swapped));
    let planned = house.expect(0, "plan");
    for (agent, owner) in [("iris", "otto"), ("otto", "iris")] {
        let part = format!(
            "agent `{agent}` gets the site `{owner}` in `web` with everything that agent `{owner}` has in it"
        );
        assert!(planned.contains(&part), "{planned}");
    }
    house.expect_refusal(4, "up");
    house.expect(0, "up --yes");
    // What one left earlier is not the other's own, though it once was.
    house.manifest(&without_otto());
    house.expect(0, "up --yes");
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let back = "cell: process, names: { iris: otto } }";
    house.manifest(&without_otto().replace("cell: process }", back));
    let planned = flat(house.expect(0, "plan"));
    assert!(
        planned.contains("its site `otto` in `web` was closed"),
        "{planned}"
    );
    house.manifest(SITES);
    let planned = flat(house.expect(0, "plan"));
    let part = "agent `otto` gets the site `otto` in `web` with everything that agent `iris` left";
    assert!(planned.contains(part), "{planned}");
    house.expect_refusal(4, "up");
    house.manifest(&SITES.replace("cell: process }", swapped));
    house.expect(0, "up --yes");
    // Back again, it is the same question; a renaming is none, as the data stays with its agent.
    house.manifest(SITES);
    assert!(plan(&house).requires_consent);
    house.expect(0, "up --yes");
    house.expect(0, "agent rename otto nils");
    assert!(!plan(&house).requires_consent);
}

/// A service that no longer has an agent keeps its data for a while: the plan says so, wants consent, and the service shows
/// until when.
#[test]
fn data_that_an_agent_leaves_in_a_service_is_closed_with_consent_and_shown_until_deleted() {
    let house = sites();
    // Another name is other data.
    house.manifest(&SITES.replace("cell: process }", "cell: process, names: { otto: shop } }"));
    assert!(plan(&house).requires_consent);
    let planned = house.expect(0, "plan");
    for part in [
        "has the name `shop` in `web`",
        "its site `otto` is closed",
        "says `otto` again",
    ] {
        assert!(planned.contains(part), "{part}: {planned}");
    }
    house.manifest(&without_otto());
    assert!(plan(&house).requires_consent);
    let planned = house.expect(0, "plan");
    for part in [
        "its site `otto` is closed",
        "services/web/backups/",
        "--yes",
    ] {
        assert!(planned.contains(part), "{part}: {planned}");
    }
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains("site `otto`"), "{refusal}");
    assert!(house.audit_entries("service.close").is_empty());
    house.expect(0, "up --yes");
    let kept = || {
        let doc: ServicesDoc = house.document(0, "service list");
        doc.services[0].closed.clone()
    };
    // `up` has waited for it.
    assert!(!kept().is_empty());
    let closed = kept().remove(0);
    assert_eq!(closed.name, "otto");
    assert_eq!(closed.deleted_at.0.0 - closed.closed_at.0.0, 7 * 86_400_000);
    let copy = closed.copy.expect("a copy");
    assert!(house.home().join(&copy).exists(), "{copy}");
    for command in ["service list", "why web", "report status"] {
        let text = house.expect(0, command);
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains("`otto`") && flat.contains(&copy),
            "{command}: {text}"
        );
    }
    // A shorter grace deletes it earlier, and says so.
    house.manifest(&without_otto().replace("7d", "1ms"));
    let planned = house.expect(0, "plan");
    assert!(
        planned.contains("site `otto`") && planned.contains("deleted at once"),
        "{planned}"
    );
    house.expect_refusal(4, "up");
    house.manifest(&without_otto().replace("7d", "9d"));
    assert!(!plan(&house).requires_consent);
    // Before that it comes back with what it has.
    house.manifest(SITES);
    let planned = plan(&house);
    assert!(!planned.requires_consent);
    let back = |text: &str| planned.notes.iter().any(|n| n.text.contains(text));
    assert!(back("comes back with its data"), "{:?}", planned.notes);
    house.expect(0, "up");
    until("it is open", || kept().is_empty());
    // After the deletion it begins empty, and the copy is named.
    house.manifest(&without_otto().replace("7d", "1ms"));
    house.expect(0, "up --yes");
    until("it is deleted", || {
        house.audit_entries("service.drop").len() == 1
    });
    house.manifest(SITES);
    let planned = house.expect(0, "plan");
    assert!(
        planned.contains("begins empty") && planned.contains("services/web/backups/otto"),
        "{planned}"
    );
    house.expect(0, "down");
    let offline = house.expect(0, "plan");
    assert!(offline.contains("begins empty"), "{offline}");
}

/// Data keeps its name when its agent is renamed, also while the agent does not use the service.
#[test]
fn data_that_a_renamed_agent_left_comes_back_and_goes_to_nobody_unsaid() {
    let house = sites();
    let manifest = || std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let write = |text: &str| std::fs::write(house.path("abbey.yaml"), text).unwrap();
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let closed = || {
        let doc: ServicesDoc = house.document(0, "service list");
        doc.services[0].closed.len()
    };
    house.expect(0, "agent rename otto nils");
    let used = manifest();
    assert!(used.contains("nils: otto"), "{used}");
    let unused = used.replace("nils: { uses: [web] }", "nils: {}");
    assert_ne!(used, unused);
    write(&unused);
    house.expect(0, "up --yes");
    until("it is closed", || closed() == 1);
    write(&used);
    let planned = flat(house.expect(0, "plan"));
    assert!(planned.contains("comes back with its data"), "{planned}");
    house.expect(0, "up");
    until("it is open", || closed() == 0);

    // Also after a renaming while it is closed. It is that of another otto by now.
    house.manifest(SITES);
    house.expect_refusal(4, "up");
    house.expect(0, "up --yes");
    house.manifest(&without_otto());
    house.expect(0, "up --yes");
    until("it is closed", || closed() == 1);
    house.expect(0, "agent rename otto nils");
    assert!(manifest().contains("nils: otto"), "{}", manifest());
    let apart = manifest();
    write(&apart.replace("nils: {}", "nils: { uses: [web] }"));
    let planned = flat(house.expect(0, "plan"));
    assert!(planned.contains("comes back with its data"), "{planned}");
    // Without the entry, the plan says where the data is.
    write(
        &apart
            .replace("nils: otto", "iris: iris")
            .replace("nils: {}", "nils: { uses: [web] }"),
    );
    let planned = flat(house.expect(0, "plan"));
    assert!(
        planned.contains("begins empty; `web` keeps `otto`"),
        "{planned}"
    );
    // Another agent of that name has to have another one there, or gets it with consent only.
    let another = format!("{apart}  otto: {{ uses: [web] }}\n");
    write(&another);
    let refusal = house.expect_refusal(2, "plan");
    assert!(refusal.contains("such as `otto: otto-2`"), "{refusal}");
    write(&another.replace("nils: otto", "iris: iris"));
    let planned = flat(house.expect(0, "plan"));
    let part = "agent `otto` gets the site `otto` in `web` with everything that agent `nils` left";
    assert!(planned.contains(part), "{planned}");
    house.expect_refusal(4, "up");
}

fn failed_checks(house: &House) -> Vec<String> {
    let output = house.run("doctor --json");
    let doc: DoctorDoc = serde_json::from_slice(&output.stdout).expect("a document");
    let failed = doc
        .checks
        .into_iter()
        .filter(|c| c.state == abbey_api::CheckState::Failed);
    failed.map(|c| c.id).collect()
}

/// Files of an agent or service that are gone are not replaced by none.
#[test]
fn lost_files_of_an_agent_or_service_are_refused_and_named() {
    let house = sites();
    let aside = house.path("aside");
    for (place, check, kind) in [
        ("agents/otto", "files.otto", "agent:otto"),
        ("agents/otto/home", "files.otto", "agent:otto"),
        ("agents/otto/workspace", "files.otto", "agent:otto"),
        ("services/web", "files.web", "service:web"),
        ("services/web/data", "files.web", "service:web"),
    ] {
        let path = house.home().join(place);
        house.expect(0, "down");
        std::fs::rename(&path, &aside).unwrap();
        let planned = house.run("plan");
        let text = String::from_utf8_lossy(&planned.stdout).into_owned();
        assert_eq!(planned.status.code(), Some(4), "{place}: {text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains(kind) && flat.contains(&path.display().to_string()),
            "{place}: {text}"
        );
        let refusal = house.expect_refusal(4, "up");
        assert!(refusal.contains("Put it back"), "{refusal}");
        assert!(!path.exists(), "{place} was made anew");
        assert!(failed_checks(&house).contains(&check.to_owned()), "{place}");
        std::fs::rename(&aside, &path).unwrap();
        house.expect(0, "up");
        // Also while it runs.
        std::fs::rename(&path, &aside).unwrap();
        assert!(failed_checks(&house).contains(&check.to_owned()), "{place}");
        house.expect_refusal(4, "up");
        std::fs::rename(&aside, &path).unwrap();
        assert!(
            !failed_checks(&house).contains(&check.to_owned()),
            "{place}"
        );
    }
}

#[test]
fn an_agent_with_lost_files_begins_anew_after_it_was_removed() {
    let house = sites();
    house.expect(0, "down");
    std::fs::remove_dir_all(house.home().join("agents/otto")).unwrap();
    house.expect_refusal(4, "up");
    house.manifest(&SITES.replace("  otto: { uses: [web] }\n", ""));
    house.expect(0, "up --yes");
    house.manifest(SITES);
    // It is another agent, and the site is the former one's.
    house.expect(0, "up --yes");
    assert_eq!(house.agent("otto").presence, Presence::Ready);
    // A service begins anew in an empty directory.
    house.expect(0, "down");
    std::fs::remove_dir_all(house.home().join("services/web")).unwrap();
    house.expect_refusal(4, "up");
    // As where nothing is mounted any more.
    std::fs::create_dir(house.home().join("services/web")).unwrap();
    let refusal = house.expect_refusal(4, "up");
    let (_, anew) = refusal.split_once("without its data, run `").unwrap();
    let (anew, _) = anew.split_once('`').unwrap();
    let made = std::process::Command::new("sh").args(["-c", anew]).status();
    assert!(made.unwrap().success(), "{refusal}");
    house.expect(0, "up");
}

/// Whoever copies files back as root does not have to know whose they were.
#[test]
fn files_that_root_copied_back_are_given_to_their_user_again() {
    let house = sites();
    house.write_agent_file("otto", "note", "kept\n");
    let site = |name: &str| house.home().join("services/web/data").join(name);
    assert!(site("otto").exists());
    house.expect(0, "down");
    let outside = house.path("of-the-host");
    std::fs::write(&outside, "root's").unwrap();
    for place in ["agents/otto", "services/web"] {
        let path = house.home().join(place);
        let status = std::process::Command::new("chown")
            .args(["-R", "0:0"])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        std::fs::hard_link(
            &outside,
            path.join(if place.starts_with("agents") {
                "home/link"
            } else {
                "link"
            }),
        )
        .unwrap();
    }
    house.expect(0, "up");
    assert_eq!(house.agent("otto").presence, Presence::Ready);
    assert_eq!(house.expect(0, "exec otto -- cat note"), "kept\n");
    house.expect(
        0,
        args!("exec otto -- sh -c {}", "echo more >> note && touch ~/new"),
    );
    let doc: ServicesDoc = house.document(0, "service list");
    assert_eq!(doc.services[0].presence, Presence::Ready);
    use std::os::unix::fs::MetadataExt;
    let uid = |path: &std::path::Path| std::fs::metadata(path).unwrap().uid();
    assert_eq!(uid(&outside), 0, "a file of the host stays root's");
    assert_ne!(uid(&site("otto")), 0);
    assert_eq!(uid(&house.home().join("agents/otto/workspace/shared")), 0);
}

const DRIVES: &str = "house: sized
agents:
  a: { cell: sandbox, drives: { state: 32MiB, workspace: 32MiB } }
";

/// A plan compares the files of an agent with the drives that they are to move to.
#[test]
fn drives_that_are_too_small_for_the_files_are_refused_before_anything_stops() {
    let plain = DRIVES.replace(", drives: { state: 32MiB, workspace: 32MiB }", "");
    let house = up(&plain);
    let fill = "head -c 40000000 /dev/urandom > large";
    assert!(
        house
            .run(args!("exec a -- sh -c {}", fill))
            .status
            .success()
    );
    let before = house.agent("a").generation;
    house.manifest(DRIVES);
    let planned = house.run("plan");
    let text = String::from_utf8_lossy(&planned.stdout).into_owned();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(planned.status.code(), Some(4), "{text}");
    assert!(
        flat.contains("`drives.workspace` is 32MiB") && flat.contains("38."),
        "{text}"
    );
    house.expect_refusal(4, "up");
    assert_eq!(house.agent("a").generation, before);
    assert_eq!(house.agent("a").presence, Presence::Ready);
    // Files that still do not fit leave the agent as it was, and the way back is open.
    let many = "rm large; seq 20000 | sed s/^/many-/ | xargs touch";
    assert!(
        house
            .run(args!("exec a -- sh -c {}", many))
            .status
            .success()
    );
    house.expect(0, "plan");
    house.expect(7, "up");
    let files = std::fs::read_dir(house.home().join("agents/a/workspace")).unwrap();
    assert!(files.count() > 20_000);
    house.manifest(&plain);
    house.expect(0, "up");
    assert_eq!(house.agent("a").presence, Presence::Ready);
    let count = house.expect(0, args!("exec a -- sh -c {}", "ls | grep -c many-"));
    assert_eq!(count.trim(), "20000");
}

/// Closes whatever is closed in a document long ago; false if nothing is.
fn backdate(doc: &mut serde_json::Value) -> bool {
    match doc {
        serde_json::Value::Object(map) => map.iter_mut().fold(false, |found, (key, value)| {
            let closed = key == "closed_ms" && value.is_number();
            if closed {
                *value = 1.into();
            }
            backdate(value) || closed || found
        }),
        serde_json::Value::Array(list) => {
            let found = list.iter_mut().map(backdate);
            found.filter(|found| *found).count() > 0
        }
        _ => false,
    }
}

/// Who starts a house whose time to keep something is over, with a manifest that uses it again, finds it.
#[test]
fn data_that_is_due_is_not_deleted_before_a_started_house_knows_its_manifest() {
    let house = sites();
    house.manifest(&without_otto());
    house.expect(0, "up --yes");
    until("it is closed", || {
        house.audit_entries("service.close").len() == 1
    });
    house.expect(0, "down");
    let registry = house.home().join("services/web/consumers.json");
    let text = std::fs::read_to_string(&registry).unwrap();
    let mut doc: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(backdate(&mut doc), "{text}");
    // The same file, so that its owner stays.
    std::fs::write(&registry, doc.to_string()).unwrap();
    house.manifest(SITES);
    let plan = house.expect(0, "plan");
    assert!(plan.contains("comes back with its data"), "{plan}");
    house.expect(0, "up");
    until("it is open", || {
        house.audit_entries("service.open").len() == 3
    });
    assert!(house.audit_entries("service.drop").is_empty());
}

const ON_DRIVES: &str = "house: drives
defaults: { cell: sandbox }
agents:
  a: { drives: { state: 32MiB, workspace: 32MiB } }
  b: {}
";

/// Drives that are gone or cut short are not made anew or filled up, and hold up nobody else.
#[test]
fn lost_and_damaged_drives_are_refused_and_hold_up_no_other_agent() {
    let house = up(ON_DRIVES);
    house.write_agent_file("a", "note", "kept\n");
    house.expect(0, "restart a");
    house.wait_until_up("a");
    let disks = house.home().join("agents/a/disks");
    let aside = house.path("disks");
    house.expect(0, "down");
    std::fs::rename(&disks, &aside).unwrap();
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains("state.ext4"), "{refusal}");
    std::fs::rename(&aside, &disks).unwrap();
    house.expect(0, "up");
    assert_eq!(house.expect(0, "exec a -- cat note"), "kept\n");
    // A backup makes no new ones either, and has the others.
    house.expect(0, "stop a");
    std::fs::rename(&disks, &aside).unwrap();
    let archive = house.path("backup.tar").display().to_string();
    let output = house.run(args!("backup {}", archive));
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("state.ext4"), "{told}");
    assert!(!disks.exists());
    std::fs::rename(&aside, &disks).unwrap();
    house.expect(0, "start a");
    assert_eq!(house.expect(0, "exec a -- cat note"), "kept\n");
    house.expect(0, "down");

    let image = disks.join("workspace.ext4");
    let whole = std::fs::read(&image).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .and_then(|file| file.set_len(10 << 20))
        .unwrap();
    let failed = house.expect_refusal(7, "up");
    assert!(failed.contains("workspace.ext4"), "{failed}");
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 10 << 20);
    house.wait_until_up("b");
    house.expect(0, "exec b -- true");
    house.expect(0, "down");
    std::fs::write(&image, whole).unwrap();
    house.expect(0, "up");
    assert_eq!(house.expect(0, "exec a -- cat note"), "kept\n");
}

/// A service of another kind would give what one agent has to others.
#[test]
fn data_of_a_service_is_served_by_no_other_kind() {
    let house = sites();
    let dir = house.home().join("services/web");
    house.manifest(&SITES.replace("kind: site", "kind: git"));
    for command in ["plan", "up", "up --yes"] {
        let output = house.run(command);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(4), "{text}");
        assert!(
            text.contains("its kind cannot be `git`") && text.contains("`kind: site`"),
            "{text}"
        );
    }
    assert_eq!(std::fs::read_to_string(dir.join("kind")).unwrap(), "site");
    // Not by way of a removal either.
    let nobody = "house: sites\ndefaults: { cell: process, waive: [limits] }\nagents: { iris: {}, otto: {} }\n";
    house.manifest(nobody);
    house.expect(0, "up --yes");
    house.manifest(&SITES.replace("kind: site", "kind: git"));
    let planned = house.run("plan");
    assert_eq!(planned.status.code(), Some(4));
    let refused = house.expect_refusal(4, "up --yes");
    assert!(refused.contains("`kind: site` serves it"), "{refused}");
    // As what it was, it comes back.
    house.manifest(SITES);
    house.expect(0, "up --yes");
    house.manifest(nobody);
    house.expect(0, "up --yes");
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
    house.manifest(&SITES.replace("kind: site", "kind: git"));
    house.expect(0, "up --yes");
}
