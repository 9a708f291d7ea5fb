//! How much traffic a pod may have, as Kubernetes' bandwidth annotations say it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::PodError;

/// Into the pod, in bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";

/// Out of the pod, in bits per second.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What Kubernetes takes for a reasonable rate, in bits per second.
const RATE_MIN: u64 = 1_000;
const RATE_MAX: u64 = 1_000_000_000_000_000;

/// The most the plugin takes, in bits: a burst shall not be what limits.
const BURST_MAX: u64 = u32::MAX as u64;

/// The argument of CNI's capability `bandwidth`, if the pod is to be limited.
///
/// # Errors
/// A rate that is none.
pub(super) fn argument(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, PodError> {
    let mut argument = Map::new();
    for (annotation, side) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        let Some(text) = annotations.get(annotation) else {
            continue;
        };
        let rate = bits_per_second(text)
            .filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate))
            .ok_or_else(|| PodError::Config {
                field: "annotations",
                fault: format!(
                    "{annotation} is {text:?}; it has to be between 1k and 1P, such as 10M"
                ),
            })?;
        argument.insert(format!("{side}Rate"), json!(rate));
        argument.insert(format!("{side}Burst"), json!(BURST_MAX));
    }
    Ok((!argument.is_empty()).then_some(Value::Object(argument)))
}

/// Kubernetes' quantity: a decimal number and a suffix. Fractions of a bit are rounded up.
fn bits_per_second(text: &str) -> Option<u64> {
    let digits_end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let factor: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // More digits than this say nothing about a rate.
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from((digits * factor).div_ceil(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bits) in [
            ("1000", Some(1_000)),
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1_500)),
            ("2Mi", Some(2 << 20)),
            (".5G", Some(500_000_000)),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1.2.3k", None),
            ("10 M", None),
            ("1m", None),
            ("9999999999999999999", None),
        ] {
            assert_eq!(bits_per_second(text), bits, "{text:?}");
        }
    }

    #[test]
    fn only_what_is_annotated_is_limited_and_nonsense_is_refused() {
        let annotated = |text: &str| BTreeMap::from([(EGRESS.to_owned(), text.to_owned())]);
        assert_eq!(argument(&BTreeMap::new()).unwrap(), None);
        let limited = argument(&annotated("8M")).unwrap().unwrap();
        assert_eq!(limited["egressRate"], 8_000_000);
        assert_eq!(limited.get("ingressRate"), None);
        for bad in ["fast", "999", "2P"] {
            assert!(argument(&annotated(bad)).is_err(), "{bad}");
        }
    }
}
