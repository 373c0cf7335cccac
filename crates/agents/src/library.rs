//! The skill library: built-in skills, those of a directory, and the settings of its `library.yaml`
//! (S4-11, S4-26, S3-18).

use crate::skill::{InvalidSkill, STOCK, Skill, load_skill, parse_skill};
use abbey_support::beneath::DirHandle;
use abbey_support::input::{read_input, read_input_text};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Name of the settings file in the directory of skills.
const LIST: &str = "library.yaml";
/// Largest settings file, bytes.
const LIST_MAX: u64 = 1 << 20;
/// Most files of a skill.
const FILES_MAX: usize = 1000;
/// Largest total size of a skill's files, bytes.
const BYTES_MAX: u64 = 16 << 20;
/// Deepest directory of a skill.
const DEPTH_MAX: usize = 8;

/// Content of `library.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Library {
    #[serde(default)]
    skills: BTreeMap<String, Listed>,
}

/// Settings of one skill in `library.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Listed {
    /// Directory of the skill, relative to the settings file; its name by default.
    path: Option<PathBuf>,
    /// Version that the skill must have.
    version: Option<String>,
    /// Digest over all files of the skill's directory that it must have.
    hash: Option<String>,
    /// Person or team responsible for the skill.
    owner: Option<String>,
    /// Search words of the skill.
    tags: Vec<String>,
    /// Whether the skill is available in this house.
    enabled: Option<bool>,
}

/// The built-in skills: their text never changes.
static STOCK_SKILLS: LazyLock<Vec<Result<Skill, InvalidSkill>>> = LazyLock::new(|| {
    let parsed = STOCK
        .iter()
        .map(|(name, text)| parse_skill(name, text, None));
    parsed.collect()
});

/// The built-in skills.
pub fn stock_skills() -> impl Iterator<Item = &'static Skill> {
    STOCK_SKILLS.iter().flatten()
}

/// Loads every built-in skill and every skill in `dir`, and applies `library.yaml`; returns the
/// valid skills by name, and the errors of the others.
pub fn load_catalogue(dir: &Path) -> (BTreeMap<String, Skill>, Vec<InvalidSkill>) {
    let mut invalid = Vec::new();
    let list = match read_library_file(&dir.join(LIST)) {
        Ok(list) => list,
        Err(why) => {
            // What a list that cannot be read would have refused is not let through.
            invalid.push(InvalidSkill {
                name: LIST.to_owned(),
                mistakes: vec![why],
            });
            return (BTreeMap::new(), invalid);
        }
    };
    let mut skills: BTreeMap<String, Skill> = BTreeMap::new();
    let own = fs::read_dir(dir).into_iter().flatten().flatten();
    let own = own.map(|e| e.path()).filter(|p| p.is_dir());
    let listed = list
        .skills
        .values()
        .filter_map(|l| Some(dir.join(l.path.as_ref()?)));
    let stock = STOCK_SKILLS.iter().cloned();
    for outcome in stock.chain(own.chain(listed).map(|path| load_skill(&path))) {
        match outcome {
            Ok(skill) => drop(skills.insert(skill.name.clone(), skill)),
            Err(error) => invalid.push(error),
        }
    }
    for (name, listed) in list.skills {
        if listed.enabled == Some(false) {
            skills.remove(&name);
            continue;
        }
        let mut mistakes = Vec::new();
        let Some(skill) = skills.get_mut(&name) else {
            let mistakes = vec![format!("`{LIST}` lists it, and it is not there")];
            invalid.push(InvalidSkill { name, mistakes });
            continue;
        };
        if let Some(wanted) = &listed.version
            && skill.version.as_ref() != Some(wanted)
        {
            let is = skill.version.as_deref().unwrap_or("none");
            mistakes.push(format!(
                "`{LIST}` requires version {wanted}, but the skill has version {is}"
            ));
        }
        if let Some(wanted) = &listed.hash
            && *wanted != skill.hash
        {
            mistakes.push(format!(
                "`{LIST}` requires the digest {wanted}, but the skill has the digest {}",
                skill.hash
            ));
        }
        if mistakes.is_empty() {
            skill.owner = listed.owner;
            skill.tags.extend(listed.tags);
            skill.tags.sort();
            skill.tags.dedup();
        } else {
            // Another than was agreed on is not run.
            skills.remove(&name);
            invalid.push(InvalidSkill { name, mistakes });
        }
    }
    (skills, invalid)
}

fn read_library_file(path: &Path) -> Result<Library, String> {
    let told = |e: std::io::Error| format!("`{}` cannot be read: {e}", path.display());
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Library {
                skills: BTreeMap::new(),
            });
        }
        Err(e) => return Err(told(e)),
        Ok(meta) if meta.len() > LIST_MAX => {
            return Err(format!(
                "`{}` is larger than {LIST_MAX} bytes",
                path.display()
            ));
        }
        Ok(_) => {}
    }
    let text = read_input_text(path, LIST_MAX).map_err(|e| told(e.into()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("`{}`: {e}", path.display()))
}

/// SHA-256 digest over every file of a skill's directory, with its path and executable bit.
///
/// # Errors
/// If a file is not regular, or the files exceed the limits on number and size.
pub(crate) fn skill_digest(dir: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    collect(dir, Path::new(""), 0, &mut files)?;
    files.sort();
    let (mut all, mut bytes) = (Sha256::new(), 0);
    for path in files {
        let full = dir.join(&path);
        let told = |e: std::io::Error| format!("`{}`: {e}", full.display());
        let meta = fs::symlink_metadata(&full).map_err(told)?;
        bytes += meta.len();
        if bytes > BYTES_MAX {
            return Err(format!("its files have more than {BYTES_MAX} bytes"));
        }
        use std::os::unix::fs::PermissionsExt;
        let runs = meta.permissions().mode() & 0o111 != 0;
        let content = Sha256::digest(read_input(&full, BYTES_MAX).map_err(|e| told(e.into()))?);
        all.update(path.as_os_str().as_encoded_bytes());
        all.update([0, u8::from(runs)]);
        all.update(content);
    }
    Ok(abbey_support::digest::hex(all.finalize()))
}

/// A file of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillFile {
    /// Path relative to the skill's directory.
    pub path: PathBuf,
    /// Size, bytes.
    pub bytes: u64,
    /// Whether it can be run as a program.
    pub executable: bool,
}

/// Files of a skill by path; none for a built-in skill.
///
/// # Errors
/// As for the digest of the skill.
pub fn list_skill_files(skill: &Skill) -> Result<Vec<SkillFile>, String> {
    use std::os::unix::fs::PermissionsExt;
    let Some(dir) = &skill.directory else {
        return Ok(Vec::new());
    };
    let mut paths = Vec::new();
    collect(dir, Path::new(""), 0, &mut paths)?;
    paths.sort();
    let file = |path: PathBuf| {
        let meta = fs::symlink_metadata(dir.join(&path));
        let meta = meta.map_err(|e| format!("`{}`: {e}", path.display()))?;
        Ok(SkillFile {
            bytes: meta.len(),
            executable: meta.permissions().mode() & 0o111 != 0,
            path,
        })
    };
    paths.into_iter().map(file).collect()
}

/// Content of one file of a skill. The path is relative to the skill's directory and leads through no links.
///
/// # Errors
/// A sentence that names the path.
pub fn read_skill_file(skill: &Skill, path: &str) -> Result<Vec<u8>, String> {
    let Some(dir) = &skill.directory else {
        return Err(format!(
            "skill `{}` is built in and has no files",
            skill.name
        ));
    };
    let failed = |e: std::io::Error| format!("`{path}` of skill `{}`: {e}", skill.name);
    let dir = DirHandle::open_trusted(dir).map_err(failed)?;
    let file = fs::File::from(dir.open_entry(path).map_err(failed)?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("`{path}` of skill `{}` is not a file", skill.name));
    }
    let mut content = Vec::new();
    let read = file.take(BYTES_MAX + 1).read_to_end(&mut content);
    match read.map_err(failed)? as u64 > BYTES_MAX {
        true => Err(format!("`{path}` has more than {BYTES_MAX} bytes")),
        false => Ok(content),
    }
}

/// Path of a skill's directory below the catalogue `dir`, of which a cell has a mount; `None` where it lies elsewhere.
pub fn path_in_catalogue(dir: &Path, skill: &Skill) -> Option<PathBuf> {
    let own = skill.directory.as_ref()?.canonicalize().ok()?;
    let below = own.strip_prefix(dir.canonicalize().ok()?).ok()?;
    (below != Path::new("")).then(|| below.to_owned())
}

fn collect(
    root: &Path,
    below: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), String> {
    let dir = root.join(below);
    let entries = fs::read_dir(&dir).map_err(|e| format!("`{}`: {e}", dir.display()))?;
    for entry in entries {
        let entry = entry.map_err(|e| format!("`{}`: {e}", dir.display()))?;
        let path = below.join(entry.file_name());
        let kind = entry
            .file_type()
            .map_err(|e| format!("`{}`: {e}", path.display()))?;
        if kind.is_dir() && depth < DEPTH_MAX {
            collect(root, &path, depth + 1, files)?;
        } else if kind.is_file() {
            files.push(path);
        } else {
            return Err(format!(
                "`{}` is no plain file; a link may lead anywhere",
                path.display()
            ));
        }
        if files.len() > FILES_MAX {
            return Err(format!("it has more than {FILES_MAX} files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, version: &str) {
        let at = dir.join(name);
        fs::create_dir_all(&at).unwrap();
        let text = format!(
            "---\nname: {name}\ndescription: d\nmetadata:\n  version: \"{version}\"\n  tags: water tide\n---\n"
        );
        fs::write(at.join("SKILL.md"), text).unwrap();
    }

    #[test]
    fn a_list_pins_names_finds_and_takes_away() {
        let dir = tempfile::tempdir().unwrap();
        let (here, elsewhere) = (dir.path().join("skills"), dir.path().join("elsewhere"));
        put(&here, "tides", "2");
        put(&elsewhere, "charts", "1");
        let list = |text: &str| {
            fs::write(here.join(LIST), text).unwrap();
            load_catalogue(&here)
        };
        let (skills, invalid) = list(
            "skills:\n  tides: { version: \"2\", owner: harbour, tags: [sea] }\n  charts: { path: ../elsewhere/charts }\n  disk-usage: { enabled: false }\n",
        );
        assert!(invalid.is_empty(), "{invalid:?}");
        assert_eq!(
            (
                skills["tides"].owner.as_deref(),
                skills["tides"].tags.join(" ")
            ),
            (Some("harbour"), "sea tide water".to_owned())
        );
        assert!(skills.contains_key("charts") && !skills.contains_key("disk-usage"));
        // A program that was changed is another digest, also when the text is the same.
        let hash = skills["tides"].hash.clone();
        let pin = format!("skills:\n  tides: {{ hash: {hash} }}\n");
        assert!(list(&pin).1.is_empty());
        fs::write(here.join("tides/run.sh"), "#!/bin/sh\n").unwrap();
        let (skills, invalid) = list(&pin);
        assert!(
            !skills.contains_key("tides") && invalid[0].to_string().contains("requires the digest"),
            "{invalid:?}"
        );
        let (_, invalid) = list("skills:\n  tides: { version: \"3\" }\n  none: {}\n");
        assert_eq!(invalid.len(), 2, "{invalid:?}");
        // What cannot be read lets nothing through.
        let (skills, invalid) = list("skills: [tides]\n");
        assert!(skills.is_empty() && invalid.len() == 1);
        // A link could lead anywhere, and change what is run without changing the skill.
        std::os::unix::fs::symlink("/bin/sh", here.join("tides/link")).unwrap();
        let (skills, invalid) = list("skills: {}\n");
        assert!(!skills.contains_key("tides") && invalid[0].to_string().contains("no plain file"));
    }
}
