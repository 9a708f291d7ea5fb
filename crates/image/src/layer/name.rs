//! Names in a layer: made relative and free of `.`, `..` and empty components.

use super::Limits;
use super::error::TarError;

/// Normalises a name the way containerd does: lexically, with `/` as the ceiling.
///
/// `/a`, `./a`, `x/../a` and `../../a` all become `a`. An empty result means the root.
///
/// # Errors
/// A NUL inside, or longer or deeper than `limits` allow.
pub fn normalise(name: &[u8], limits: &Limits) -> Result<Vec<u8>, TarError> {
    check_text(name, "path", limits)?;
    let mut clean = Vec::with_capacity(name.len());
    let mut depth = 0_usize;
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                depth = depth.saturating_sub(1);
                let cut = clean.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                clean.truncate(cut);
            }
            component => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(component);
                depth += 1;
            }
        }
    }
    if depth > limits.path_depth_max {
        let (depth, limit) = (depth as u64, limits.path_depth_max as u64);
        return Err(TarError::limit(name, "path depth", depth, limit));
    }
    Ok(clean)
}

/// Splits a normalised path into its parent (empty for the root) and its last component.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Joins a normalised parent (empty for the root) and one component.
#[must_use]
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    [parent, b"/", name].concat()
}

/// Refuses a text with NUL or one that is too long.
pub(crate) fn check_text(text: &[u8], what: &'static str, limits: &Limits) -> Result<(), TarError> {
    if text.len() > limits.path_bytes_max {
        let (length, limit) = (text.len() as u64, limits.path_bytes_max as u64);
        return Err(TarError::limit(text, "path length in bytes", length, limit));
    }
    if text.contains(&0) {
        return Err(TarError::field(text, what, "contains a NUL"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_and_cannot_climb() {
        for (given, expected) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/b/../c", "a/c"),
            (".", ""),
            ("/", ""),
            ("..", ""),
            ("a/..", ""),
            ("...", "..."),
        ] {
            let clean = normalise(given.as_bytes(), &Limits::default()).unwrap();
            assert_eq!(String::from_utf8(clean).unwrap(), expected, "for {given:?}");
        }
    }

    #[test]
    fn nul_length_and_depth_are_refused() {
        let limits = Limits::default();
        assert!(normalise(b"a\0b", &limits).is_err());
        assert!(normalise(&vec![b'a'; 4097], &limits).is_err());
        assert!(normalise(&b"a/".repeat(1025), &limits).is_err());
        assert!(normalise(&b"a/".repeat(1024), &limits).is_ok());
    }

    #[test]
    fn split_and_join_are_inverse() {
        for path in ["a", "a/b", "a/b/c"] {
            let (parent, name) = split(path.as_bytes());
            assert_eq!(join(parent, name), path.as_bytes());
        }
    }
}
