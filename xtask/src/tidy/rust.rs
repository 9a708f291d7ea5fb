//! Rust: crate roots explain themselves, nothing is left undone, no test is switched off.

use super::Finding;
use super::files::{File, Tree};
use super::ratchet::masked;

const ROOT_PARTS: [&str; 4] = ["Purpose:", "Non-goals:", "Invariants:", "Entry points:"];

/// Words that must not appear in code, with the reason. Split so that this file does not find itself.
const BANNED: [(&str, &str); 5] = [
    (concat!("todo", "!("), "finish it, or leave it out"),
    (concat!("unimplemented", "!("), "finish it, or leave it out"),
    (concat!("dbg", "!("), "a trace for one day"),
    (
        concat!("#[", "ignore"),
        "a test that does not run proves nothing",
    ),
    (concat!("unsafe_code, ", "reason = \"\""), "say why"),
];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in tree.rust() {
        if is_crate_root(&file.path) {
            check_root(file, findings);
        }
        check_words(file, findings);
    }
}

fn is_crate_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let shipped = path.starts_with("crates/") || path.starts_with("bins/");
    shipped && parts.len() == 4 && parts[2] == "src" && matches!(parts[3], "lib.rs" | "main.rs")
}

fn check_root(file: &File, findings: &mut Vec<Finding>) {
    let docs: Vec<&str> = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim())
        .collect();
    for part in ROOT_PARTS {
        if !docs.iter().any(|line| line.starts_with(part)) {
            findings.push(format!(
                "{}: the crate's page does not say \"{part}\"",
                file.path
            ));
        }
    }
}

fn check_words(file: &File, findings: &mut Vec<Finding>) {
    let code = masked(&file.text);
    for (index, line) in code.lines().enumerate() {
        for (word, reason) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(format!("{}:{}: {word}: {reason}", file.path, index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_crate_root_without_its_parts_is_found() {
        let mut findings = Vec::new();
        let text = "//! X.\n//!\n//! Purpose: y.\n//! Non-goals: z.\n//! Invariants:\n";
        check_root(&file("crates/x/src/lib.rs", text), &mut findings);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(is_crate_root("bins/orlop/src/main.rs"));
        assert!(!is_crate_root("bins/orlop/src/commands/main.rs"));
    }

    #[test]
    fn unfinished_code_is_found_but_not_in_texts() {
        let mut findings = Vec::new();
        let text = concat!(
            "fn a() { todo",
            "!() }\n// todo",
            "!()\nlet x = \"dbg",
            "!(\";\n"
        );
        check_words(&file("a.rs", text), &mut findings);
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}
