//! Documents: links lead somewhere, decisions are numbered and complete.

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
    let decisions: Vec<&File> = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("docs/adr/") && file.path.ends_with(".md"))
        .collect();
    for (index, file) in decisions.iter().enumerate() {
        check_decision(file, index + 1, findings);
    }
}

fn check_decision(file: &File, number: usize, findings: &mut Vec<Finding>) {
    let path = &file.path;
    if !path.starts_with(&format!("docs/adr/{number:04}-")) {
        findings.push(format!("{path}: decision {number} should stand here"));
    }
    if !file.text.starts_with(&format!("# {number}. ")) {
        findings.push(format!("{path}: begin with \"# {number}. \" and the title"));
    }
    for part in ADR_PARTS.iter().filter(|part| !file.text.contains(**part)) {
        findings.push(format!("{path}: no paragraph {part}"));
    }
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
    fn a_decision_out_of_order_or_incomplete_is_found() {
        let mut findings = Vec::new();
        let file = File {
            path: "docs/adr/0003-x.md".to_owned(),
            text: "# 2. X\n\n**Context.** **Decision.** **Alternatives.**\n".to_owned(),
        };
        check_decision(&file, 2, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
