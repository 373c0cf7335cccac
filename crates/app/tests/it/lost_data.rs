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

/// A service that no longer has an agent keeps its data for a while: the plan says so, wants consent, and the service shows
/// until when.
#[test]
fn data_that_an_agent_leaves_in_a_service_is_closed_with_consent_and_shown_until_deleted() {
    let house = sites();
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
    until("it is closed", || !kept().is_empty());
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
        assert!(refusal.contains("Put the directory back"), "{refusal}");
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
    house.expect(0, "up");
    assert_eq!(house.agent("otto").presence, Presence::Ready);
    // A service begins anew in an empty directory.
    house.expect(0, "down");
    std::fs::remove_dir_all(house.home().join("services/web")).unwrap();
    house.expect_refusal(4, "up");
    std::fs::create_dir(house.home().join("services/web")).unwrap();
    house.expect(0, "up");
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
