//! Which file of a crate imports which, read from its syntax.
//!
//! A node is a file; an inline module belongs to the file that holds it. An edge is a `use` tree or a path that begins
//! with `crate`, `super`, `self` or the name of a child module, also inside the arguments of a macro. Names that a
//! module re-exports lead to the file that defines them, so a `lib.rs` that only re-exports is in no cycle.
//! Code under `#[cfg(test)]` does not count.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;

/// Path of a module from the root of its crate; the root itself is empty.
type ModulePath = Vec<String>;

/// Longest chain of re-exports that is followed.
const REEXPORTS_MAX: usize = 8;

/// Files of one crate and their imports.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Name of the crate's folder, with the target where it is not the library.
    pub(crate) name: String,
    /// Paths of the files, relative to the folder of the crate's root file.
    pub(crate) files: Vec<PathBuf>,
    /// Folder of each file: the first part of its module path, empty for the root file.
    pub(crate) folders: Vec<String>,
    /// Pairs of importing and imported file, as indices into `files`.
    pub(crate) edges: BTreeSet<(usize, usize)>,
}

impl Graph {
    /// Reads the import graph of the crate whose root file is `root`.
    ///
    /// # Errors
    /// When a file can't be read or parsed.
    pub(crate) fn read(name: &str, root: &Path) -> Result<Graph, String> {
        let mut crate_ = Crate::default();
        let dir = root.parent().unwrap_or(Path::new("."));
        crate_.load(dir, root, &Vec::new())?;
        let edges = crate_.edges();
        Ok(Graph {
            name: name.to_owned(),
            files: crate_.files.iter().map(|f| relative(f, dir)).collect(),
            folders: crate_.folders,
            edges,
        })
    }

    /// Number of imports (pairs of files) from each folder of the crate to each other folder.
    pub(crate) fn folder_edges(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for &(from, to) in &self.edges {
            let pair = (self.folders[from].clone(), self.folders[to].clone());
            if pair.0 != pair.1 {
                *counts.entry(pair).or_default() += 1;
            }
        }
        counts
    }

    /// Import cycles of the crate: groups of at least two files that reach each other, largest first.
    pub(crate) fn cycles(&self) -> Vec<Vec<&Path>> {
        let count = self.files.len();
        let mut next = vec![Vec::new(); count];
        for &(from, to) in &self.edges {
            next[from].push(to);
        }
        let reach: Vec<Vec<bool>> = (0..count).map(|start| reachable(&next, start)).collect();
        let mut seen = vec![false; count];
        let mut cycles = Vec::new();
        for start in 0..count {
            if seen[start] {
                continue;
            }
            let group: Vec<usize> = (start..count)
                .filter(|&other| reach[start][other] && reach[other][start])
                .collect();
            group.iter().for_each(|&file| seen[file] = true);
            if group.len() > 1 {
                cycles.push(group.iter().map(|&f| self.files[f].as_path()).collect());
            }
        }
        cycles.sort_by_key(|c: &Vec<&Path>| std::cmp::Reverse(c.len()));
        cycles
    }
}

fn reachable(next: &[Vec<usize>], start: usize) -> Vec<bool> {
    let mut reached = vec![false; next.len()];
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for &to in &next[file] {
            if !std::mem::replace(&mut reached[to], true) {
                open.push(to);
            }
        }
    }
    reached
}

fn relative(path: &Path, base: &Path) -> PathBuf {
    path.strip_prefix(base).unwrap_or(path).to_owned()
}

/// Root files of a crate in the folder `dir`: library or main program first, then further programs and test targets.
pub(crate) fn crate_root_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let name = dir
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut found = Vec::new();
    for file in ["src/lib.rs", "src/main.rs"] {
        let path = dir.join(file);
        if path.exists() {
            found.push((name.clone(), path));
        }
    }
    for (folder, title) in [("src/bin", "bin"), ("tests", "tests")] {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir.join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| match e.path().is_dir() {
                true => e.path().join("main.rs"),
                false => e.path(),
            })
            .filter(|p| p.exists() && p.extension().is_some_and(|e| e == "rs"))
            .collect();
        entries.sort();
        found.extend(entries.into_iter().map(|p| (format!("{name}/{title}"), p)));
    }
    found
}

#[derive(Debug, Default)]
struct Module {
    file: usize,
    /// Names that `use` brings into the module, with the path that each stands for.
    names: BTreeMap<String, Vec<String>>,
    /// Paths of glob imports.
    globs: Vec<Vec<String>>,
    /// Items defined in the module.
    items: BTreeSet<String>,
}

#[derive(Debug)]
struct Reference {
    module: ModulePath,
    file: usize,
    segments: Vec<String>,
}

#[derive(Debug, Default)]
struct Crate {
    files: Vec<PathBuf>,
    folders: Vec<String>,
    modules: BTreeMap<ModulePath, Module>,
    references: Vec<Reference>,
}

impl Crate {
    /// Reads a file and every file below it. `dir` is where the files of its child modules are.
    fn load(&mut self, dir: &Path, path: &Path, module: &ModulePath) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|e| format!("`{}`: {e}", path.display()))?;
        let parsed = syn::parse_file(&text)
            .map_err(|e| format!("`{}`, line {}: {e}", path.display(), e.span().start().line))?;
        let file = self.files.len();
        self.files.push(path.to_owned());
        self.folders
            .push(module.first().cloned().unwrap_or_default());
        self.items(&parsed.items, file, dir, module)
    }

    fn items(
        &mut self,
        items: &[syn::Item],
        file: usize,
        dir: &Path,
        module: &ModulePath,
    ) -> Result<(), String> {
        self.modules.insert(
            module.clone(),
            Module {
                file,
                ..Module::default()
            },
        );
        for item in items.iter().filter(|i| !only_for_tests(attributes(i))) {
            let syn::Item::Mod(child) = item else {
                self.item(item, file, module);
                continue;
            };
            let mut path = module.clone();
            path.push(child.ident.to_string());
            let below = dir.join(child.ident.to_string());
            match &child.content {
                Some((_, inner)) => self.items(inner, file, &below, &path)?,
                None => {
                    let own = match path_attribute(child) {
                        Some(named) => dir.join(named),
                        None => dir.join(format!("{}.rs", child.ident)),
                    };
                    let own = if own.exists() {
                        own
                    } else {
                        below.join("mod.rs")
                    };
                    self.load(&below, &own, &path)?;
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, item: &syn::Item, file: usize, module: &ModulePath) {
        let mut collector = Collector::default();
        collector.visit_item(item);
        let own = self.modules.entry(module.clone()).or_default();
        own.names.extend(collector.names);
        own.globs.extend(collector.globs);
        own.items.extend(item_name(item));
        self.references
            .extend(collector.paths.into_iter().map(|segments| Reference {
                module: module.clone(),
                file,
                segments,
            }));
    }

    fn edges(&self) -> BTreeSet<(usize, usize)> {
        self.references
            .iter()
            .filter_map(|r| Some((r.file, self.resolve(&r.module, &r.segments, 0)?)))
            .filter(|(from, to)| from != to)
            .collect()
    }

    /// The file that defines what a path names, if it is of this crate.
    fn resolve(&self, module: &ModulePath, segments: &[String], depth: usize) -> Option<usize> {
        let (mut at, mut rest) = self.base(module, segments)?;
        while let Some(name) = rest.first() {
            let mut child = at.clone();
            child.push(name.clone());
            if !self.modules.contains_key(&child) {
                break;
            }
            at = child;
            rest = &rest[1..];
        }
        let own = self.modules.get(&at)?;
        let Some(name) = rest.first() else {
            return Some(own.file);
        };
        if depth < REEXPORTS_MAX && !own.items.contains(name) {
            if let Some(target) = own.names.get(name) {
                // An item that a macro declares is unknown; the module that a `use` takes it from is not.
                let module = &target[..target.len().saturating_sub(1)];
                return self
                    .resolve(&at, target, depth + 1)
                    .or_else(|| self.resolve(&at, module, depth + 1));
            }
            for glob in &own.globs {
                let mut target = glob.clone();
                target.push(name.clone());
                if let Some(found) = self.resolve(&at, &target, depth + 1) {
                    return Some(found);
                }
            }
        }
        // A name from outside that a glob brought in ends here as well, which is right: it was asked of this module.
        (depth == 0 || own.items.contains(name)).then_some(own.file)
    }

    /// The module at which a path begins, and what is left of the path.
    fn base<'a>(
        &self,
        module: &ModulePath,
        segments: &'a [String],
    ) -> Option<(ModulePath, &'a [String])> {
        let (first, mut rest) = segments.split_first()?;
        let mut at = match first.as_str() {
            "crate" => return Some((Vec::new(), rest)),
            "self" => module.clone(),
            "super" => parent(module)?,
            name => {
                let mut child = module.clone();
                child.push(name.to_owned());
                return self.modules.contains_key(&child).then_some((child, rest));
            }
        };
        while rest.first().is_some_and(|s| s == "super") {
            at = parent(&at)?;
            rest = &rest[1..];
        }
        Some((at, rest))
    }
}

fn parent(module: &ModulePath) -> Option<ModulePath> {
    let (_, above) = module.split_last()?;
    Some(above.to_vec())
}

/// Collects the paths of an item.
#[derive(Default)]
struct Collector {
    paths: Vec<Vec<String>>,
    names: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

impl Collector {
    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let joined = |name: &syn::Ident| {
            let mut path = before.to_vec();
            if name != "self" || before.is_empty() {
                path.push(name.to_string());
            }
            path
        };
        match tree {
            syn::UseTree::Path(p) => self.tree(&p.tree, &joined(&p.ident)),
            syn::UseTree::Group(g) => g.items.iter().for_each(|t| self.tree(t, before)),
            syn::UseTree::Name(n) => {
                let path = joined(&n.ident);
                if let Some(last) = path.last() {
                    self.names.insert(last.clone(), path.clone());
                }
                self.paths.push(path);
            }
            syn::UseTree::Rename(r) => {
                let path = joined(&r.ident);
                self.names.insert(r.rename.to_string(), path.clone());
                self.paths.push(path);
            }
            syn::UseTree::Glob(_) => {
                self.globs.push(before.to_vec());
                self.paths.push(before.to_vec());
            }
        }
    }

    /// Paths in the arguments of a macro, which are unparsed tokens.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => {
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(p) if p.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.finish(&mut path);
                    colons = 0;
                    match other {
                        TokenTree::Group(g) => self.tokens(g.stream()),
                        TokenTree::Ident(name) => path.push(name.to_string()),
                        _ => {}
                    }
                }
            }
        }
        self.finish(&mut path);
    }

    fn finish(&mut self, path: &mut Vec<String>) {
        let whole = std::mem::take(path);
        if whole.len() > 1 {
            self.paths.push(whole);
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.paths
                .push(path.segments.iter().map(|s| s.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.visit_path(&mac.path);
        self.tokens(mac.tokens.clone());
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !only_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }
}

fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("test")
            || a.path().is_ident("cfg")
                && a.meta
                    .require_list()
                    .is_ok_and(|l| l.tokens.to_string() == "test")
    })
}

fn path_attribute(item: &syn::ItemMod) -> Option<String> {
    item.attrs
        .iter()
        .find(|a| a.path().is_ident("path"))
        .and_then(|a| match &a.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(l),
                ..
            }) => match &l.lit {
                syn::Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(i) => &i.attrs,
        syn::Item::Enum(i) => &i.attrs,
        syn::Item::Fn(i) => &i.attrs,
        syn::Item::Impl(i) => &i.attrs,
        syn::Item::Macro(i) => &i.attrs,
        syn::Item::Mod(i) => &i.attrs,
        syn::Item::Static(i) => &i.attrs,
        syn::Item::Struct(i) => &i.attrs,
        syn::Item::Trait(i) => &i.attrs,
        syn::Item::Type(i) => &i.attrs,
        syn::Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

fn item_name(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(i) => &i.ident,
        syn::Item::Enum(i) => &i.ident,
        syn::Item::Fn(i) => &i.sig.ident,
        syn::Item::Macro(i) => i.ident.as_ref()?,
        syn::Item::Static(i) => &i.ident,
        syn::Item::Struct(i) => &i.ident,
        syn::Item::Trait(i) => &i.ident,
        syn::Item::Type(i) => &i.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
