//! Whose the data in services is, over a series of plans.

use super::inventory;
use abbey_model::{Slug, Timestamp};
use abbey_plan::{AccessState, AppliedPlan, CurrentHouse, Inventory, ServiceAccess, parse, plan};
use std::collections::BTreeMap;

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

/// A house over time: each plan is put in force, and what it leaves is closed at once.
struct Timeline {
    inventory: Inventory,
    manifest: String,
}

impl Timeline {
    fn begin() -> Timeline {
        Timeline {
            inventory: inventory(),
            manifest: String::new(),
        }
    }

    /// Puts the agents `agents` in force a second later, and returns what required consent.
    fn plan(&mut self, agents: &str) -> Vec<String> {
        self.plan_with(agents, "", &[])
    }

    fn plan_with(&mut self, agents: &str, names: &str, renamed: &[(&str, &str)]) -> Vec<String> {
        self.inventory.now = self.inventory.now + abbey_model::Millis(1000);
        self.inventory.renamed = BTreeMap::new();
        let text = format!(
            "version: 1\nhouse: h\nservices: {{ web: {{ kind: site, grace: 7d, names: {{ {names} }} }} }}\nagents: {{ {agents} }}\n"
        );
        let house = parse(&text).unwrap();
        for (old, new) in renamed {
            let manifest = self.manifest.clone();
            let (old, new) = (slug(old), slug(new));
            self.inventory.rename_agent(&old, &new, &manifest).unwrap();
        }
        let plan = plan(&house, &self.inventory);
        assert!(!plan.is_fatal(), "{:?}", plan.notes);
        let used = |name: &str| {
            let mut users = house.agents.values().filter(|a| !a.uses.is_empty());
            let web = &house.services[&slug("web")];
            users.any(|a| web.name_for(&a.slug) == name)
        };
        let mut names: Vec<String> = self.access(|a| a.name.clone());
        let web = &house.services[&slug("web")];
        names.extend(house.agents.keys().map(|a| web.name_for(a)));
        names.retain(|name| used(name) || self.access(|a| a.name.clone()).contains(name));
        names.sort();
        names.dedup();
        let at = self.inventory.now;
        let state = |name: &String| match used(name) {
            true => AccessState::Open,
            false => AccessState::Closed { at, backup: None },
        };
        let access = names.iter().map(|name| ServiceAccess {
            service: slug("web"),
            name: name.clone(),
            state: state(name),
        });
        self.inventory.access = access.collect();
        self.inventory.restored = BTreeMap::new();
        self.inventory.generation = plan.generation;
        // As it comes back from the store.
        let stored = serde_json::to_string(&plan.applied).unwrap();
        self.inventory.applied = serde_json::from_str(&stored).unwrap();
        self.inventory.registry = plan.registry.clone();
        self.inventory.current = Some(CurrentHouse {
            house,
            charters: BTreeMap::new(),
        });
        self.manifest = text;
        let gets = plan.steps.into_iter().filter_map(|s| s.removes);
        gets.filter(|text| text.contains(" gets ")).collect()
    }

    fn access<T>(&self, of: impl Fn(&ServiceAccess) -> T) -> Vec<T> {
        self.inventory.access.iter().map(of).collect()
    }

    /// The next plan restores an agent from files that were archived just now.
    fn restoring(&mut self, agent: &str, at: Timestamp) -> &mut Timeline {
        self.inventory.restored.insert(slug(agent), at);
        self
    }
}

const BERT: &str = "bert: { uses: [web] }";

#[test]
fn only_the_agent_itself_gets_its_data_back_without_consent() {
    let mut house = Timeline::begin();
    assert_eq!(house.plan(BERT), Vec::<String>::new());
    // Unused for a while.
    house.plan("bert: {}");
    assert!(house.plan(BERT).is_empty());
    // Under another name: the data keeps its own, by `names`.
    house.plan_with("bob: { uses: [web] }", "bob: bert", &[("bert", "bob")]);
    house.plan_with("bob: {}", "bob: bert", &[]);
    assert!(
        house
            .plan_with("bob: { uses: [web] }", "bob: bert", &[])
            .is_empty()
    );
    // Removed and restored.
    house.plan("iris: {}");
    let removed = house.inventory.now;
    assert!(
        house
            .restoring("bob", removed)
            .plan_with("bob: { uses: [web] }", "bob: bert", &[])
            .is_empty()
    );
    // A new one of its name is another one.
    house.plan("iris: {}");
    let taken = house.plan_with("bob: { uses: [web] }", "bob: bert", &[]);
    assert!(
        taken[0].contains("the former agent `bob`, another one of that name, left in it 1 s ago"),
        "{taken:?}"
    );
}

#[test]
fn a_renamed_agent_and_one_that_names_it_need_consent() {
    let mut house = Timeline::begin();
    house.plan(&format!("{BERT}, tmp: {{}}"));
    house.plan("tmp: {}");
    house.plan_with("bert: {}", "", &[("tmp", "bert")]);
    let taken = house.plan(BERT);
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(
        taken[0].contains("agent `bert` gets the site `bert` in `web` with everything that the former agent `bert`"),
        "{taken:?}"
    );
    // With consent it is its own.
    house.plan("bert: {}");
    assert!(house.plan(BERT).is_empty());
    // By `names`, of one that left it and of one that uses it.
    house.plan("bert: {}, iris: {}");
    let taken = house.plan_with("bert: {}, iris: { uses: [web] }", "iris: bert", &[]);
    assert!(
        taken[0].contains("everything that agent `bert` left in it"),
        "{taken:?}"
    );
    let taken = house.plan("bert: { uses: [web] }, iris: {}");
    assert!(
        taken[0].contains("everything that agent `iris` has in it"),
        "{taken:?}"
    );
}

#[test]
fn files_bring_back_the_agent_that_had_them_when_they_were_archived() {
    let mut house = Timeline::begin();
    house.plan(BERT);
    house.plan("iris: {}");
    let first = house.inventory.now;
    // A second one of the name takes the data, and is removed as well.
    assert_eq!(house.plan(BERT).len(), 1);
    house.plan("iris: {}");
    let second = house.inventory.now;
    let taken = house.restoring("bert", first).plan(BERT);
    assert_eq!(taken.len(), 1, "{taken:?}");
    house.plan("iris: {}");
    // It is the first one's by now, and the second one is not that.
    let taken = house.restoring("bert", second).plan(BERT);
    assert_eq!(taken.len(), 1, "{taken:?}");
    house.plan("iris: {}");
    let third = house.inventory.now;
    assert!(house.restoring("bert", third).plan(BERT).is_empty());
}

#[test]
fn data_of_a_house_that_did_not_record_owners_is_not_given_away() {
    let mut house = Timeline::begin();
    house.plan(&format!("{BERT}, iris: {{ uses: [web] }}, otto: {{}}"));
    house.plan("bert: { uses: [web] }, iris: {}, otto: {}");
    // As an earlier release stored it.
    let mut stored = serde_json::to_value(&house.inventory.applied).unwrap();
    stored.as_object_mut().unwrap().remove("ownership");
    house.inventory.applied = serde_json::from_value::<AppliedPlan>(stored).unwrap();
    // What an agent uses is its own; who left the rest is not known.
    let taken = house.plan("bert: { uses: [web] }, iris: { uses: [web] }, otto: {}");
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(
        taken[0].contains("an agent that is not recorded left in it"),
        "{taken:?}"
    );
    house.plan("bert: {}, iris: { uses: [web] }, otto: {}");
    assert!(
        house
            .plan("bert: { uses: [web] }, iris: { uses: [web] }, otto: {}")
            .is_empty()
    );
    house.plan_with(
        "bernd: { uses: [web] }, iris: {}, otto: {}",
        "bernd: bert",
        &[("bert", "bernd")],
    );
    house.plan("bernd: {}, iris: {}, otto: {}");
    let taken = house.plan_with(
        "bernd: {}, iris: {}, otto: { uses: [web] }",
        "otto: bert",
        &[],
    );
    assert!(
        taken[0].contains("everything that agent `bernd` left in it"),
        "{taken:?}"
    );
}

#[test]
fn deleted_data_is_nobodys() {
    let mut house = Timeline::begin();
    house.plan(BERT);
    house.plan("iris: {}");
    let at = house.inventory.now;
    house.inventory.access[0].state = AccessState::Dropped { at, backup: None };
    assert!(house.plan(BERT).is_empty());
}

#[test]
fn a_database_that_lacks_the_prefix_in_names_is_told_from_the_one_that_is_there() {
    let planned = |name: &str, state: AccessState| {
        let text = format!(
            "version: 1\nhouse: h\nservices: {{ db: {{ kind: postgres, names: {{ cat: {name} }} }} }}\nagents: {{ cat: {{ uses: [db] }} }}\n"
        );
        let mut inventory = inventory();
        inventory.access = vec![ServiceAccess {
            service: slug("db"),
            name: "ab_ada".to_owned(),
            state,
        }];
        let notes = plan(&parse(&text).unwrap(), &inventory).notes;
        let texts: Vec<String> = notes.into_iter().map(|n| n.text).collect();
        texts.join("\n")
    };
    let hint = "begins empty; `db` has `ab_ada`, which `names: { cat: ab-ada }` gives it";
    let at = Timestamp(0);
    let closed = AccessState::Closed { at, backup: None };
    let dropped = AccessState::Dropped { at, backup: None };
    assert!(planned("ada", AccessState::Open).contains(hint));
    assert!(planned("ada", closed).contains(hint));
    assert!(!planned("ada", dropped).contains(hint));
    assert!(!planned("ab-ada", AccessState::Open).contains("begins empty"));
}
