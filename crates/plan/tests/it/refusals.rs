//! What a plan refuses although the manifest is well formed, and what an edit takes out with an agent.

use crate::{after, inventory};
use abbey_plan::{Inventory, Plan, Severity, edit, parse, plan};

fn planned(text: &str, inventory: &Inventory) -> Plan {
    plan(&parse(text).unwrap(), inventory)
}

fn fatal(plan: &Plan) -> Vec<String> {
    let notes = plan.notes.iter();
    let fatal = notes.filter(|n| n.severity == Severity::Fatal);
    fatal
        .map(|n| format!("{}: {}", n.subject, n.text))
        .collect()
}

const WEB: &str = "command: [web]";

#[test]
fn a_named_port_is_given_before_the_range_and_taken_from_it() {
    let auto = format!(
        "version: 1\nhouse: h\nnetwork: {{ ports: 19800-19810 }}\nservices: {{ web: {{ {WEB} }} }}\nagents: {{ a: {{}} }}\n"
    );
    let named = auto.replace(WEB, &format!("{WEB}, expose: 19800"));
    let first = planned(&auto, &inventory());
    for inventory in [inventory(), after(&parse(&auto).unwrap(), &first)] {
        let plan = planned(&named, &inventory);
        assert_eq!(fatal(&plan), [""; 0]);
        let row = plan.registry.find_allocation("service:web", "expose");
        assert_eq!(row.unwrap().value, "19800");
        let ports = plan.registry.rows().filter(|r| r.value == "19800");
        assert_eq!(ports.count(), 1);
    }
}

#[test]
fn addresses_that_only_an_explicit_rule_reaches_are_warned_of() {
    let of = |egress: &str| {
        let text = format!("version: 1\nhouse: h\nagents: {{ a: {{ egress: {egress} }} }}\n");
        let notes = planned(&text, &inventory()).notes;
        let warnings = notes.into_iter().filter(|n| n.subject == "agent:a");
        let warnings = warnings.filter(|n| n.severity == Severity::Warning);
        warnings.map(|n| n.text).collect::<Vec<_>>()
    };
    for rule in [
        "127.0.0.1:9",
        "192.168.0.0/16:443",
        "169.254.169.254:80",
        "0.0.0.0/0:443",
    ] {
        let warnings = of(&format!("[\"{rule}\"]"));
        assert_eq!(warnings.len(), 1, "{rule}: {warnings:?}");
        assert!(warnings[0].contains(rule), "{warnings:?}");
    }
    for egress in [
        "full",
        "none",
        "[\"203.0.114.7:443\", \"api.example.org:443\"]",
    ] {
        assert_eq!(of(egress), [""; 0], "{egress}");
    }
}

#[test]
fn a_small_range_is_enough_once_what_is_released_is_released() {
    let of = |web: &str, api: &str| {
        format!(
            "version: 1\nhouse: h\nnetwork: {{ ports: 19800-19801, pool: 10.77.0.0/24 }}\nservices:\n  api: {{ {WEB}, cell: {api} }}\n  web: {{ {WEB}, cell: {web} }}\nagents: {{}}\n"
        )
    };
    let before = of("sandbox", "process");
    let plan = planned(&before, &inventory());
    let inventory = after(&parse(&before).unwrap(), &plan);
    assert_eq!(
        fatal(&planned(&of("process", "sandbox"), &inventory)),
        [""; 0]
    );
}

#[test]
fn a_cell_needs_memory_to_start_and_an_agent_a_name_that_is_no_keyword() {
    let mut host = inventory();
    host.host.memory = Some(abbey_model::Bytes(24 << 30));
    let text = "version: 1\nhouse: h\nagents: { a: { limits: { memory: 1KiB } }, all: {}, none: {}, operator: {} }\n";
    let plan = planned(text, &host);
    let told = fatal(&plan).join("\n");
    assert!(told.contains("a cell needs 8 MiB to start"), "{told}");
    for name in ["all", "operator"] {
        assert!(
            told.contains(&format!("agent:{name}: `{name}` means")),
            "{told}"
        );
    }
    // Whoever may delegate to `none` may delegate to nobody, so that name is only a nuisance.
    let warned = |n: &&abbey_plan::Note| n.subject == "agent:none" && n.text.contains("means");
    assert!(!told.contains("agent:none") && plan.notes.iter().any(|n| warned(&n)));
    // A house that has one keeps it.
    let again = planned(text, &after(&parse(text).unwrap(), &plan));
    assert!(!fatal(&again).join("\n").contains("means something else"));
}

/// What a program of the manifest's writes into its own directory holds up no plan; what a stock service left there does.
#[test]
fn only_what_a_stock_service_noted_says_of_which_kind_its_data_is() {
    let house = |service: &str| {
        parse(&format!(
            "version: 1\nhouse: h\nservices: {{ s: {{ {service} }} }}\nagents: {{ a: {{}} }}\n"
        ))
        .unwrap()
    };
    let (program, site) = ("command: [sleep, '9'], probe: none", "kind: site");
    let refused = |before: Option<&str>, now: &str, noted: &str| {
        let mut inventory = match before {
            Some(before) => {
                let before = house(before);
                after(&before, &plan(&before, &inventory()))
            }
            None => inventory(),
        };
        let noted = ("service:s".to_owned(), noted.to_owned());
        inventory.host.kinds_of_data = [noted].into();
        let plan = plan(&house(now), &inventory);
        let refusals = fatal(&plan).into_iter();
        refusals
            .filter(|text| text.contains("its kind cannot be"))
            .count()
    };
    assert_eq!(refused(Some(program), program, "git"), 0);
    assert_eq!(refused(Some(program), program, "command"), 0);
    assert_eq!(refused(None, program, "git"), 1);
    assert_eq!(refused(None, site, "git"), 1);
    assert_eq!(refused(Some(site), site, "site"), 0);
    assert_eq!(refused(None, site, "what is this"), 0);
}

#[test]
fn an_agent_that_is_removed_takes_the_names_of_its_data_along() {
    let y = "y".parse().unwrap();
    for names in ["{ y: x }", "{ z: q, y: x }"] {
        let text = format!(
            "version: 1\nhouse: h\nservices: {{ g: {{ kind: git, names: {names} }} }}\nagents:\n  y: {{ uses: [g] }}\n  z: {{ uses: [g] }}\n"
        );
        let edited = edit::remove_agent(&text, &y).unwrap();
        assert!(parse(&edited).is_ok(), "{edited}");
        assert!(!edited.contains("y: x"), "{edited}");
    }
}
