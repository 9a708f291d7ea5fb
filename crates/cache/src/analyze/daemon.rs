//! containerd's own log: what a node pulled. At `level=info` it tells whole images, at `level=debug` each blob.

use super::line::rfc3339;
use super::{Line, Request, Subject, digest_of, subject_of};

const IMAGE_PULLED: &str = "PullImage \"";
const BLOB_FETCHED: &str = "fetch response received";

/// logrus's text form: `time="…" level=… msg="…" key=value …`.
pub(super) fn containerd(text: &str, _year: i32) -> Option<Line> {
    let fields = Fields(text);
    let at = rfc3339(&fields.value("time")?)?;
    let message = fields.value("msg")?;
    let (repository, subject, bytes) = if message == BLOB_FETCHED {
        match blob(&fields) {
            Some(found) => found,
            None => return Some(Line::Other),
        }
    } else if let Some(image) = image(&message) {
        (String::new(), Subject::Image(image), 0)
    } else {
        return Some(Line::Other);
    };
    Some(Line::Request(Request {
        at,
        client: String::new(),
        repository,
        subject,
        bytes,
        size: Some(bytes).filter(|bytes| *bytes > 0),
    }))
}

/// `PullImage "NAME" returns image reference "…"`, and not the line before the pull.
fn image(message: &str) -> Option<String> {
    let (name, rest) = message.strip_prefix(IMAGE_PULLED)?.split_once('"')?;
    rest.starts_with(" returns").then(|| name.to_owned())
}

fn blob(fields: &Fields<'_>) -> Option<(String, Subject, u64)> {
    fields.value("response.status")?.strip_prefix('2')?;
    let digest = digest_of(&fields.value("digest")?)?;
    let size = fields.value("size")?.parse().ok()?;
    let url = fields.value("url").unwrap_or_default();
    let path = url.find("/v2/").map_or("", |start| &url[start..]);
    let repository = subject_of(path).map_or("", |(repository, _)| repository);
    let is_blob = !matches!(subject_of(path), Some((_, Subject::Manifest(_))));
    is_blob.then(|| (repository.to_owned(), Subject::Blob(digest), size))
}

/// The fields of a line.
struct Fields<'a>(&'a str);

impl Fields<'_> {
    /// The value of `key`, without quotes and with what they hide.
    fn value(&self, key: &str) -> Option<String> {
        let start = self.start_of(key)?;
        let text = &self.0[start..];
        let Some(quoted) = text.strip_prefix('"') else {
            return text.split(' ').next().map(str::to_owned);
        };
        let mut value = String::new();
        let mut characters = quoted.chars();
        loop {
            match characters.next()? {
                '"' => return Some(value),
                '\\' => value.push(characters.next()?),
                other => value.push(other),
            }
        }
    }

    /// Where the value of `key` begins: after `key=` at the start of the line or after a blank.
    fn start_of(&self, key: &str) -> Option<usize> {
        let wanted = format!("{key}=");
        let mut places = self.0.match_indices(&wanted);
        let (place, _) = places
            .find(|(place, _)| *place == 0 || self.0.as_bytes().get(place - 1) == Some(&b' '))?;
        Some(place + wanted.len())
    }
}
