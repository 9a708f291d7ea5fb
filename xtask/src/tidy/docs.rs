//! Documents: links lead somewhere, decisions are numbered and complete.

use std::collections::BTreeSet;

use super::Finding;
use super::files::{File, Tree};

const ADR_PARTS: [&str; 4] = [
    "**Context.**",
    "**Decision.**",
    "**Alternatives.**",
    "**Failure modes.**",
];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for target in local_links(&file.text) {
            let path = resolve(&file.path, target);
            if !tree.exists(&path) {
                findings.push(format!("{}: the link to {target} leads nowhere", file.path));
            }
        }
    }
    let decisions = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("docs/adr/") && file.path.ends_with(".md"));
    let mut numbers = BTreeSet::new();
    for file in decisions {
        check_decision(file, findings);
        if !numbers.insert(number(file)) {
            findings.push(format!("{}: another decision has this number", file.path));
        }
    }
}

fn check_decision(file: &File, findings: &mut Vec<Finding>) {
    let path = &file.path;
    match number(file) {
        None => findings.push(format!(
            "{path}: call it by four digits and its title, such as 0001-crates.md"
        )),
        Some(number) if !file.text.starts_with(&format!("# {number}. ")) => {
            findings.push(format!("{path}: begin with \"# {number}. \" and the title"));
        }
        Some(_) => {}
    }
    for part in ADR_PARTS.iter().filter(|part| !file.text.contains(**part)) {
        findings.push(format!("{path}: no paragraph {part}"));
    }
}

/// The number in `docs/adr/0001-title.md`.
fn number(file: &File) -> Option<u32> {
    let name = file.path.strip_prefix("docs/adr/")?;
    let (digits, _title) = name.split_once('-')?;
    let is_number = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// The targets of `[text](target)` that are neither addresses nor anchors, without their anchor.
fn local_links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !target.contains(':') {
                links.push(path);
            }
        }
    }
    links
}

/// `target` as seen from the document `from`, relative to the root.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code_and_without_addresses() {
        let text = "[a](b.md#c) [d](https://e) [f](#g)\n```\n[h](i)\n```\n![j](k.png)\n";
        assert_eq!(local_links(text), ["b.md", "k.png"]);
    }

    #[test]
    fn targets_are_seen_from_their_document() {
        assert_eq!(
            resolve("docs/adr/1.md", "../errors/x.md"),
            "docs/errors/x.md"
        );
        assert_eq!(resolve("README.md", "./docs"), "docs");
        assert_eq!(resolve("docs/a.md", "/LICENSE"), "LICENSE");
    }

    #[test]
    fn a_decision_without_its_number_or_incomplete_is_found() {
        let findings = |path: &str, text: &str| {
            let mut findings = Vec::new();
            let file = File {
                path: path.to_owned(),
                text: text.to_owned(),
            };
            check_decision(&file, &mut findings);
            findings
        };
        let whole = "# 3. X\n\n**Context.** **Decision.** **Alternatives.** **Failure modes.**\n";
        assert!(findings("docs/adr/0003-x.md", whole).is_empty());
        assert_eq!(findings("docs/adr/0004-x.md", whole).len(), 1);
        assert_eq!(findings("docs/adr/3-x.md", whole).len(), 1);
        assert_eq!(findings("docs/adr/0003-x.md", "# 3. X\n").len(), 4);
    }
}
