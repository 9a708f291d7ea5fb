//! Manifests: every crate takes the workspace's lints, and doubles stay out of what is shipped.

use super::Finding;
use super::files::{File, Tree};

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    let members = tree
        .files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/"));
    for file in members {
        check_manifest(file, findings);
    }
}

fn check_manifest(file: &File, findings: &mut Vec<Finding>) {
    let path = &file.path;
    if !file.text.contains("[lints]\nworkspace = true\n") {
        findings.push(format!("{path}: no [lints] workspace = true"));
    }
    let doubles_are_its_work = path.starts_with("e2e/") || path.starts_with("testkit/");
    let mut section = "";
    for line in file.text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let ships_doubles = line.starts_with("orlop-testkit") && section != "[dev-dependencies]";
        if ships_doubles && !doubles_are_its_work {
            findings.push(format!(
                "{path}: orlop-testkit belongs in [dev-dependencies]"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_lints_and_shipped_doubles_are_found() {
        let mut findings = Vec::new();
        let file = File {
            path: "crates/x/Cargo.toml".to_owned(),
            text: "[dependencies]\norlop-testkit.workspace = true\n".to_owned(),
        };
        check_manifest(&file, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
