//! Overlay's way of writing several folders into one option: `:` between them, `\` before a `:` or `\` of a name.

/// Splits the value of `lowerdir` into folders and takes the backslashes off.
///
/// A trailing backslash stands for itself, as in the kernel. Empty parts are kept: they are the caller's to refuse.
#[must_use]
pub fn split_layers(value: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => layers.push(String::new()),
            '\\' => push_last(&mut layers, characters.next().unwrap_or('\\')),
            _ => push_last(&mut layers, character),
        }
    }
    layers
}

/// Writes one folder so that [`split_layers`] and the kernel read it back as it was.
#[must_use]
pub fn escape_layer(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for character in path.chars() {
        if matches!(character, ':' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn push_last(layers: &mut [String], character: char) {
    if let Some(last) = layers.last_mut() {
        last.push(character);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colons_separate_unless_escaped() {
        for (value, layers) in [
            ("/a:/b", vec!["/a", "/b"]),
            (r"/a\:b:/c", vec!["/a:b", "/c"]),
            (r"/a\\:/b", vec![r"/a\", "/b"]),
            ("/a", vec!["/a"]),
            ("", vec![""]),
            ("/a::/b", vec!["/a", "", "/b"]),
            (r"/a\", vec![r"/a\"]),
        ] {
            assert_eq!(split_layers(value), layers, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_was_escaped_is_read_back(paths in prop::collection::vec(r"/[a\\:é ,]{0,8}", 1..5)) {
            let value: Vec<_> = paths.iter().map(|path| escape_layer(path)).collect();
            prop_assert_eq!(split_layers(&value.join(":")), paths);
        }
    }
}
