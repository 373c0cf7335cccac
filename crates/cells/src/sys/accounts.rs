//! Users of the host, as its table has them (`passwd(5)`).

/// Line of `/etc/passwd`.
pub(crate) struct PasswdEntry {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) home: String,
}

/// First account in `/etc/passwd` for which `fits` returns true.
pub(crate) fn find_account(fits: impl Fn(&PasswdEntry) -> bool) -> Option<PasswdEntry> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, home, ..] = fields[..] else {
            return None;
        };
        Some(PasswdEntry {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            home: home.to_owned(),
        })
    };
    table.lines().filter_map(line).find(fits)
}
