//! Names of earlier mounts in descriptions of later ones: `{{ mount 0 }}`, `{{ source 0 }}`, `{{ target 0 }}` and
//! `{{ overlay 1 0 }}`. Pure.
//!
//! containerd has these as functions of Go's `text/template`. The rest of that language is refused.

use crate::store::Active;

/// `text` with each expression replaced by what it stands for.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn expand(text: &str, active: &[Active]) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, behind) = after
            .split_once("}}")
            .ok_or_else(|| format!("{text:?} opens an expression and does not close it"))?;
        expanded.push_str(before);
        expanded.push_str(&value(expression, active)?);
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn value(expression: &str, active: &[Active]) -> Result<String, String> {
    let words: Vec<&str> = expression.split_whitespace().collect();
    let place = |word: &str| -> Result<usize, String> {
        let place = word.parse().ok().filter(|place| *place < active.len());
        place.ok_or_else(|| format!("{word} is none of {} mounts made before", active.len()))
    };
    match words.as_slice() {
        ["mount", index] => Ok(active[place(index)?].mount_point.clone()),
        ["source", index] => Ok(active[place(index)?].mount.source.clone()),
        ["target", index] => Ok(active[place(index)?].mount.target.clone()),
        ["overlay", start, end] => {
            let (start, end) = (place(start)?, place(end)?);
            let mut chosen: Vec<&str> = active[start.min(end)..=start.max(end)]
                .iter()
                .map(|mount| mount.mount_point.as_str())
                .collect();
            if start > end {
                chosen.reverse();
            }
            Ok(chosen.join(":"))
        }
        _ => Err(format!(
            "expression {:?} is none of mount, source, target and overlay with numbers",
            expression.trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use orlop_types::Mount;
    use proptest::prelude::*;

    use super::*;

    fn active() -> Vec<Active> {
        let mount = |index: usize| Active {
            mount: Mount {
                source: format!("/source/{index}"),
                target: format!("target{index}"),
                ..Mount::default()
            },
            mount_point: format!("/m/{index}"),
            mounted_at_nanos: 0,
            device: None,
        };
        (0..3).map(mount).collect()
    }

    #[test]
    fn expressions_stand_for_earlier_mounts() {
        let table = [
            ("plain", "plain"),
            ("{{ mount 0 }}/upper", "/m/0/upper"),
            ("{{mount 1}}", "/m/1"),
            ("{{ source 2 }} and {{ target 0 }}", "/source/2 and target0"),
            ("lowerdir={{ overlay 2 0 }}", "lowerdir=/m/2:/m/1:/m/0"),
            ("lowerdir={{ overlay 0 1 }}", "lowerdir=/m/0:/m/1"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, &active()).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_such_expression_is_refused() {
        for text in [
            "{{ mount 3 }}",
            "{{ mount -1 }}",
            "{{ mount }}",
            "{{ overlay 0 7 }}",
            "{{ env 0 }}",
            "{{ mount 0",
            "{{}}",
        ] {
            assert!(expand(text, &active()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{} a-z0-9]{0,40}") {
            let _expanded = expand(&text, &active());
        }
    }
}
