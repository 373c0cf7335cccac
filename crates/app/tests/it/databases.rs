//! A real PostgreSQL in a cell: a database for each agent, skills that work on it, and what happens to it when its agent
//! is removed (S1-17 to S1-19, S2-05, S4-25).

use crate::up;
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::crash::arm_crash_point;
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::process::Output;

const MANIFEST: &str = "house: data
services:
  db: { kind: postgres }
agents:
  iris: { template: db-admin, uses: [db] }
  otto: { template: db-admin, uses: [db] }
  sys: { template: sysadmin }
";

/// Directory of the programs of PostgreSQL, as on Debian.
fn program(name: &str) -> String {
    let bin = abbey_services::postgres::find_programs(None).expect("PostgreSQL is installed");
    bin.join(name).display().to_string()
}

fn psql(house: &House, agent: &str, more: &[&str], sql: &str) -> Output {
    let psql = program("psql");
    let mut args = vec!["exec", agent, "--", &psql, "-XAtq", "-v", "ON_ERROR_STOP=1"];
    args.extend(more);
    args.extend(["-c", sql]);
    house.run(&args)
}

fn query(house: &House, agent: &str, sql: &str) -> String {
    let done = psql(house, agent, &[], sql);
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{sql}: {err}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn refused(house: &House, agent: &str, more: &[&str]) -> String {
    let done = psql(house, agent, more, "SELECT 1");
    assert!(!done.status.success(), "{agent} came in with {more:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// A house in which both agents have their database.
fn open() -> House {
    let house = up(MANIFEST);
    until("both have a database", || {
        house.audit_entries("service.open").len() == 2
    });
    house
}

fn work(house: &House, code: i32, agent: &str, text: &str) -> Value {
    let doc = house.json(code, args!("task add {} --to {} --wait", text, agent));
    doc["task"].clone()
}

fn said(task: &Value) -> String {
    let result = task["result"]["text"].as_str();
    result
        .or(task["failure"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// The first process below this one whose program has this name.
fn process_below(pid: i32, name: &str) -> Option<i32> {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if comm.trim() == name {
        return Some(pid);
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let mut children = children.split_whitespace().filter_map(|p| p.parse().ok());
    children.find_map(|child| process_below(child, name))
}

/// The kernel still accepts connections for a server that is stopped.
#[test]
fn a_stopped_server_is_not_ready() {
    use rustix::process::{Pid, Signal, kill_process};
    let house = open();
    let db = || house.json(0, "ps")["services"][0].clone();
    assert_eq!(db()["presence"], "ready");
    let pid = i32::try_from(db()["pid"].as_i64().unwrap()).unwrap();
    let server = process_below(pid, "postgres").unwrap();
    let send = |signal| kill_process(Pid::from_raw(server).unwrap(), signal).unwrap();
    send(Signal::STOP);
    until("it does not answer", || {
        db()["healthy"] == false && db()["presence"] == "down"
    });
    let cause = format!("(process {server}) is stopped by a signal; `kill -CONT {server}`");
    for command in ["ps", "service list", "why db", "doctor"] {
        let shown = house.expect(0, command);
        assert!(shown.contains(&cause), "{command}: {shown}");
    }
    send(Signal::CONT);
    until("it answers again", || db()["presence"] == "ready");
    assert_eq!(db()["restarts"], 0);
}

#[test]
fn each_agent_has_its_database_and_cannot_connect_to_others() {
    let house = open();
    assert_eq!(
        query(
            &house,
            "iris",
            "SELECT current_database() || ' ' || current_user"
        ),
        "ab_iris ab_iris"
    );
    assert_eq!(
        query(&house, "otto", "SELECT current_database()"),
        "ab_otto"
    );
    query(
        &house,
        "iris",
        "CREATE TABLE secrets (v text); INSERT INTO secrets VALUES ('mine')",
    );
    // Neither another's database nor the server's own, neither as oneself nor as somebody else.
    for name in ["ab_iris", "postgres", "template1"] {
        let told = refused(&house, "otto", &["-d", name]);
        assert!(told.contains("permission denied for database"), "{told}");
    }
    let told = refused(&house, "otto", &["-d", "ab_iris", "-U", "ab_iris"]);
    assert!(told.contains("no password supplied"), "{told}");
    let told = refused(&house, "otto", &["-U", "abbey", "-d", "postgres"]);
    assert!(told.contains("pg_hba.conf rejects connection"), "{told}");
    // Nobody comes without TLS, and who has no database comes not at all.
    let told = refused(&house, "otto", &["-d", "dbname=ab_otto sslmode=disable"]);
    assert!(told.contains("no encryption"), "{told}");
    assert!(
        !house
            .run("exec sys -- ls /agent/home/services")
            .status
            .success()
    );
    // No right beyond its own database.
    for sql in [
        "CREATE DATABASE more",
        "CREATE ROLE more",
        "COPY (SELECT 1) TO PROGRAM 'id'",
    ] {
        assert!(!psql(&house, "otto", &[], sql).status.success(), "{sql}");
    }
    let services = house.json(0, "service list");
    assert_eq!(
        services["services"][0]["consumers"],
        serde_json::json!(["iris", "otto"])
    );
    // The credential is in its agent's home, and in no log, no entry and no list of processes.
    let secret = house.expect(0, "exec iris -- cat /agent/home/services/db");
    let secret = secret.trim().rsplit(':').next().unwrap().to_owned();
    assert!(secret.starts_with("abbey_sv_"));
    let mut told = house.expect(0, "activity export");
    told += &house.expect(0, "service logs db");
    told += &house.control_plane_log();
    assert!(!told.contains(&secret));
}

#[test]
fn skills_migrate_back_up_vacuum_and_restore_a_database() {
    let house = open();
    house.write_agent_file("iris",
        "migrations/1_stock.sql",
        "CREATE TABLE stock (id int PRIMARY KEY, what text);\nINSERT INTO stock VALUES (1, 'it''s a pump');\n",
    );
    house.write_agent_file(
        "iris",
        "migrations/02_more.sql",
        "INSERT INTO stock SELECT g, 'bolt' FROM generate_series(2, 1000) g;\n",
    );
    let done = work(&house, 0, "iris", "migrate the database");
    assert_eq!(done["verified"], "skill");
    assert_eq!(said(&done), "applied to ab_iris: 1_stock.sql, 02_more.sql");
    let again = work(&house, 0, "iris", "migrate the database");
    assert_eq!(
        said(&again),
        "ab_iris is up to date: 2 migrations, none new"
    );
    let backed = work(&house, 0, "iris", "back up the database");
    let backup = backed["result"]["data"]["backup"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(backup.starts_with("backups/db/ab_iris@"), "{backup}");
    query(
        &house,
        "iris",
        "DELETE FROM stock WHERE id > 10; CREATE TABLE later (x int)",
    );
    let vacuumed = said(&work(&house, 0, "iris", "vacuum the database"));
    assert!(
        vacuumed.starts_with("vacuumed ab_iris: 3 tables"),
        "{vacuumed}"
    );
    // What replaces everything asks first, and says what it would do.
    let task = work(
        &house,
        5,
        "iris",
        &format!("restore the database from {backup}"),
    );
    assert_eq!(task["state"], "awaiting_approval");
    let inbox = house.expect(0, "approvals");
    for part in [
        "skill:db-restore",
        "ab_iris is replaced by",
        "stock (10 rows)",
    ] {
        assert!(inbox.contains(part), "{part}: {inbox}");
    }
    assert_eq!(query(&house, "iris", "SELECT count(*) FROM stock"), "10");
    house.expect(0, "approvals approve APPR-1");
    let number = task["number"].as_str().unwrap();
    house.wait_for_task(number, TaskState::Done);
    assert_eq!(query(&house, "iris", "SELECT count(*) FROM stock"), "1000");
    // The state before lies in a backup of its own.
    let kept = house.expect(0, "exec iris -- ls backups/db");
    assert_eq!(kept.lines().count(), 2, "{kept}");
    // A no is a no.
    let task = work(
        &house,
        5,
        "iris",
        &format!("restore the database from {backup}"),
    );
    house.expect(0, "approvals deny APPR-2 --note 'not today'");
    let number = task["number"].as_str().unwrap();
    house.wait_for_task(number, TaskState::Failed);
    assert!(
        house
            .json(0, args!("task show {}", number))
            .to_string()
            .contains("not today")
    );
}

#[test]
fn a_migration_is_atomic() {
    let house = open();
    house.write_agent_file("iris", "migrations/1_a.sql", "CREATE TABLE a (x int);\n");
    work(&house, 0, "iris", "migrate the database");
    let fails = |text: &str, name: &str, content: &str| {
        house.write_agent_file("iris", &format!("migrations/{name}"), content);
        let told = said(&work(&house, 1, "iris", "migrate the database"));
        assert!(told.contains(text), "{text}: {told}");
    };
    fails(
        "was changed after it was applied",
        "1_a.sql",
        "CREATE TABLE a (x bigint);\n",
    );
    house.write_agent_file("iris", "migrations/1_a.sql", "CREATE TABLE a (x int);\n");
    fails(
        "syntax error",
        "2_b.sql",
        "CREATE TABLE b (x int);\nCREATE TABEL c ();\n",
    );
    fails(
        "syntax error",
        "2_b.sql",
        "CREATE TABLE b (x int);\n\\! touch escaped\n",
    );
    for ends_itself in [
        "CREATE TABLE b (x int); COMMIT; BEGIN; SELECT 2;\n",
        "CREATE TABLE b (x int);\ncommit;\nINSERT INTO nowhere VALUES (2);\n",
        "ROLLBACK; CREATE TABLE b (x int);\n",
        "ROLLBACK; BEGIN; CREATE TABLE b (x int); COMMIT;\n",
        "CREATE TABLE b (x int); END; CREATE TABLE c (x int);\n",
        "CREATE TABLE b (x int); PREPARE TRANSACTION 'b';\n",
        "CREATE TABLE b (x int); DO $$ BEGIN COMMIT; END $$;\n",
    ] {
        fails("ends its own transaction", "2_b.sql", ends_itself);
    }
    fails("write `INSERT`", "2_b.sql", "COPY a FROM stdin;\n");
    assert_eq!(
        query(
            &house,
            "iris",
            "SELECT count(*) FROM pg_tables WHERE tablename IN ('b', 'c')"
        ),
        "0"
    );
    assert!(!house.run("exec iris -- test -e escaped").status.success());
    // The server goes away in the middle of one: nothing of it is there, and it is applied when it is back.
    house.write_agent_file(
        "iris",
        "migrations/2_b.sql",
        "CREATE TABLE b (x int);\nSELECT pg_sleep(600);\n",
    );
    let task = house.json(0, "task add 'migrate the database' --to iris");
    let number = task["task"]["number"].as_str().unwrap();
    until("it is in the middle", || {
        query(
            &house,
            "iris",
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()",
        ) == "1"
    });
    house.expect(0, "service restart db");
    house.wait_for_task(number, TaskState::Failed);
    until("the server is back", || {
        psql(&house, "iris", &[], "SELECT 1").status.success()
    });
    assert_eq!(
        query(
            &house,
            "iris",
            "SELECT count(*) FROM pg_tables WHERE tablename = 'b'"
        ),
        "0"
    );
    let several = "-- It has 'quotes', $$ and :variables.
CREATE TABLE b (x int);
INSERT INTO b VALUES (1);
CREATE FUNCTION one() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT x FROM b); END $$;
DO $$ BEGIN INSERT INTO b VALUES (one() + 1); END $$;
";
    house.write_agent_file("iris", "migrations/2_b.sql", several);
    house.write_agent_file("iris", "migrations/3_none.sql", "-- Nothing yet.\n");
    let done = work(&house, 0, "iris", "migrate the database");
    assert_eq!(said(&done), "applied to ab_iris: 2_b.sql, 3_none.sql");
    assert_eq!(query(&house, "iris", "SELECT sum(x) FROM b"), "3");
}

#[test]
fn a_removed_agents_database_is_kept_for_its_retention_time() {
    let house = open();
    query(&house, "otto", "CREATE TABLE t AS SELECT 7 AS seven");
    let without = MANIFEST.replace(
        "otto: { template: db-admin, uses: [db] }",
        "otto: { template: db-admin }",
    );
    house.manifest(&without);
    house.expect(0, "up");
    until("otto is out", || {
        house.audit_entries("service.close").len() == 1
    });
    let closed = &house.audit_entries("service.close")[0]["detail"];
    let backup = closed["backup"].as_str().unwrap();
    assert!(house.home().join("services/db").join(backup).is_file());
    assert!(
        !house
            .run("exec otto -- test -e /agent/home/services/db")
            .status
            .success()
    );
    // Within the time of grace it is all there again, under a credential of its own.
    house.manifest(MANIFEST);
    house.expect(0, "up");
    until("otto is in again", || {
        house.audit_entries("service.open").len() == 3
    });
    assert_eq!(query(&house, "otto", "SELECT seven FROM t"), "7");
    // After it, the database goes, and the last backup stays.
    let gone = without.replace("kind: postgres", "kind: postgres, grace: 1ms");
    house.manifest(&gone);
    house.expect(0, "up");
    until("it is gone", || {
        house.audit_entries("service.drop").len() == 1
    });
    let names = query(
        &house,
        "iris",
        "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE NOT datistemplate",
    );
    assert_eq!(names, "ab_iris,postgres");
    let dropped = &house.audit_entries("service.drop")[0]["detail"];
    assert!(
        house
            .home()
            .join("services/db")
            .join(dropped["backup"].as_str().unwrap())
            .is_file()
    );
    // A service that somebody uses does not go.
    house.manifest(&gone.replace("services:\n  db: { kind: postgres, grace: 1ms }\n", ""));
    assert!(
        house
            .expect_refusal(2, "up")
            .contains("agent `iris` uses the service `db`, which is not declared")
    );
}

#[test]
fn a_service_restart_needs_an_approval_that_names_its_consumers() {
    let house = open();
    let task = work(&house, 5, "sys", "restart the service db");
    assert_eq!(task["state"], "awaiting_approval");
    let inbox = house.expect(0, "approvals");
    assert!(
        inbox.contains("iris, otto cannot use it during the restart"),
        "{inbox}"
    );
    house.expect(0, "approvals approve APPR-1");
    let number = task["number"].as_str().unwrap();
    house.wait_for_task(number, TaskState::Done);
    until("it boots anew", || {
        house.json(0, "service list")["services"][0]["generation"] == 2
    });
    let restarts = house.audit_entries("service.restart");
    assert_eq!(
        (restarts.len(), &restarts[0]["actor"]),
        (1, &Value::from("agent:sys"))
    );
    // An agent that was not granted it has no way to it, whatever it says.
    let token = house.agent_token("iris");
    assert!(!token.is_empty());
    let told = house.expect(0, args!("exec iris -- sh -c {}", "curl -s -X POST -H \"Authorization: Bearer $(cat $ABBEY_TOKEN_FILE)\" -H 'content-type: application/json' -d '{}' $ABBEY_URL/api/v1/self/operations/service-restart"));
    assert!(
        told.contains("no running task of agent `iris` uses a skill that is granted the operation `service-restart`"),
        "{told}"
    );
    let task = work(&house, 1, "sys", "restart the agent sys");
    assert!(
        said(&task).contains("would interrupt the task that requested it"),
        "{}",
        said(&task)
    );
}

/// The server is killed together with its cell while it works: it restarts, and committed data is there.
#[test]
fn a_killed_database_server_restarts_with_committed_data() {
    let house = open();
    query(&house, "iris", "CREATE TABLE t (n int)");
    for n in 1..=2u64 {
        query(&house, "iris", &format!("INSERT INTO t VALUES ({n})"));
        let pid = house.json(0, "service list")["services"][0]["pid"].as_i64();
        kill(i32::try_from(pid.unwrap()).unwrap());
        until("it boots anew", || {
            house.json(0, "service list")["services"][0]["generation"] == n + 1
        });
        until("it answers", || {
            psql(&house, "iris", &[], "SELECT 1").status.success()
        });
        assert_eq!(
            query(&house, "iris", "SELECT count(*) FROM t"),
            n.to_string()
        );
    }
}

/// A crash at every named step of granting and dropping a database leads to the same end.
#[test]
fn a_crash_while_granting_a_database_is_recovered() {
    for place in [
        "consumer.open.begin",
        "consumer.open.brought",
        "consumer.open.end",
    ] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        house.manifest(MANIFEST);
        arm_crash_point(&armed);
        let _may_be_cut_off = house.run("up");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        house.expect(0, "up");
        until("both come in", || {
            ["iris", "otto"]
                .iter()
                .all(|a| psql(&house, a, &[], "SELECT 1").status.success())
        });
        assert_eq!(house.json(0, "activity verify")["ok"], true, "{place}");
    }
}

#[test]
fn a_crash_while_dropping_a_database_is_recovered() {
    for place in [
        "consumer.close.begin",
        "consumer.close.end",
        "consumer.drop.begin",
        "consumer.drop.end",
    ] {
        let (mut house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), place);
        let short = MANIFEST.replace("kind: postgres", "kind: postgres, grace: 1ms");
        house.manifest(&short);
        house.expect(0, "up");
        until("both have a database", || {
            house.audit_entries("service.open").len() == 2
        });
        arm_crash_point(&armed);
        house.manifest(&short.replace(
            "otto: { template: db-admin, uses: [db] }",
            "otto: { template: db-admin }",
        ));
        let _may_be_cut_off = house.run("up");
        until("the place was passed", || !armed.exists());
        house.crash_at = None;
        until("it is up again", || house.run("up").status.success());
        let gone = "SELECT count(*) FROM pg_database WHERE datname = 'ab_otto'";
        until("what was left is gone", || {
            let done = psql(&house, "iris", &[], gone);
            done.status.success() && done.stdout == b"0\n"
        });
        let kept = std::fs::read_dir(house.home().join("services/db/backups")).unwrap();
        assert!(kept.count() >= 1, "{place}: no backup is left");
        assert_eq!(house.json(0, "activity verify")["ok"], true, "{place}");
    }
}

/// A backup with services while two agents write: what comes back is a moment of the running database, with everything
/// that was committed before the backup began, and no half of a transaction.
#[test]
fn databases_that_are_written_to_come_back_whole_from_a_backup() {
    let agents = ["iris", "otto"];
    let house = open();
    let count = |house: &House, agent: &str| -> u64 {
        let text = query(house, agent, "SELECT count(*) FROM pairs");
        text.parse().unwrap()
    };
    let table = "CREATE TABLE pairs (n int, half text, PRIMARY KEY (n, half))";
    // Each transaction adds both halves of a pair.
    let write = "DO $$ BEGIN FOR i IN 1..10000000 LOOP INSERT INTO pairs VALUES (i, 'a'); INSERT INTO pairs VALUES (i, 'b'); COMMIT; END LOOP; END $$";
    let psql = program("psql");
    let mut writers: Vec<_> = agents
        .iter()
        .map(|agent| {
            query(&house, agent, table);
            let args = ["exec", *agent, "--", &psql, "-XAtq", "-c", write];
            house.command(&args).spawn().unwrap()
        })
        .collect();
    until("both write", || {
        agents.iter().all(|a| count(&house, a) > 200)
    });
    let before: Vec<u64> = agents.iter().map(|a| count(&house, a)).collect();
    let archive = house.path("b.tar").display().to_string();
    house.expect(0, args!("backup --with-services {}", archive));
    let copied: Vec<u64> = agents.iter().map(|a| count(&house, a)).collect();
    until("both go on", || {
        let counts = agents.iter().zip(&copied);
        counts
            .into_iter()
            .all(|(a, copied)| count(&house, a) > *copied)
    });
    for writer in &mut writers {
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    let checked = crate::house().json(0, args!("backup verify {}", archive));
    assert_eq!(checked["services"], serde_json::json!(["db"]));
    house.expect(0, "down");

    let again = crate::house();
    again.expect(0, args!("restore {}", archive));
    let manifest = again.home().join("manifest/abbey.yaml");
    again.expect(0, args!("up -f {}", manifest.display().to_string()));
    for (agent, before) in agents.iter().zip(before) {
        until("the agent comes in", || {
            self::psql(&again, agent, &[], "SELECT 1").status.success()
        });
        let after = count(&again, agent);
        assert!(after >= before, "{agent}: {after} of {before} rows");
        let halves =
            "SELECT count(*) FROM (SELECT n FROM pairs GROUP BY n HAVING count(*) <> 2) AS torn";
        assert_eq!(query(&again, agent, halves), "0", "{agent}");
        let last = query(&again, agent, "SELECT max(n) * 2 FROM pairs");
        assert_eq!(last, after.to_string(), "{agent}: no gap");
        query(
            &again,
            agent,
            "SET enable_seqscan = off; SELECT count(*) FROM pairs WHERE n > 0",
        );
        query(&again, agent, "INSERT INTO pairs VALUES (0, 'after')");
    }
    assert_eq!(again.json(0, "activity verify")["ok"], true);
}
