//! Commands that are interrupted, or refused: the house is as it was, or as they left it to be.

use crate::{TWO, up};
use abbey_testkit::args;
use abbey_testkit::terminal::Typist;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn an_interrupted_up_never_prevents_the_next() {
    let house = up(TWO);
    let other = TWO.replace("agents:", "agents:\n  third: { template: worker }");
    // The manifest is applied for some tens of milliseconds, and each round interrupts another part of that.
    for round in 0..16 {
        house.manifest(if round % 2 == 0 { &other } else { TWO });
        let mut command = house.command("up --yes");
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut interrupted = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(15 + 12 * round));
        interrupted.kill().unwrap();
        interrupted.wait().unwrap();
        house.manifest(if round % 2 == 0 { TWO } else { &other });
        house.expect(0, "up --yes --no-wait");
        let plan = house.expect(0, "plan");
        assert!(plan.contains("nothing to change"), "round {round}: {plan}");
    }
    house.expect(0, "up");
}

#[test]
fn a_refused_up_leaves_a_house_down_that_was_down() {
    let house = up(TWO);
    house.expect(0, "down");
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [no-such-program] }}\n"
    ));
    let told = house.expect_refusal(4, "up");
    assert!(told.contains("nothing was changed"), "{told}");
    house.expect_refusal(6, "ps");
    // And one that is up goes on.
    house.manifest(TWO);
    house.expect(0, "up");
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [no-such-program] }}\n"
    ));
    house.expect_refusal(4, "up");
    house.expect(0, "ps");
}

/// `up` beside a command that edits the manifest applies the file as it is after the edit: with that of before, it would remove
/// the agent that the other command has just renamed or added.
#[test]
fn up_beside_an_edit_removes_nothing() {
    let house = up(TWO);
    house.expect(0, "exec sysadmin -- sh -c 'echo mine > kept'");
    let background = |args: &str| {
        let mut command = house.command(args);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    for round in 0..10 {
        let (old, new) = match round % 2 {
            0 => ("sysadmin", "renamed"),
            _ => ("renamed", "sysadmin"),
        };
        let mut others = [
            background(&format!("agent rename {old} {new}")),
            background(&format!("agent new n{round} --template worker --no-wait")),
        ];
        std::thread::sleep(Duration::from_millis(10 * round));
        house.expect(0, "up --yes");
        for other in &mut others {
            assert!(other.wait().unwrap().success(), "round {round}");
        }
        house.expect(0, "up");
        let kept = house.expect(0, args!("exec {} -- cat kept", new));
        assert_eq!(kept, "mine\n", "round {round}");
        let added = format!("\"n{round}\"");
        let names = house.json(0, "ps")["agents"].to_string();
        assert!(names.contains(&added), "round {round}: {names}");
    }
    let log = house.expect(0, "activity -n 1000");
    assert!(!log.contains("agent.remove"), "{log}");
}

/// Whenever a verb is interrupted, the manifest is as the house is, or is put right by the next command; and what a person
/// writes in between stays.
#[test]
fn an_interrupted_edit_loses_neither_itself_nor_an_edit_by_hand() {
    let house = up(TWO);
    let file = house.path("abbey.yaml");
    for round in 0..12 {
        let name = format!("n{round}");
        let mut command = house.command(format!("agent new {name} --template worker").as_str());
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut interrupted = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(15 + 30 * round));
        interrupted.kill().unwrap();
        interrupted.wait().unwrap();
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(&format!(
            "  hand{round}: {{ template: worker, cell: process }}\n"
        ));
        std::fs::write(&file, &text).unwrap();
        // Nothing is to be removed, so no consent is needed.
        house.expect(0, "up --no-wait");
        let now = std::fs::read_to_string(&file).unwrap();
        assert_eq!(now, text, "round {round}");
        let names = house.json(0, "ps")["agents"].to_string();
        assert!(names.contains(&format!("\"hand{round}\"")), "round {round}");
        assert_eq!(
            text.contains(&format!("  {name}:")),
            names.contains(&format!("\"{name}\"")),
            "round {round}"
        );
    }
    let left = std::fs::read_dir(file.parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = left
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(".before-") || name.ends_with(".new"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// The directory of a manifest may be another user's, who plants what looks like the text of before an interrupted edit.
#[test]
fn a_planted_text_of_before_is_not_put_into_the_manifest() {
    let house = up(TWO);
    if !house.runs_as_root() {
        return;
    }
    let (file, secret) = (house.path("abbey.yaml"), house.path("secret"));
    std::fs::write(&secret, "of root alone\n").unwrap();
    let edited = std::fs::read_to_string(&file).unwrap() + "# edited\n";
    let digest = abbey_support::digest::sha256_hex(edited.as_bytes());
    let home = house.home();
    let tag = abbey_support::digest::sha256_hex(home.as_os_str().as_encoded_bytes());
    let name = format!(".abbey.yaml.before-{}-{}", &tag[..8], &digest[..16]);
    let planted = house.path(&name);
    let foreign = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(65_534), None);
    for link in [true, false] {
        std::fs::write(&file, &edited).unwrap();
        match link {
            true => std::os::unix::fs::symlink(&secret, &planted).unwrap(),
            false => {
                std::fs::write(&planted, "of another user\n").unwrap();
                foreign(&planted).unwrap();
            }
        }
        house.run("plan");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), edited);
        std::fs::remove_file(&planted).unwrap();
    }
}

#[test]
fn commands_that_edit_one_manifest_wait_for_each_other() {
    let house = up(TWO);
    let verbs: Vec<_> = (0..6)
        .map(|n| {
            let mut command = house.command(format!("agent new p{n} --template worker").as_str());
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut verb in verbs {
        assert!(verb.wait().unwrap().success());
    }
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    for n in 0..6 {
        assert!(text.contains(&format!("  p{n}:")), "{text}");
    }
    assert!(house.expect(0, "plan").contains("nothing to change"));
}

/// Everybody who can read the manifest can lock it, and nobody but the owner of the house can keep its commands waiting.
#[test]
fn a_lock_on_the_manifest_keeps_no_command_waiting() {
    use std::os::unix::fs::PermissionsExt;
    let house = up(TWO);
    let locked = std::fs::File::open(house.path("abbey.yaml")).unwrap();
    locked.lock_shared().unwrap();
    house.expect(0, "agent new third --template worker --no-wait");
    house.expect(0, "plan");
    house.expect(0, "up --no-wait");
    // The file that the edit replaced was locked, and the new one can be as well.
    let locked = std::fs::File::open(house.path("abbey.yaml")).unwrap();
    locked.lock().unwrap();
    house.expect(0, "agent rename third fourth --now --no-wait");
    house.expect(0, "up --no-wait");
    let own = house.home().join("hostd");
    let files = std::fs::read_dir(&own).unwrap().flatten();
    let locks = files.filter(|f| f.file_name().to_string_lossy().ends_with(".lock"));
    let mut found = 0;
    for lock in locks {
        let mode = lock.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", lock.path());
        found += 1;
    }
    assert!(found >= 2, "{found}");
}

/// A person may leave a question open for hours: others edit the manifest meanwhile, and what is agreed to is what was shown.
#[test]
fn an_open_question_keeps_no_command_waiting() {
    let house = up(TWO);
    let other = house.path("other.yaml");
    let line = TWO.lines().find(|l| l.contains("sysadmin:")).unwrap();
    let without = |text: &str| text.replace(&format!("{line}\n"), "");
    let before = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    std::fs::write(&other, without(&before)).unwrap();
    let asked = Typist::new(&house, "up -f other.yaml");
    asked.sees("[y/N]");
    house.expect(0, "agent new third --template worker --no-wait");
    asked.types("y\n");
    asked.sees("planned again");
    // What is removed now is another question.
    asked.sees("third");
    asked.types("n\n");
    assert_eq!(asked.ends(), Some(4));
    let names = house.json(0, "ps")["agents"].to_string();
    assert!(
        names.contains("\"third\"") && names.contains("\"sysadmin\""),
        "{names}"
    );

    // The same for an edit by hand of what is to be applied.
    let asked = Typist::new(&house, "up -f other.yaml --no-wait");
    asked.sees("[y/N]");
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    std::fs::write(&other, &text).unwrap();
    asked.types("y\n");
    asked.sees("planned again");
    assert_eq!(asked.ends(), Some(0));
    house.expect(0, "plan -f abbey.yaml");

    // A command that edits the manifest makes no edit of a text that it has not seen.
    std::fs::write(house.path("abbey.yaml"), without(&text)).unwrap();
    let asked = Typist::new(&house, "agent new fourth --template worker --no-wait");
    asked.sees("[y/N]");
    std::fs::write(house.path("abbey.yaml"), &text).unwrap();
    house.expect(0, "up --no-wait");
    asked.types("y\n");
    asked.sees("was edited meanwhile");
    assert_eq!(asked.ends(), Some(4));
    let now = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    assert_eq!(now, text);
}
