//! What a backup holds, wherever the files are, and what one that fails leaves.

use crate::backups::restored;
use crate::full_disk::Disk;
use crate::{TWO, house, up};
use abbey_testkit::args;
use std::fs;

/// The content of a file that is no archive is not shown: it may be anything.
#[test]
fn verify_shows_nothing_of_a_file_that_is_no_archive() {
    let house = house();
    fs::write(house.path("secrets"), "s3cret:x\n".repeat(200)).unwrap();
    for command in ["backup verify secrets", "--home fresh restore secrets"] {
        let told = house.expect_refusal(1, command);
        assert!(told.contains("is no archive of Abbey"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[test]
fn a_backup_that_lacks_a_file_with_data_says_so() {
    let house = up(TWO);
    let write =
        "exec abbot -- sh -c 'printf data > vast; truncate -s 2G vast; truncate -s 2G hole'";
    house.expect(0, write);
    let backup = house.json(1, "backup b.tar");
    assert_eq!(backup["complete"], false, "{backup}");
    let notes = backup["notes"].to_string();
    assert!(
        notes.contains("vast") && !notes.contains("hole:"),
        "{backup}"
    );
    assert!(backup["left_out"].to_string().contains("hole"), "{backup}");
    house.expect(0, "exec abbot -- rm vast");
    let backup = house.json(0, "backup c.tar");
    assert_eq!(backup["complete"], true, "{backup}");
}

/// Where the files of an agent are decides what is packed, not what its manifest entry says.
#[test]
fn a_backup_holds_files_wherever_they_are() {
    let house = house();
    if !house.runs_as_root() {
        return;
    }
    let drives = "drives: { state: 16MiB, workspace: 32MiB }";
    house.manifest(&format!("house: drives\nagents:\n  a: {{ template: orchestrator }}\n  zoe: {{ cell: sandbox, template: sysadmin, {drives} }}\n"));
    house.expect(0, "up");
    house.expect(0, "exec zoe -- sh -c 'echo kept > /agent/workspace/note'");
    house.expect(0, "agent rm zoe");
    let removed = fs::read_dir(house.home().join("removed")).unwrap();
    let names = removed.map(|e| e.unwrap().file_name().into_string().unwrap());
    let first = names.collect::<Vec<_>>().remove(0);
    let first = first.strip_prefix("zoe-").unwrap().to_owned();
    // Its entry is gone from the manifest that it comes back with.
    house.manifest("house: drives\nagents:\n  a: { template: orchestrator }\n  zoe: { cell: sandbox, template: sysadmin }\n");
    house.expect(0, "up --yes");
    house.expect(0, "agent rm zoe");
    // Files on drives with the entry of a later removal, as earlier releases restored them.
    let (removed, later) = (house.home().join("removed"), "2100-01-01T00-00-00-000Z");
    let moved = removed.join(format!("zoe-{later}"));
    fs::rename(removed.join(format!("zoe-{first}")), moved).unwrap();
    // It has its files, but does not start without `drives`.
    house.expect_refusal(7, args!("agent restore zoe --at {}", later));
    house.expect(0, "backup b.tar");
    house.expect(0, "backup verify b.tar");
    house.expect(0, "down");
    let archive = house.path("b.tar").display().to_string();
    let (again, _) = restored(&archive, "");
    let note = again.home().join("agents/zoe/workspace/note");
    assert_eq!(fs::read_to_string(note).unwrap(), "kept\n");
}

/// Files that could not move to drives are packed where they are.
#[test]
fn a_backup_holds_files_that_did_not_get_onto_drives() {
    let house = house();
    if !house.runs_as_root() {
        return;
    }
    let manifest = |more: &str| {
        house.manifest(&format!(
            "house: drives\nagents:\n  zoe: {{ cell: sandbox, template: sysadmin{more} }}\n"
        ));
    };
    manifest("");
    house.expect(0, "up");
    let script = "import os\nos.chdir('/agent/workspace')\nopen('note','w').write('kept')\nfor _ in range(25):\n n='d'*200\n os.mkdir(n); os.chdir(n)\n";
    house.expect(0, args!("exec zoe -- python3 -c {}", script));
    manifest(", drives: { state: 16MiB, workspace: 32MiB }");
    let _files_stay = house.run("up --yes");
    assert!(
        !house
            .home()
            .join("agents/zoe/disks/workspace.ext4")
            .exists()
    );
    house.expect(0, "backup b.tar");
    let archive = house.path("b.tar").display().to_string();
    let (again, _) = restored(&archive, "");
    let note = again.home().join("agents/zoe/workspace/note");
    assert_eq!(fs::read_to_string(note).unwrap(), "kept");
}

/// What failed leaves no part of an archive, and no name that is taken.
#[test]
fn a_backup_that_fails_leaves_nothing_at_its_target() {
    let house = up(TWO);
    if !house.runs_as_root() {
        return;
    }
    let disk = house.path("disk");
    let mounted = Disk::mount(disk.clone(), "size=64k");
    let target = disk.join("b.tar").display().to_string();
    let told: Vec<String> = (0..2)
        .map(|_| house.expect_refusal(1, args!("backup {}", target.clone())))
        .collect();
    let left = fs::read_dir(&disk).unwrap().count();
    house.expect(0, "backup whole.tar");
    let archive = house.path("whole.tar").display().to_string();
    let home = disk.join("home").display().to_string();
    let restored = house.expect_refusal(1, args!("--home {} restore {}", home, archive));
    drop(mounted);
    for told in told {
        assert!(
            told.contains("No space left") && told.contains("free some space"),
            "{told}"
        );
    }
    assert_eq!(left, 0);
    assert!(
        restored.contains("full") && !restored.contains("is damaged"),
        "{restored}"
    );
}
