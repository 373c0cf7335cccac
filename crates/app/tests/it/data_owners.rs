//! Data in services goes to another agent only with consent, whichever way that agent comes by its name.

use crate::up;
use abbey_api::PlanDoc;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};

const PLACES: &str = "house: places
defaults: { cell: process, waive: [limits] }
services:
  web: { kind: site, grace: 7d, cell: process, names: { bert: bob-2 } }
  forge: { kind: git, grace: 7d, cell: process, names: { bert: bob-2 } }
agents:
  bert: { uses: [web, forge] }
  iris: { uses: [web] }
";

/// A house in which each agent has what it uses.
fn places() -> House {
    let house = up(PLACES);
    until("each has its place", || {
        house.audit_entries("service.open").len() == 3
    });
    house
}

fn manifest(house: &House) -> String {
    std::fs::read_to_string(house.path("abbey.yaml")).unwrap()
}

fn write(house: &House, text: &str) {
    std::fs::write(house.path("abbey.yaml"), text).unwrap();
}

/// What the plan of the file as it is requires consent to.
fn required(house: &House) -> String {
    let planned: PlanDoc = house.document(0, "plan");
    let removed = planned.removals().map(|(_, text)| text.to_owned());
    removed.collect::<Vec<_>>().join("; ")
}

/// What the entry of the agent `bob-2` says of services.
fn let_bob_use(house: &House, uses: &str) {
    let text = manifest(house);
    let entry = text.lines().find(|line| line.starts_with("  bob-2:"));
    let entry = entry.unwrap_or_else(|| panic!("{text}"));
    let new = format!("  bob-2: {{ template: worker, uses: [{uses}] }}");
    write(house, &text.replace(entry, &new));
}

fn opened(house: &House) -> usize {
    house.audit_entries("service.open").len()
}

fn closed(house: &House) -> usize {
    house.audit_entries("service.close").len()
}

#[test]
fn data_of_a_removed_agent_goes_to_a_renamed_one_only_with_consent() {
    let house = places();
    house.expect(0, "agent new tmp --template worker");
    house.expect(0, "agent rm bert");
    until("its places are closed", || closed(&house) == 2);
    house.expect(0, "agent rename tmp bob-2");
    let_bob_use(&house, "web, forge");
    let consents = required(&house);
    for part in [
        "agent `bob-2` gets the site `bob-2` in `web` with everything that the former agent `bert` left in it",
        "agent `bob-2` gets the Git directory `bob-2` in `forge` with everything that the former agent `bert` left",
    ] {
        assert!(consents.contains(part), "{part}: {consents}");
    }
    assert!(!house.expect(0, "plan").contains("comes back"));
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains("former agent `bert`"), "{refusal}");
    // Without a running house as well.
    house.expect(0, "down");
    assert_eq!(required(&house).matches("`bert`").count(), 2);
    house.expect_refusal(4, "up");
    let_bob_use(&house, "");
    house.expect(0, "up");
    assert_eq!(opened(&house), 3);

    // The owner gets it back without a question.
    house.expect(0, "agent restore bert");
    until("it has its places again", || opened(&house) == 5);
    house.expect(0, "agent rm bert");
    until("its places are closed again", || closed(&house) == 4);
    let_bob_use(&house, "web, forge");
    house.expect(0, "up --yes");
    until("the other one has them", || opened(&house) == 7);
    // From then on they are the other's.
    let refusal = house.expect_refusal(4, "agent restore bert");
    for part in [".names`", "`bob-2: bob-2-2`", "run `abbey up`"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    let_bob_use(&house, "");
    house.expect(0, "up --yes");
    let refusal = house.expect_refusal(4, "agent restore bert");
    assert!(
        refusal.contains(
            "agent `bert` gets the site `bob-2` in `web` with everything that agent `bob-2` left"
        ),
        "{refusal}"
    );
}

#[test]
fn data_of_a_removed_agent_goes_to_a_new_one_of_its_name_only_with_consent() {
    let house = places();
    house.expect(0, "agent rm iris");
    until("its site is closed", || closed(&house) == 1);
    // By the file, and by a command that copies what another agent uses.
    write(
        &house,
        &format!("{}  iris: {{ uses: [web] }}\n", manifest(&house)),
    );
    let consents = required(&house);
    assert!(
        consents.contains("agent `iris` gets the site `iris` in `web` with everything that the former agent `iris`, another one of that name, left in it"),
        "{consents}"
    );
    house.expect_refusal(4, "up");
    write(
        &house,
        &manifest(&house).replace("  iris: { uses: [web] }\n", ""),
    );
    let refusal = house.expect_refusal(4, "agent clone bert iris");
    assert!(refusal.contains("another one of that name"), "{refusal}");
    assert!(required(&house).is_empty());
    // The same agent, with its files, gets what it had.
    house.expect(0, "agent restore iris");
    until("it is open", || opened(&house) == 4);
    // Also after it was renamed, removed and restored under that name.
    house.expect(0, "agent rename iris ines");
    house.expect(0, "agent rm ines");
    until("its site is closed again", || closed(&house) == 2);
    house.expect(0, "agent restore ines");
    until("it is open again", || opened(&house) == 5);
    assert!(required(&house).is_empty());
}

#[test]
fn the_files_of_a_removed_agent_are_named_where_a_new_one_has_its_name() {
    let house = up(
        "house: names\ndefaults: { cell: process, waive: [limits] }\nagents:\n  ada: {}\n  cat: {}\n",
    );
    house.write_agent_file("cat", "note", "kept\n");
    house.expect(0, "agent rm cat");
    let removed = std::fs::read_dir(house.home().join("removed")).unwrap();
    let removed: Vec<String> = removed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let stamp = removed[0].strip_prefix("cat-").unwrap();
    write(&house, &format!("{}  cat: {{}}\n", manifest(&house)));
    let back = format!("`abbey agent restore cat --at {stamp}`");
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let planned = flat(house.expect(0, "plan"));
    assert!(
        planned.contains(&format!("`removed/cat-{stamp}`")),
        "{planned}"
    );
    assert!(planned.contains(&back), "{planned}");
    house.expect(0, "up");
    assert!(!house.expect(0, "plan").contains("removed/"));
    let refusal = flat(house.expect_refusal(4, "agent restore cat"));
    assert!(
        refusal.contains(&format!("`abbey agent rm cat`, then {back}")),
        "{refusal}"
    );
    house.expect(0, "agent rm cat");
    house.expect(0, format!("agent restore cat --at {stamp}").as_str());
    assert_eq!(house.expect(0, "exec cat -- cat note"), "kept\n");
}

const TWO: &str = "house: places
defaults: { cell: process, waive: [limits] }
services:
  web: { kind: site, grace: 7d, cell: process }
agents:
  ada: { template: worker, uses: [web] }
  ben: { template: worker, uses: [web] }
";

#[test]
fn an_agent_whose_name_another_one_has_is_restored_with_its_own_data() {
    let house = up(TWO);
    until("each has its place", || opened(&house) == 2);
    for (old, new) in [("ada", "tmp"), ("ben", "ada"), ("tmp", "ben")] {
        house.expect(0, args!("agent rename {} {}", old, new));
    }
    let before = opened(&house);
    let removed = house.run("agent rm ada");
    let told = String::from_utf8_lossy(&removed.stderr);
    assert!(!told.contains("ada of service web"), "{told}");
    until("its site is closed", || closed(&house) == 1);
    assert_eq!(
        house.audit_entries("service.close")[0]["detail"]["name"],
        "ben"
    );
    house.expect(0, "agent restore ada");
    assert!(
        manifest(&house).contains("ada: ben"),
        "{}",
        manifest(&house)
    );
    until("it has its site again", || opened(&house) == before + 1);
}

#[test]
fn an_agent_renamed_while_it_uses_nothing_gets_its_data_back() {
    let house = up(TWO);
    until("each has its place", || opened(&house) == 2);
    let uses = |from: &str, to: &str| {
        write(&house, &manifest(&house).replace(from, to));
        house.expect(0, "up --yes");
    };
    uses(
        "ada: { template: worker, uses: [web] }",
        "ada: { template: worker }",
    );
    until("its site is closed", || closed(&house) == 1);
    house.expect(0, "agent rename ada eve");
    assert!(
        manifest(&house).contains("eve: ada"),
        "{}",
        manifest(&house)
    );
    // It keeps the name however often it is renamed, also while its service is disabled.
    uses(
        "ben: { template: worker, uses: [web] }",
        "ben: { template: worker }",
    );
    until("both sites are closed", || closed(&house) == 2);
    house.expect(0, "service disable web");
    house.expect(0, "agent rename eve ann");
    house.expect(0, "agent rename ben bob");
    house.expect(0, "service enable web");
    let names = manifest(&house);
    assert!(
        names.contains("ann: ada") && names.contains("bob: ben"),
        "{names}"
    );
    write(
        &house,
        &names.replace(
            "ann: { template: worker }",
            "ann: { template: worker, uses: [web] }",
        ),
    );
    let planned = house.expect(0, "plan");
    assert!(!planned.contains("begins empty"), "{planned}");
    house.expect(0, "up");
    until("it has its site again", || opened(&house) == 3);
    let opened = house.audit_entries("service.open");
    assert_eq!(opened.last().unwrap()["detail"]["name"], "ada");
}

#[test]
fn an_agent_whose_data_another_one_has_by_now_is_restored_beside_it() {
    let house = up(TWO);
    until("each has its place", || opened(&house) == 2);
    house.expect(0, "agent rm ada");
    until("its site is closed", || closed(&house) == 1);
    let another = format!(
        "{}  ada: {{ template: worker, uses: [web] }}\n",
        manifest(&house)
    );
    write(&house, &another);
    house.expect(0, "up --yes");
    until("the other one has it", || opened(&house) == 3);
    house.expect(0, "agent rename ada eve");
    let restored = house.run("agent restore ada");
    let told = String::from_utf8_lossy(&restored.stderr);
    assert_eq!(restored.status.code(), Some(0), "{told}");
    assert!(told.contains("its name there is `ada-2`"), "{told}");
    let names = manifest(&house);
    assert!(
        names.contains("ada: ada-2") && names.contains("eve: ada"),
        "{names}"
    );
    until("it has a site of its own", || opened(&house) == 4);
    let opened = house.audit_entries("service.open");
    assert_eq!(opened.last().unwrap()["detail"]["name"], "ada-2");
}
