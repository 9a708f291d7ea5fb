//! White space: no tab, no trailing blank, one newline at the end.

use super::Finding;
use super::files::{File, Tree};

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    // Snapshots show output as it is, and what a generator writes is mended in the generator.
    let written_by_people = tree
        .files
        .iter()
        .filter(|file| !file.is_generated() && !file.path.ends_with(".snap"));
    for file in written_by_people {
        check_file(file, findings);
    }
}

fn check_file(file: &File, findings: &mut Vec<Finding>) {
    let path = &file.path;
    let tabs_allowed = path.ends_with("Makefile");
    for (index, line) in file.text.split('\n').enumerate() {
        let number = index + 1;
        if line.contains('\t') && !tabs_allowed {
            findings.push(format!("{path}:{number}: a tab: write spaces, or \\t"));
        }
        if line.ends_with([' ', '\r']) {
            findings.push(format!("{path}:{number}: blanks at the end of the line"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(format!("{path}: no newline at the end"));
    }
    if file.text.ends_with("\n\n") {
        findings.push(format!("{path}: an empty line at the end"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check_file(&file, &mut findings);
        findings
    }

    #[test]
    fn stray_white_space_is_found() {
        assert!(findings("a.rs", "fn a() {}\n").is_empty());
        assert!(findings("Makefile", "all:\n\techo\n").is_empty());
        for text in ["\tx\n", "x \n", "x\r\n", "x", "x\n\n"] {
            assert_eq!(findings("a.rs", text).len(), 1, "{text:?}");
        }
    }
}
