//! Git repositories and files that services keep for agents, with the real git over real HTTP: own credential, quota and
//! rate limit for each agent (S1-17, S1-18, S2-05).

use crate::up;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::Value;
use std::process::Output;

const MANIFEST: &str = "house: shelves
services:
  forge: { kind: git, quota: 2MiB }
  web: { kind: site, needs: [forge], rate: 40 }
agents:
  iris: { template: coder, skills: [git-mirror], uses: [forge, web] }
  otto: { template: coder, uses: [forge, web] }
  outsider: { template: worker }
";

fn opened(house: &House) -> usize {
    let lines = house.expect(0, "activity export");
    lines.matches("\"service.open\"").count()
}

fn stand() -> House {
    let house = up(MANIFEST);
    until("everybody has a place", || opened(&house) == 4);
    house
}

fn sh(house: &House, agent: &str, script: &str) -> Output {
    house.run(args!("exec {} -- sh -ec {}", agent, script))
}

fn does(house: &House, agent: &str, script: &str) -> String {
    let done = sh(house, agent, script);
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    );
    assert!(done.status.success(), "{script}\n{out}\n{err}");
    out
}

const PUSH: &str = "git init -q -b main r && cd r && git config user.email a@b && git config user.name a && echo one > f && git add f && git commit -qm one && git push -q $ABBEY_GIT_FORGE/notes.git main";

#[test]
fn each_agent_pushes_to_and_reads_only_its_own_repositories() {
    let house = stand();
    does(&house, "iris", PUSH);
    // Another copy of it, by the same credential, which is in no command and no file of the repository.
    does(
        &house,
        "iris",
        "git clone -q $ABBEY_GIT_FORGE/notes.git again && cmp r/f again/f && ! grep -r abbey_sv_ r/.git/config",
    );
    let others = sh(
        &house,
        "otto",
        "git clone -q ${ABBEY_GIT_FORGE%/otto}/iris/notes.git",
    );
    assert!(
        !others.status.success() && String::from_utf8_lossy(&others.stderr).contains("not found")
    );
    // Without a credential, or with a wrong one, nobody comes in.
    let code = "curl -s -o /dev/null -w %{http_code}";
    let bare = does(
        &house,
        "otto",
        &format!("{code} $ABBEY_GIT_FORGE/x.git/info/refs?service=git-upload-pack"),
    );
    let wrong = does(
        &house,
        "otto",
        &format!(
            "{code} -u iris:abbey_sv_wrong ${{ABBEY_GIT_FORGE%/otto}}/iris/notes.git/info/refs?service=git-upload-pack"
        ),
    );
    assert_eq!((bare.as_str(), wrong.as_str()), ("401", "401"));
    assert!(
        !sh(&house, "outsider", "test -e /agent/home/services")
            .status
            .success()
    );
    // What does not fit is refused, and what was there stays.
    let large = sh(
        &house,
        "iris",
        "cd r && head -c 4000000 /dev/urandom > big && git add big && git commit -qm big && git push -q $ABBEY_GIT_FORGE/notes.git main",
    );
    assert!(!large.status.success());
    does(
        &house,
        "iris",
        "git clone -q $ABBEY_GIT_FORGE/notes.git third && test ! -e third/big",
    );
    // The mirror of the skill is the same git.
    let url = does(&house, "iris", "echo $ABBEY_GIT_FORGE/notes.git");
    let done = house.json(
        0,
        args!(
            "task add {} --to iris --wait",
            format!("mirror {} as copy", url.trim())
        ),
    );
    assert_eq!(done["task"]["state"], "done", "{done}");
    assert!(
        done["task"]["result"]["text"]
            .as_str()
            .unwrap()
            .contains("1 refs, 1 new or moved"),
        "{done}"
    );
}

#[test]
fn shared_files_are_readable_by_all_and_writable_by_their_owner() {
    let house = stand();
    does(
        &house,
        "iris",
        "echo '<h1>Iris</h1>' > page.html && curl -fsS -n --netrc-file /dev/null -u iris:$(sed 's/.*:\\(abbey_sv_[^@]*\\)@.*/\\1/' /agent/home/services/web) -T page.html http://$ABBEY_SERVICE_WEB/iris/index.html",
    );
    let page = does(&house, "otto", "curl -fsS http://$ABBEY_SERVICE_WEB/iris/");
    assert_eq!(page, "<h1>Iris</h1>\n");
    let key = "$(sed 's/.*:\\(abbey_sv_[^@]*\\)@.*/\\1/' /agent/home/services/web)";
    let code = "curl -s -o /dev/null -w %{http_code} --path-as-is";
    for (path, status) in [
        ("iris/index.html", "403"),
        ("otto/../iris/index.html", "400"),
        ("otto/.git/x", "400"),
        ("otto", "403"),
    ] {
        let got = does(
            &house,
            "otto",
            &format!("{code} -u otto:{key} -X PUT -d x http://$ABBEY_SERVICE_WEB/{path}"),
        );
        assert_eq!(got, status, "{path}");
    }
    // One who asks too much waits, and nobody else does.
    let many = does(
        &house,
        "otto",
        &format!(
            "for i in $(seq 50); do {code} -u otto:{key} -X DELETE http://$ABBEY_SERVICE_WEB/otto/x; echo; done"
        ),
    );
    assert!(many.contains("404") && many.contains("429"), "{many}");
    does(
        &house,
        "iris",
        &format!("curl -fsS -u iris:{key} -X DELETE http://$ABBEY_SERVICE_WEB/iris/index.html"),
    );
}

#[test]
fn a_closed_site_is_read_by_nobody() {
    let house = stand();
    let put = "curl -fsS -u otto:$(sed 's/.*:\\(abbey_sv_[^@]*\\)@.*/\\1/' /agent/home/services/web) -X PUT -d page http://$ABBEY_SERVICE_WEB/otto/p.html";
    does(&house, "otto", put);
    let get = "curl -s -w ' %{http_code}' http://$ABBEY_SERVICE_WEB/otto/p.html";
    assert_eq!(does(&house, "iris", get), "page 200");
    house.manifest(&MANIFEST.replace("  otto: { template: coder, uses: [forge, web] }\n", ""));
    house.expect(0, "up --yes");
    until("the site is closed", || {
        does(&house, "iris", get).ends_with(" 404")
    });
}

#[test]
fn a_removed_consumers_repositories_become_bundles_and_services_start_in_order() {
    let house = stand();
    // `web` needs `forge`: it waited until that answered.
    let entries = house.expect(0, "activity export");
    let waited = entries.lines().any(|l| {
        l.contains("\"cell.waits\"") && l.contains("service-web") && l.contains("it needs another")
    });
    assert!(waited, "{entries}");
    does(&house, "iris", PUSH);
    house.manifest(
        &MANIFEST
            .replace("uses: [forge, web] }\n  otto", "uses: [web] }\n  otto")
            .replace("kind: git,", "kind: git, grace: 1ms,"),
    );
    house.expect(0, "up --yes");
    let dropped = || {
        let lines = house.expect(0, "activity export");
        let mut all = lines
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        all.find(|e| e["action"] == "service.drop")
    };
    until("its place is gone", || dropped().is_some());
    let backup = dropped().unwrap()["detail"]["backup"]
        .as_str()
        .unwrap()
        .to_owned();
    let bundle = house
        .home()
        .join("services/forge")
        .join(backup)
        .join("notes.bundle");
    assert!(bundle.is_file());
    assert!(!house.home().join("services/forge/data/iris").exists());
    // Git reads it back, whole.
    let copy = house.path("copy").display().to_string();
    let cloned = std::process::Command::new("git")
        .args(["clone", "-q", "-b", "main"])
        .arg(&bundle)
        .arg(&copy)
        .status()
        .unwrap();
    assert!(cloned.success() && std::fs::read_to_string(house.path("copy/f")).unwrap() == "one\n");
    let wrong = MANIFEST.replace("needs: [forge]", "needs: [web]");
    house.manifest(&wrong);
    assert!(
        house
            .expect_refusal(2, "plan")
            .contains("`web` would wait for itself")
    );
}

/// An external server is declared, probed, and reached only by the agents that use it.
#[test]
fn an_external_service_is_reached_only_by_agents_that_use_it() {
    use std::io::{Read, Write};
    abbey_testkit::house::own_network();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = listener.local_addr().unwrap();
    drop(std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0u8; 1024];
            let _a_probe_may_say_nothing = stream.read(&mut asked);
            let _gone = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nfound\n",
            );
        }
    }));
    let manifest = |at: &str| {
        format!(
            "house: out\nservices:\n  search: {{ at: \"{at}\", probe: / }}\nagents:\n  a: {{ template: coder, uses: [search] }}\n  b: {{ template: coder }}\n"
        )
    };
    let house = up(&manifest(&at.to_string()));
    assert_eq!(
        does(&house, "a", "curl -fsS http://$ABBEY_SERVICE_SEARCH/"),
        "found\n"
    );
    let b = does(&house, "b", "env");
    assert!(!b.contains("SEARCH"), "{b}");
    let refused = house.expect_refusal(4, "service restart search");
    assert!(refused.contains("runs elsewhere"), "{refused}");
    let direct = format!("curl -s --noproxy '*' --max-time 2 http://{at}/");
    assert!(!sh(&house, "b", &direct).status.success());
    let list = house.json(0, "service list");
    let search = &list["services"][0];
    assert_eq!(
        (
            &search["presence"],
            &search["healthy"],
            &search["consumers"]
        ),
        (
            &Value::from("ready"),
            &Value::from(true),
            &serde_json::json!(["a"])
        )
    );
    for (wrong, told) in [
        ("169.254.169.254:80", "not a link-local address"),
        ("[::1]:80", "IPv4"),
    ] {
        house.manifest(&manifest(wrong));
        let refusal = house.expect_refusal(2, "plan");
        assert!(refusal.contains(told), "{wrong}: {refusal}");
    }
}

#[test]
fn a_service_that_is_removed_leaves_no_credential_with_agents() {
    let house = stand();
    does(&house, "iris", "test -s ~/services/web");
    let without = MANIFEST.replace("  web: { kind: site, needs: [forge], rate: 40 }\n", "");
    house.manifest(&without.replace("[forge, web]", "[forge]"));
    house.expect(0, "up --yes");
    until("its credential is removed", || {
        sh(&house, "iris", "test ! -e ~/services/web")
            .status
            .success()
    });
    does(&house, "iris", "test -s ~/services/forge");
}

/// What an agent did to its credentials, or what an older copy of its home brought back, ends with its next start.
#[test]
fn a_start_brings_back_the_credentials_that_services_accept() {
    let house = stand();
    does(&house, "iris", PUSH);
    // Git writes the file once more in a form of its own, so only the secret is compared.
    const SECRET: &str = "sed 's/.*:\\(abbey_sv_[^@]*\\)@.*/\\1/' ~/services/forge";
    let credential = does(&house, "iris", "cat ~/services/forge");
    let secret = does(&house, "iris", SECRET);
    let is_back = |how: &str| {
        until(how, || {
            let read = sh(&house, "iris", SECRET);
            let works = "git clone -q $ABBEY_GIT_FORGE/notes.git again && rm -rf again";
            read.stdout == secret.as_bytes() && sh(&house, "iris", works).status.success()
        });
    };
    let other = credential.replace("abbey_sv_", "abbey_sv_old");
    let stale =
        format!("cd ~/services && rm -f forge && printf '%s' '{other}' > forge && chmod 644 forge");
    for (lost, command) in [
        ("rm ~/services/forge", "restart iris"),
        ("rm -r ~/services", "restart iris"),
        (stale.as_str(), "restart iris"),
        ("rm ~/services/forge", "agent rotate iris"),
        (stale.as_str(), "up --yes"),
    ] {
        does(&house, "iris", lost);
        house.expect(0, command);
        is_back(command);
    }
    // The copy of the control plane is as old as the files of the agent.
    let copy = house.home().join("agents/iris/service-forge");
    let text = std::fs::read_to_string(&copy).unwrap();
    let older = text.replace("abbey_sv_", "abbey_sv_older");
    std::fs::write(&copy, &older).unwrap();
    house.expect(0, "restart iris");
    // Not with git, which removes a credential that is refused.
    let works = format!(
        "curl -fsS -u iris:$({SECRET}) \"$ABBEY_GIT_FORGE/notes.git/info/refs?service=git-upload-pack\""
    );
    until("the service accepts what the agent has", || {
        sh(&house, "iris", &works).status.success()
    });
    let older_secret = secret.replace("abbey_sv_", "abbey_sv_older");
    assert_eq!(does(&house, "iris", SECRET), older_secret);
}
