//! Lengths: functions to 70 lines, files to 600 without their tests. What is longer is listed and may only shrink.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::Finding;
use super::files::Tree;

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const LIST: &str = "xtask/tidy-exceptions.txt";

/// Lengths by subject: a file's path, or a path with `::` and a function's name.
type Lengths = BTreeMap<String, usize>;

pub(super) fn check(tree: &Tree, shrink: bool, findings: &mut Vec<Finding>) -> Result<()> {
    let too_long = measure(tree);
    let text = tree.find(LIST).map_or("", |file| &file.text);
    let mut allowed = parse(text, findings);
    if shrink {
        lower(&mut allowed, &too_long);
        write(tree, &allowed)?;
    }
    compare(&allowed, &too_long, findings);
    Ok(())
}

/// `code` with comments, strings and characters blanked, line by line as long as before: what remains can be
/// searched for words and braces.
pub(super) fn masked(code: &str) -> String {
    let bytes = code.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end > at {
            blank(&mut out[at..end]);
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn compare(allowed: &Lengths, too_long: &Lengths, findings: &mut Vec<Finding>) {
    for (subject, &length) in too_long {
        match allowed.get(subject) {
            None => findings.push(format!("{subject} has {length} lines: divide it (limits: a function {FUNCTION_LINES_MAX}, a file {FILE_LINES_MAX} without tests)")),
            Some(&limit) if length > limit => findings.push(format!("{subject} has grown from {limit} to {length} lines: it may only shrink")),
            Some(&limit) if length < limit => findings.push(format!("{subject} has shrunk from {limit} to {length} lines: cargo xtask tidy --shrink")),
            Some(_) => {}
        }
    }
    for subject in allowed
        .keys()
        .filter(|subject| !too_long.contains_key(*subject))
    {
        findings.push(format!(
            "{subject} is within the limits now: cargo xtask tidy --shrink"
        ));
    }
}

fn lower(allowed: &mut Lengths, too_long: &Lengths) {
    allowed.retain(|subject, _| too_long.contains_key(subject));
    for (subject, limit) in allowed.iter_mut() {
        *limit = (*limit).min(too_long[subject]);
    }
}

fn parse(text: &str, findings: &mut Vec<Finding>) -> Lengths {
    let mut lengths = Lengths::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        match line
            .split_once(' ')
            .map(|(length, subject)| (length.parse(), subject))
        {
            Some((Ok(length), subject)) => {
                lengths.insert(subject.to_owned(), length);
            }
            Some((Err(_), _)) | None => findings.push(format!("{LIST}: {line:?} is no entry")),
        }
    }
    lengths
}

#[allow(
    clippy::disallowed_methods,
    reason = "a list in a work tree under version control needs no durability"
)]
fn write(tree: &Tree, lengths: &Lengths) -> Result<()> {
    let mut text = String::from(
        "# What is longer than the limits, in lines. Entries may only shrink: `cargo xtask tidy --shrink`.\n",
    );
    for (subject, length) in lengths {
        text.push_str(&format!("{length} {subject}\n"));
    }
    fs::write(tree.root.join(LIST), text).context(LIST)
}

fn measure(tree: &Tree) -> Lengths {
    let mut lengths = Lengths::new();
    for file in tree.rust() {
        if file.is_test() {
            continue;
        }
        // A test is a story or a table: long is not hard to read there.
        let code = without_tests(&masked(&file.text));
        for (name, length) in functions(&code) {
            if length > FUNCTION_LINES_MAX {
                lengths.insert(format!("{}::{name}", file.path), length);
            }
        }
        let length = code.lines().count();
        if length > FILE_LINES_MAX {
            lengths.insert(file.path.clone(), length);
        }
    }
    lengths
}

/// The functions of masked `code` with the length of their bodies, from brace to brace, empty lines left out.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_a_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + 3..];
        let name_end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(0);
        if starts_a_word || name_end == 0 {
            continue;
        }
        if let Some(body) = body(rest) {
            let length = body.lines().filter(|line| !line.trim().is_empty()).count();
            found.push((&rest[..name_end], length));
        }
    }
    found
}

/// Masked `code` without the modules marked `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]\nmod ") {
        let (before, marked) = rest.split_at(at);
        kept.push_str(before);
        let end = match body(marked) {
            Some(body) => marked.find('{').unwrap_or(0) + body.len(),
            None => marked.find(';').map_or(marked.len(), |at| at + 1),
        };
        rest = &marked[end..];
    }
    kept.push_str(rest);
    kept
}

/// What stands between the first brace of `code` and its partner; nothing if a `;` comes first.
fn body(code: &str) -> Option<&str> {
    let open = code
        .find(['{', ';'])
        .filter(|&at| code.as_bytes()[at] == b'{')?;
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return code.get(open..=at);
        }
    }
    None
}

/// The end of the comment, string or character that begins at `at`, or `at` if none does.
fn skip(code: &[u8], at: usize) -> usize {
    let rest = &code[at..];
    let after_word = at > 0 && (code[at - 1].is_ascii_alphanumeric() || code[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + position(rest, b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest),
        [b'r', b'"' | b'#', ..] if !after_word => at + raw_string(rest),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

fn position(code: &[u8], byte: u8) -> Option<usize> {
    code.iter().position(|&b| b == byte)
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; an identifier such as `r#type` is no string.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let start = hashes + 2;
    rest[start..]
        .windows(end.len())
        .position(|window| window == end)
        .map_or(rest.len(), |at| start + at + end.len())
}

/// `'x'`, `'\n'`, `'\u{1F600}'`; a lifetime is no character.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return position(rest.get(3..).unwrap_or_default(), b'\'').map_or(0, |at| at + 4);
    }
    // A character has at most four bytes in UTF-8. A lifetime's quote is followed by a name and no quote.
    (2..=5)
        .find(|&at| rest.get(at) == Some(&b'\''))
        .filter(|&at| at == 2 || !rest[1].is_ascii())
        .map_or(0, |at| at + 1)
}

fn blank(code: &mut [u8]) {
    for byte in code.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked_and_lifetimes_stay() {
        for (code, expected) in [
            ("a // {\nb", "a     \nb"),
            ("/* { /* { */ } */ x", "                  x"),
            (r#"f("{\"}") y"#, "f(      ) y"),
            ("r#\"{\"# z", "       z"),
            ("'{' '\\'' '\\u{7b}' w", "                  w"),
            ("fn a<'a>(x: &'a str) {}", "fn a<'a>(x: &'a str) {}"),
        ] {
            assert_eq!(masked(code).trim_end(), expected.trim_end(), "{code}");
        }
    }

    #[test]
    fn functions_are_measured_without_comments_and_empty_lines() {
        let code = masked("trait T { fn a(); }\nfn b() {\n    // why\n\n    if x { y }\n}\n");
        assert_eq!(functions(&code), [("b", 3)]);
    }

    #[test]
    fn test_modules_do_not_count() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    x { y }\n}\nfn b() {}\n";
        assert_eq!(without_tests(code), "fn a() {}\n\nfn b() {}\n");
        assert_eq!(without_tests("#[cfg(test)]\nmod tests;\n"), "\n");
    }

    #[test]
    fn an_exception_may_shrink_and_not_grow() {
        let allowed = Lengths::from([("a".to_owned(), 80), ("gone".to_owned(), 90)]);
        for (length, says) in [(81, "has grown"), (79, "has shrunk")] {
            let mut findings = Vec::new();
            compare(
                &allowed,
                &Lengths::from([("a".to_owned(), length)]),
                &mut findings,
            );
            assert!(findings[0].contains(says), "{findings:?}");
            assert!(findings[1].contains("within the limits"), "{findings:?}");
        }
        let mut lowered = allowed.clone();
        lower(&mut lowered, &Lengths::from([("a".to_owned(), 100)]));
        assert_eq!(lowered, Lengths::from([("a".to_owned(), 80)]));
    }
}
