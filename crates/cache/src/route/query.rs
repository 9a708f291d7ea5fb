//! Queries: what a client may say beside the path.

/// More pairs than any client sends.
const PAIRS_MAX: usize = 16;

/// The pairs of a query that mean something here; others are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    namespace: Option<String>,
    passed_on: Vec<(String, String)>,
}

impl Query {
    /// Reads `a=b&c=d`. The error is the part that cannot be read.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        for (number, pair) in pairs.enumerate() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = value.replace('+', " ");
            let value = unescaped(&plain).filter(|value| !value.contains(char::is_control));
            let value = value.ok_or_else(|| pair.to_owned())?;
            if number >= PAIRS_MAX {
                return Err(pair.to_owned());
            }
            match name {
                "ns" => query.namespace = Some(value),
                "n" if value.parse::<u32>().is_err() => return Err(pair.to_owned()),
                "n" | "last" | "artifactType" => {
                    query.passed_on.push((name.to_owned(), value));
                }
                _ => {}
            }
        }
        Ok(query)
    }

    /// The registry that is meant.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What the registry is told: `n`, `last`, `artifactType`.
    #[must_use]
    pub fn passed_on(&self) -> &[(String, String)] {
        &self.passed_on
    }
}

/// Takes percent escapes off, once. Nothing where one is broken or the result is no text.
pub(super) fn unescaped(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}
