//! Error ids: `ORL-E` and four digits, each in the range of its crate, in one crate only, and with a page.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::files::Tree;

/// The thousands, and the crates that share them: `sys` checks overlays before they are mounted, `base` reads the
/// daemon's configuration.
const RANGES: [(char, &[&str]); 9] = [
    ('1', &["crates/content"]),
    ('2', &["crates/snapshot", "crates/mounts", "crates/sys"]),
    ('3', &["crates/registry"]),
    ('4', &["crates/meta", "crates/containerd"]),
    ('5', &["crates/image"]),
    (
        '6',
        &[
            "crates/runtime",
            "crates/cni",
            "crates/ttrpc",
            "crates/sys",
            "bins/shim",
        ],
    ),
    (
        '7',
        &[
            "crates/services",
            "crates/cri",
            "bins/orlopd",
            "crates/base",
        ],
    ),
    ('8', &["bins/orlop"]),
    ('9', &["crates/cache", "bins/cache"]),
];

/// The façades refuse the same things in the same words, so they share ids. Neither may know the other.
const FACADES: [&str; 2] = ["crates/services", "crates/cri"];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let ids = ids_by_crate(tree);
    for (id, crates) in &ids {
        check_id(id, crates, findings);
    }
    check_pages(tree, &ids, findings);
}

fn check_id(id: &str, crates: &BTreeSet<&str>, findings: &mut Vec<Finding>) {
    let thousands = id.chars().nth("ORL-E".len()).unwrap_or('0');
    let owners = RANGES
        .iter()
        .find(|(digit, _)| *digit == thousands)
        .map_or(&[][..], |(_, owners)| owners);
    for stranger in crates.iter().filter(|name| !owners.contains(name)) {
        findings.push(format!("{stranger}: {id} is outside of this crate's range"));
    }
    let is_shared = crates.iter().all(|name| FACADES.contains(name));
    if crates.len() > 1 && !is_shared {
        findings.push(format!("{id} stands in several crates: {crates:?}"));
    }
}

fn check_pages(tree: &Tree, ids: &BTreeMap<&str, BTreeSet<&str>>, findings: &mut Vec<Finding>) {
    for id in ids.keys().filter(|id| has_pages(tree, id)) {
        let page = format!("docs/errors/{id}.md");
        match tree.find(&page) {
            None => findings.push(format!(
                "{page}: missing; docs/errors/README.md says what it holds"
            )),
            Some(file) if !file.text.starts_with(&format!("# {id}: ")) => {
                findings.push(format!(
                    "{page}: begin with \"# {id}: \" and the error in a few words"
                ));
            }
            Some(_) => {}
        }
    }
    for file in &tree.files {
        let page = file
            .path
            .strip_prefix("docs/errors/")
            .and_then(|name| name.strip_suffix(".md"))
            .filter(|name| name.starts_with("ORL-E"));
        if let Some(id) = page.filter(|id| !ids.contains_key(id)) {
            findings.push(format!("{}: no error has the id {id}", file.path));
        }
    }
}

/// Whether the part that `id` belongs to has begun its pages: then it has to have all of them.
fn has_pages(tree: &Tree, id: &str) -> bool {
    let part = id.get(.."ORL-E0".len()).unwrap_or(id);
    let prefix = format!("docs/errors/{part}");
    tree.files.iter().any(|file| file.path.starts_with(&prefix))
}

/// Every id in the code, with the crates that name it. The command line shows ids of the daemon, in tests too.
fn ids_by_crate(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in tree.rust().filter(|file| !file.is_test()) {
        let Some((crate_end, _)) = file.path.match_indices('/').nth(1) else {
            continue;
        };
        let home = &file.path[..crate_end];
        let code = file
            .text
            .split("\n#[cfg(test)]\n")
            .next()
            .unwrap_or_default();
        for id in ids_in(code) {
            ids.entry(id).or_default().insert(home);
        }
    }
    // The checks themselves and their examples name ids of all ranges.
    for crates in ids.values_mut() {
        crates.retain(|name| *name != "xtask/src");
    }
    ids.retain(|_, crates| !crates.is_empty());
    ids
}

fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("ORL-E").filter_map(|(at, _)| {
        let id = text.get(at..at + "ORL-E0000".len())?;
        id["ORL-E".len()..]
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_text() {
        let ids: Vec<&str> = ids_in("\"ORL-E1001\" ORL-Exxxx ORL-E12").collect();
        assert_eq!(ids, ["ORL-E1001"]);
    }

    #[test]
    fn an_id_outside_its_range_or_in_two_crates_is_found() {
        let mut findings = Vec::new();
        check_id(
            "ORL-E1001",
            &BTreeSet::from(["crates/content"]),
            &mut findings,
        );
        assert!(findings.is_empty(), "{findings:?}");
        let crates = BTreeSet::from(["crates/content", "crates/meta"]);
        check_id("ORL-E1001", &crates, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
