//! Backup and restore: what an archive holds, what it says it lacks, and what a hostile one cannot do.

use crate::{TWO, house, up};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A house with this archive restored into it, and the text that was printed for people.
pub(crate) fn restored(archive: &str, more: &str) -> (House, String) {
    let house = house();
    let output = house.run(format!("restore {archive} {more}").as_str());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    (house, told)
}

/// Brings a restored house up from its own manifest and runs `then` between several starts.
fn up_and_down(house: &House, mut then: impl FnMut()) {
    let manifest = house.home().join("manifest/abbey.yaml");
    for _ in 0..2 {
        house.expect(0, args!("up --yes -f {}", manifest.display().to_string()));
        then();
        house.expect(0, "down");
    }
}

#[test]
fn the_log_of_a_restored_house_verifies_over_repeated_restores() {
    let first = up(TWO);
    first.expect(0, "task add 'show system stats' --wait");
    let passphrase = first.path("passphrase");
    fs::write(&passphrase, "correct horse\n").unwrap();
    let wrong = first.path("wrong");
    fs::write(&wrong, "battery staple\n").unwrap();
    let with_key = first.path("a.tar").display().to_string();
    let key = format!("--passphrase-file {}", passphrase.display());
    first.expect(0, format!("backup {with_key} {key}").as_str());
    first.expect(0, "down");

    let refusing = house();
    let told = refusing.expect_refusal(
        2,
        format!("restore {with_key} --passphrase-file {}", wrong.display()).as_str(),
    );
    assert!(told.contains("passphrase"), "{told}");
    assert!(!refusing.home().join("abbey.db").exists());

    // With the earlier key, which confirms the new one.
    let (second, _) = restored(&with_key, &key);
    let without_key = second.path("b.tar").display().to_string();
    let mut backed_up = false;
    up_and_down(&second, || {
        let verdict = second.json(0, "activity verify");
        assert!(
            verdict["notes"][0]
                .as_str()
                .unwrap()
                .contains("the earlier key confirmed")
        );
        if !std::mem::replace(&mut backed_up, true) {
            second.expect(0, "task add 'show system stats' --wait");
            second.expect(0, args!("backup {}", without_key.clone()));
        }
    });
    // Without it, over a log that was restored before.
    let (third, told) = restored(&without_key, "");
    assert!(told.contains("signing key"), "{told}");
    up_and_down(&third, || {
        let verdict = third.json(0, "activity verify");
        let notes = verdict["notes"].as_array().unwrap();
        assert_eq!(notes.len(), 2);
        assert!(notes[1].as_str().unwrap().contains("did not confirm"));
        let export = third.path("log.jsonl");
        fs::write(&export, third.expect(0, "activity export")).unwrap();
        third.expect(0, args!("activity verify {}", export.display().to_string()));
    });
    third.expect_refusal(4, args!("restore {}", with_key));
}

#[test]
fn an_archive_holds_a_whole_house_and_names_what_it_lacks() {
    let house = house();
    fs::write(house.path("soul.md"), "# Soul\nTend the bells.\n").unwrap();
    fs::write(house.path("hook.secret"), "s3cret-of-the-hook").unwrap();
    let manifest = TWO.replace(
        "template: sysadmin,",
        "template: sysadmin, charter: soul.md,",
    ) + "services:\n  idle: { cell: process, command: [sleep, '60'], probe: none }\nhooks: { push: { kind: gitea, secret: 'file:hook.secret', event: news } }\n";
    house.manifest(&manifest);
    house.expect(0, "up");
    let deep = format!("mkdir -p workspace/{}", vec!["d"; 100].join("/"));
    for script in [
        deep.as_str(),
        "cd workspace && echo 1 > token && ln -s token inside && ln -s /etc/passwd outside",
    ] {
        house.expect(
            0,
            args!("exec sysadmin -- sh -c {}", format!("cd ~/.. && {script}")),
        );
    }
    let archive = house.path("b.tar").display().to_string();
    let output = house.run(args!("backup {}", archive.clone()));
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for lacks in [
        "idle",
        "hook.secret",
        "outside: a link that leads out",
        "signing key",
    ] {
        assert!(told.contains(lacks), "{lacks}\n{told}");
    }
    let left = fs::read_dir(house.home().join("backups")).unwrap().count();
    assert_eq!(left, 0, "nothing of the way to the archive stays");
    house.expect(0, "down");

    let checked = crate::house().json(0, args!("backup verify {}", archive.clone()));
    assert_eq!(checked["agents"], serde_json::json!(["abbot", "sysadmin"]));
    let bytes = fs::read(&archive).unwrap();
    assert!(!bytes.windows(18).any(|w| w == b"s3cret-of-the-hook"));
    let mut damaged = bytes.clone();
    let at = damaged
        .windows(15)
        .position(|w| w == b"Tend the bells.")
        .unwrap();
    damaged[at] = b'X';
    fs::write(house.path("damaged.tar"), damaged).unwrap();
    let told = crate::house().expect_refusal(
        1,
        args!(
            "backup verify {}",
            house.path("damaged.tar").display().to_string()
        ),
    );
    assert!(
        told.contains("is not what its description states"),
        "{told}"
    );

    let (again, told) = restored(&archive, "");
    assert!(
        told.contains("hook.secret") && told.contains("manifest/abbey.yaml"),
        "{told}"
    );
    let workspace = again.home().join("agents/sysadmin/workspace");
    assert_eq!(fs::read_to_string(workspace.join("inside")).unwrap(), "1\n");
    assert!(workspace.join(vec!["d"; 100].join("/")).is_dir());
    assert!(fs::symlink_metadata(workspace.join("outside")).is_err());
    fs::write(
        again.home().join("manifest/hook.secret"),
        "s3cret-of-the-hook",
    )
    .unwrap();
    fs::set_permissions(
        again.home().join("manifest/hook.secret"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    up_and_down(&again, || {
        let charter = again.expect(0, "exec sysadmin -- sh -c 'cat ~/../workspace/SOUL.md'");
        assert!(charter.contains("Tend the bells."));
    });
}

#[test]
fn data_of_services_comes_along_on_request() {
    let manifest = format!(
        "{TWO}services:\n  ledger: {{ command: [sh, -c, 'echo x >> ~/ledger; wc -l < ~/ledger; exec sleep 1000'], probe: none }}\n"
    );
    let house = up(&manifest);
    let counted = |house: &House, n: &str| {
        until("the service has counted its boots", || {
            house.expect(0, "service logs ledger").contains(n)
        });
    };
    counted(&house, "1");
    let archive = house.path("b.tar").display().to_string();
    house.expect(0, args!("backup --with-services {}", archive.clone()));
    until("the service goes on", || {
        house.json(0, "service list")["services"][0]["presence"] == "ready"
    });
    house.expect(0, "down");
    let (again, _) = restored(&archive, "");
    let manifest = again.home().join("manifest/abbey.yaml");
    again.expect(0, args!("up --yes -f {}", manifest.display().to_string()));
    counted(&again, "2");
}

#[test]
fn a_lost_database_is_no_new_house() {
    let house = up(TWO);
    let archive = house.path("b.tar").display().to_string();
    house.expect(0, args!("backup {}", archive.clone()));
    house.expect(0, "down");
    let database = house.home().join("abbey.db");
    type Damage = fn(&Path);
    let ways: [(&str, Damage); 3] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("damaged", |path| fs::write(path, "no database").unwrap()),
    ];
    for (state, lose) in ways {
        lose(&database);
        for command in ["up", "plan"] {
            let told = house.expect_refusal(1, command);
            assert!(
                told.contains(state) && told.contains("restore"),
                "{state}: {told}"
            );
        }
        let cells = fs::read_dir(house.home().join("run/cells"));
        assert_eq!(
            cells.map_or(0, Iterator::count),
            0,
            "{state}: something was started"
        );
    }
    fs::write(&database, "").unwrap();
    house.expect(0, args!("restore {}", archive));
    house.expect(0, "up");
    assert_eq!(house.json(0, "activity verify")["ok"], true);
}

/// Adds an entry with exactly this path, also one that no tool would write.
fn add_raw(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    link: &str,
    bytes: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

/// Between a restore and the next `up` nobody else gets into the directories of an agent, whatever modes the archive has.
#[test]
fn restored_directories_are_closed_until_the_house_opens_them() {
    let source = up(TWO);
    let archive = source.path("b.tar");
    source.expect(0, args!("backup {}", archive.display().to_string()));
    source.expect(0, "down");
    let mut to = tar::Builder::new(Vec::new());
    for path in ["", "/home", "/workspace", "/home/open"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o777);
        header.set_size(0);
        let path = format!("agents/sysadmin{path}");
        to.append_data(&mut header, path, &[][..]).unwrap();
    }
    let mut from = tar::Archive::new(fs::File::open(&archive).unwrap());
    for entry in from.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let directory = entry.header().entry_type().is_dir();
        if path != Path::new("backup.json") && !(directory && path.starts_with("agents/sysadmin")) {
            let mut header = entry.header().clone();
            to.append_data(&mut header, &path, entry).unwrap();
        }
    }
    let target = house();
    let file = target.path("open.tar");
    fs::write(&file, to.into_inner().unwrap()).unwrap();
    target.expect(0, args!("restore {}", file.display().to_string()));
    let mode = |path: &str| {
        let path = target.home().join("agents/sysadmin").join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    for closed in ["", "home", "workspace"] {
        assert_eq!(mode(closed), 0o700, "{closed}");
    }
    assert_eq!(mode("home/open"), 0o777, "it is the agent's");
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    use tar::EntryType as Type;
    let source = up(TWO);
    let archive = source.path("b.tar").display().to_string();
    source.expect(0, args!("backup {}", archive.clone()));
    source.expect(0, "down");
    let entries = |skip: &dyn Fn(&Path) -> bool| {
        let mut from = tar::Archive::new(fs::File::open(&archive).unwrap());
        let mut to = tar::Builder::new(Vec::new());
        for entry in from.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            // A forged archive has no description that would give it away.
            if path != Path::new("backup.json") && !skip(&path) {
                let mut header = entry.header().clone();
                to.append_data(&mut header, &path, entry).unwrap();
            }
        }
        to
    };
    let hostile: [(&str, Type, u32, &str); 12] = [
        ("agents/sysadmin/workspace/su", Type::Regular, 0o4755, ""),
        ("agents/sysadmin/workspace/sg", Type::Regular, 0o2755, ""),
        ("agents/sysadmin/workspace/disk", Type::Block, 0o666, ""),
        (
            "agents/sysadmin/workspace/hard",
            Type::Link,
            0o644,
            "/etc/shadow",
        ),
        (
            "agents/sysadmin/workspace/link",
            Type::Symlink,
            0o777,
            "/etc",
        ),
        (
            "agents/sysadmin/workspace/link",
            Type::Symlink,
            0o777,
            "../../../../etc",
        ),
        // Further up than it looks, if `to` is a link.
        (
            "agents/sysadmin/workspace/deep/link",
            Type::Symlink,
            0o777,
            "to/../../..",
        ),
        ("agents/../../escaped", Type::Regular, 0o644, ""),
        ("/tmp/abbey-escaped", Type::Regular, 0o644, ""),
        ("operator.token", Type::Regular, 0o600, ""),
        ("run/serve.lock", Type::Symlink, 0o777, "/etc/passwd"),
        ("hostd/journal.jsonl", Type::Regular, 0o600, ""),
    ];
    let refuse = |bytes: Vec<u8>, what: &str| {
        let target = house();
        let file = target.path("hostile.tar");
        fs::write(&file, bytes).unwrap();
        let told = target.expect_refusal(1, args!("restore {}", file.display().to_string()));
        assert!(told.contains("refused"), "{what}: {told}");
        let left = fs::read_dir(target.home()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{what}");
        assert!(!target.path("escaped").exists() && !Path::new("/tmp/abbey-escaped").exists());
    };
    for (path, kind, mode, link) in hostile {
        let mut tar = entries(&|_| false);
        add_raw(&mut tar, path, kind, mode, link, b"");
        refuse(tar.into_inner().unwrap(), path);
    }
    // Through a link that is in the archive too.
    let mut tar = entries(&|_| false);
    add_raw(
        &mut tar,
        "agents/sysadmin/workspace/to",
        Type::Symlink,
        0o777,
        "../home",
        b"",
    );
    add_raw(
        &mut tar,
        "agents/sysadmin/workspace/to/x",
        Type::Regular,
        0o644,
        "",
        b"",
    );
    refuse(tar.into_inner().unwrap(), "through a link");
    // Users that are not this house's to give.
    for claims in [
        r#"{"uid_first":0,"owners":{"agent-sysadmin":{"uid":1}}}"#,
        r#"{"uid_first":536870912,"owners":{"agent-sysadmin":{"uid":0}}}"#,
        "[]",
    ] {
        let mut tar = entries(&|path| path == Path::new("hostd/claims.json"));
        add_raw(
            &mut tar,
            "hostd/claims.json",
            Type::Regular,
            0o600,
            "",
            claims.as_bytes(),
        );
        refuse(tar.into_inner().unwrap(), claims);
    }
    // What remains is Abbey's own rule: an owner in the archive counts for nothing.
    let mut tar = entries(&|_| false);
    add_raw(
        &mut tar,
        "agents/sysadmin/workspace/mine",
        Type::Regular,
        0o644,
        "",
        b"",
    );
    let target = house();
    let file = target.path("good.tar");
    fs::write(&file, tar.into_inner().unwrap()).unwrap();
    target.expect(0, args!("restore {}", file.display().to_string()));
    if target.runs_as_root() {
        let mine = fs::metadata(target.home().join("agents/sysadmin/workspace/mine")).unwrap();
        assert!(mine.uid() >= 0x2000_0000, "{}", mine.uid());
    }
}

/// The entries of an archive with `change` applied to each (none drops it), then `more`, and a description that fits.
fn forged(
    archive: &str,
    change: impl Fn(&Path, Vec<u8>) -> Option<Vec<u8>>,
    more: &[(&str, &[u8])],
) -> Vec<u8> {
    let mut from = tar::Archive::new(fs::File::open(archive).unwrap());
    let mut to = tar::Builder::new(Vec::new());
    let mut contents = serde_json::Value::Null;
    for entry in from.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut header = entry.header().clone();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if path == Path::new("backup.json") {
            contents = serde_json::from_slice(&bytes).unwrap();
            continue;
        }
        let Some(bytes) = change(&path, bytes) else {
            continue;
        };
        header.set_size(bytes.len() as u64);
        if header.entry_type().is_symlink() {
            let target = entry.link_name().unwrap().unwrap().into_owned();
            to.append_link(&mut header, &path, target).unwrap();
        } else {
            to.append_data(&mut header, &path, bytes.as_slice())
                .unwrap();
        }
    }
    for (path, bytes) in more {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        to.append_data(&mut header, path, *bytes).unwrap();
    }
    contents["bytes"] = to.get_ref().len().into();
    contents["sha256"] = abbey_support::digest::sha256_hex(to.get_ref()).into();
    let text = contents.to_string();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(text.len() as u64);
    to.append_data(&mut header, "backup.json", text.as_bytes())
        .unwrap();
    to.into_inner().unwrap()
}

/// A database with this SQL applied by its author.
fn tampered(house: &House, bytes: &[u8], sql: &str) -> Vec<u8> {
    let path = house.path("tampered.db");
    fs::write(&path, bytes).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(sql).unwrap();
    drop(db);
    fs::read(&path).unwrap()
}

/// The author of an archive gets no credential into the house that restores it, and no schema of their own.
#[test]
fn an_archive_brings_no_authority_of_its_author() {
    let source = up(TWO);
    let archive = source.path("b.tar").display().to_string();
    source.expect(0, args!("backup {}", archive.clone()));
    source.expect(0, "down");
    let secret = "a".repeat(64);
    let hash = abbey_support::digest::sha256_hex(secret.as_bytes());
    let row = |principal: &str, name: &str| {
        format!(
            "INSERT OR REPLACE INTO tokens (hash, principal, scope, created_at, name) VALUES ('{hash}', '{principal}', 'operator', 1, {name});"
        )
    };
    let database = |sql: &str| {
        let change = |path: &Path, bytes: Vec<u8>| match path == Path::new("abbey.db") {
            true => Some(tampered(&source, &bytes, sql)),
            false => Some(bytes),
        };
        forged(&archive, change, &[])
    };
    for (what, sql, says) in [
        (
            "triggers",
            format!(
                "CREATE TRIGGER zz AFTER DELETE ON tokens BEGIN {} END; CREATE TRIGGER zy AFTER INSERT ON tokens BEGIN {} END;",
                row("operator", "NULL"),
                row("operator", "NULL")
            ),
            "trigger",
        ),
        (
            "a view",
            "ALTER TABLE wakes RENAME TO w; CREATE VIEW wakes AS SELECT * FROM w;".to_owned(),
            "Abbey does not create",
        ),
    ] {
        let target = house();
        let file = target.path("forged.tar").display().to_string();
        fs::write(&file, database(&sql)).unwrap();
        for command in ["backup verify", "restore"] {
            let told = target.expect_refusal(1, format!("{command} {file}").as_str());
            assert!(
                told.contains("refused") && told.contains(says),
                "{what}: {told}"
            );
        }
        assert!(!target.home().join("abbey.db").exists(), "{what}");
    }
    for sql in [row("operator", "NULL"), row("operator", "'foo'")] {
        let target = house();
        let file = target.path("forged.tar").display().to_string();
        fs::write(&file, database(&sql)).unwrap();
        target.expect(0, args!("restore {}", file));
        let manifest = target.home().join("manifest/abbey.yaml");
        target.expect(0, args!("up -f {}", manifest.display().to_string()));
        let asked = target.operator_api("GET", "/api/v1/agents");
        assert_eq!(asked.token(&secret).send().0, 401);
        assert_eq!(
            target.json(0, "token list")["tokens"],
            serde_json::json!([])
        );
        target.expect(0, "down");
    }
}

/// Whoever can write the file of a house cannot plant a trigger that the house would run.
#[test]
fn a_house_does_not_start_with_a_foreign_schema() {
    let house = up(TWO);
    house.expect(0, "down");
    let path = house.home().join("abbey.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TRIGGER zz AFTER INSERT ON tasks BEGIN DELETE FROM tokens; END;")
        .unwrap();
    drop(db);
    let told = house.expect_refusal(1, "up");
    assert!(told.contains("trigger `zz`"), "{told}");
}

/// What `restore` refuses, `backup verify` refuses too: both decide by the same function.
#[test]
fn verify_and_restore_refuse_the_same_archives() {
    let source = up(TWO);
    let archive = source.path("b.tar").display().to_string();
    source.expect(0, args!("backup {}", archive.clone()));
    source.expect(0, "down");
    let long = format!("agents/sysadmin/workspace/{}", "n".repeat(300));
    let deep = format!("agents/sysadmin/workspace/{}", "d/".repeat(2500));
    for (path, says) in [
        (long.as_str(), "too long"),
        (deep.trim_end_matches('/'), "too long"),
        ("agents/sysadmin/token", "credentials"),
        ("agents/ghost/workspace/x", "no such agent"),
        ("services/forge/x", "no such service"),
        ("abbey.db", "twice"),
        ("hostd/claims.json", "twice"),
    ] {
        let target = house();
        let file = target.path("forged.tar").display().to_string();
        fs::write(&file, forged(&archive, |_, b| Some(b), &[(path, b"x")])).unwrap();
        for command in ["backup verify", "restore"] {
            let told = target.expect_refusal(1, format!("{command} {file}").as_str());
            assert!(told.contains(says), "{command} {path}: {told}");
            assert!(told.len() < 1000, "{}", told.len());
        }
    }
    let told = source.expect_refusal(
        1,
        args!(
            "backup verify {}",
            source.path("abbey.yaml").display().to_string()
        ),
    );
    assert!(told.contains("is no archive of Abbey"), "{told}");
}

/// A file that is larger than all disks, and costs its agent nothing, costs nobody else anything either.
#[test]
fn files_that_are_mostly_holes_cost_nothing() {
    let house = house();
    house.manifest("house: holes\nagents:\n  small: { template: sysadmin }\n");
    house.expect(0, "up");
    let script =
        "cd ~/../workspace && truncate -s 1T vast && truncate -s 1M little && echo x > kept";
    house.expect(0, args!("exec small -- sh -c {}", script));
    let archive = house.path("b.tar");
    let output = house.run(args!("backup {}", archive.display().to_string()));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("workspace/vast: a file of 1048576 MiB"),
        "{told}"
    );
    assert!(fs::metadata(&archive).unwrap().len() < 64 << 20);
    house.expect(0, "template save small saved");
    let out = house.path("out");
    let output = house.run(args!("cp small:../workspace {}", out.display().to_string()));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && told.contains("vast` was left out"),
        "{told}"
    );
    assert!(!out.join("vast").exists() && out.join("little").exists());
    house.expect(0, "down");
    let (again, _) = restored(&archive.display().to_string(), "");
    let workspace = again.home().join("agents/small/workspace");
    assert_eq!(fs::read_to_string(workspace.join("kept")).unwrap(), "x\n");
    assert_eq!(
        fs::metadata(workspace.join("little")).unwrap().len(),
        1 << 20
    );
}

/// A manifest from anybody reads no file of the operator into a cell.
#[test]
fn a_charter_is_in_the_directory_of_the_manifest() {
    let house = house();
    let outside = house.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "s3cret").unwrap();
    let dir = house.path("manifest");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("inside.md"), "# Soul").unwrap();
    std::os::unix::fs::symlink("../outside/secret", dir.join("link.md")).unwrap();
    std::os::unix::fs::symlink("inside.md", dir.join("alias.md")).unwrap();
    let file = dir.join("abbey.yaml");
    let absolute = outside.join("secret").display().to_string();
    for (charter, refused) in [
        (absolute.as_str(), true),
        ("../outside/secret", true),
        ("link.md", true),
        ("alias.md", false),
        ("inside.md", false),
    ] {
        let text = format!(
            "version: 1\nhouse: charters\nagents:\n  a: {{ template: sysadmin, charter: {charter} }}\n"
        );
        fs::write(&file, text).unwrap();
        let command = args!("plan -f {}", file.display().to_string());
        match refused {
            true => {
                let told = house.expect_refusal(2, command);
                assert!(
                    told.contains("not in the directory of the manifest"),
                    "{told}"
                );
            }
            false => drop(house.expect(0, command)),
        }
    }
}

/// The file systems of a sandbox with `drives` are in a backup as the files on them, and are filled again at the first
/// boot after a restore.
#[test]
fn files_on_drives_come_back_with_modes_and_links() {
    let house = house();
    if !house.runs_as_root() {
        return;
    }
    house.manifest("house: drives\nagents:\n  walled: { cell: sandbox, template: sysadmin, drives: { state: 16MiB, workspace: 32MiB } }\n");
    house.expect(0, "up");
    let shell =
        |house: &House, script: &str| house.expect(0, args!("exec walled -- sh -c {}", script));
    shell(
        &house,
        "cd /agent/workspace; echo run > tool; chmod 751 tool; ln -s tool alias; mkdir deep; chmod 2700 deep; echo kept > deep/note; echo home > $HOME/note; chmod 600 $HOME/note",
    );
    let archive = house.path("b.tar").display().to_string();
    house.expect(0, args!("backup {}", archive.clone()));
    house.expect(0, args!("backup verify {}", archive.clone()));
    house.expect(0, "down");
    let (again, _) = restored(&archive, "");
    up_and_down(&again, || {
        let seen = shell(
            &again,
            "cd /agent/workspace; stat -c '%a %U' tool $HOME/note deep | cut -d' ' -f1; readlink alias; cat alias deep/note $HOME/note",
        );
        assert_eq!(seen, "751\n600\n700\ntool\nrun\nkept\nhome\n");
        // On file systems of their own.
        let sizes = shell(
            &again,
            "df -m --output=size /agent/workspace $HOME | tail -n 2",
        );
        for size in sizes.lines() {
            assert!(size.trim().parse::<u32>().unwrap() < 64, "{sizes}");
        }
    });
}

#[test]
fn a_backup_goes_to_standard_output_where_that_is_named() {
    let house = up(TWO);
    let made = house.run("backup -");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    assert!(said.contains("state hash"), "{said}");
    assert!(!house.path("-").exists());
    fs::write(house.path("house.tar"), &made.stdout).unwrap();
    house.expect(0, "backup verify house.tar");
}

#[test]
fn a_failed_restore_leaves_nothing_behind() {
    let house = house();
    fs::write(house.path("junk.tar"), "no archive").unwrap();
    let home = house.path("fresh/home");
    for (code, archive) in [(1, "junk.tar"), (2, "missing.tar")] {
        house.expect_refusal(code, args!("--home {} restore {}", home.display(), archive));
        assert!(!house.path("fresh").exists(), "{archive}");
    }
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("note"), "mine").unwrap();
    house.expect_refusal(1, args!("--home {} restore junk.tar", home.display()));
    let left: Vec<_> = fs::read_dir(&home).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
