//! `orlop cache ls|stat|rm|pin|unpin`: what is kept, and what is to become of it. All of them work while a server runs.

use std::time::{Duration, SystemTime};

use clap::Args;
use orlop_base::table::{self, Row};
use orlop_base::units::{TimeSpan, format_bytes, format_moment};
use orlop_cache::store::{BlobInfo, Inspection, Listed, Pin, Removal, Status};
use orlop_types::Digest;
use serde::Serialize;

use crate::error::CacheError;
use crate::root::Root;
use crate::{Format, json};

/// How long a server is given to honour what it is asked: it looks every few seconds.
const HONOUR_TIMEOUT: Duration = Duration::from_secs(20);
const HONOUR_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    root: Root,
    /// The most recently used so many; 0 for all
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

#[derive(Debug, Args)]
pub(crate) struct StatArguments {
    #[command(flatten)]
    root: Root,
    /// A digest, its beginning, or registry/repository:tag; without it: the
    /// whole cache
    what: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    #[command(flatten)]
    root: Root,
    /// Digests, their beginnings, or registry/repository:tag
    #[arg(required = true)]
    what: Vec<String>,
    /// Also what is pinned
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PinArguments {
    #[command(flatten)]
    root: Root,
    /// A digest, its beginning, or registry/repository:tag; with a manifest all
    /// that it names stays; without it: list the pins
    what: Option<String>,
    /// Who pins it
    #[arg(long, default_value = "cli")]
    owner: String,
    /// Why, for whoever finds the pin
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct UnpinArguments {
    #[command(flatten)]
    root: Root,
    /// A digest, its beginning, or registry/repository:tag
    what: String,
    /// Whose pin; without it: everybody's
    #[arg(long)]
    owner: Option<String>,
}

pub(crate) fn list(
    arguments: &ListArguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let most = if arguments.top == 0 {
        usize::MAX
    } else {
        arguments.top
    };
    let listed = arguments.root.look()?.list(most);
    let listed = listed.map_err(|source| arguments.root.failed(source))?;
    let lines: Vec<_> = listed.into_iter().map(BlobLine::from).collect();
    Ok(match format {
        Format::Json => json(&Blobs { blobs: &lines }),
        Format::Text => table::render(&lines, width),
    })
}

pub(crate) fn stat(
    arguments: &StatArguments,
    format: Format,
    _width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let inspection = root.look()?;
    let failed = |source| root.failed(source);
    let Some(what) = &arguments.what else {
        let status = inspection.status().map_err(failed)?;
        return Ok(match format {
            Format::Json => json(&StatusJson::from(&status)),
            Format::Text => table::render_properties(&status_properties(&status)),
        });
    };
    let digest = root.digest(&inspection, what)?;
    let info = inspection.blob(&digest).map_err(failed)?;
    if info == BlobInfo::default() {
        return Err(CacheError::Unknown(what.clone()));
    }
    Ok(match format {
        Format::Json => json(&BlobJson::new(&digest, info)),
        Format::Text => table::render_properties(&blob_properties(&digest, &info)),
    })
}

pub(crate) fn remove(
    arguments: &RemoveArguments,
    format: Format,
    _width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let inspection = root.ask()?;
    let mut removed = Vec::new();
    let mut bytes = 0;
    for what in &arguments.what {
        let digest = root.digest(&inspection, what)?;
        let info = inspection
            .blob(&digest)
            .map_err(|source| root.failed(source))?;
        let listed = info
            .listed
            .ok_or_else(|| CacheError::Unknown(what.clone()))?;
        if listed.pinned && !arguments.force {
            return Err(CacheError::Pinned(digest.to_string()));
        }
        bytes += listed.size;
        removed.push(digest);
    }
    match root.take(&inspection)? {
        Some(store) => {
            for digest in &removed {
                store.remove(digest).map_err(|source| root.failed(source))?;
            }
        }
        None => ask_removals(root, &inspection, &removed)?,
    }
    let digests = removed.iter().map(ToString::to_string).collect();
    let answer = Removed { digests, bytes };
    Ok(match format {
        Format::Json => json(&answer),
        Format::Text => format!(
            "removed {}: {}\n",
            blobs(removed.len()),
            format_bytes(bytes)
        ),
    })
}

/// A server has the folder: it removes what it is asked to within seconds, and is waited for.
fn ask_removals(
    root: &Root,
    inspection: &Inspection,
    digests: &[Digest],
) -> Result<(), CacheError> {
    let failed = |source| root.failed(source);
    for digest in digests {
        inspection.ask_removal(digest).map_err(failed)?;
    }
    let mut waited = Duration::ZERO;
    for digest in digests {
        while inspection.removal(digest).map_err(failed)? == Removal::Waiting {
            if waited >= HONOUR_TIMEOUT {
                return Err(CacheError::NotHonoured(digest.to_string()));
            }
            std::thread::sleep(HONOUR_PAUSE);
            waited += HONOUR_PAUSE;
        }
    }
    Ok(())
}

pub(crate) fn pin(
    arguments: &PinArguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let failed = |source| root.failed(source);
    let Some(what) = &arguments.what else {
        let pins = root.look()?.pins().map_err(failed)?;
        let lines: Vec<_> = pins.into_iter().map(PinLine::from).collect();
        return Ok(match format {
            Format::Json => json(&Pins { pins: &lines }),
            Format::Text => table::render(&lines, width),
        });
    };
    let inspection = root.ask()?;
    let digest = root.digest(&inspection, what)?;
    let pinned = inspection.pin(&digest, &arguments.owner, &arguments.reason);
    pinned.map_err(failed)?;
    Ok(done(format, "pinned", &digest))
}

pub(crate) fn unpin(
    arguments: &UnpinArguments,
    format: Format,
    _width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let inspection = root.ask()?;
    let digest = root.digest(&inspection, &arguments.what)?;
    let taken_back = inspection.unpin(&digest, arguments.owner.as_deref());
    if taken_back.map_err(|source| root.failed(source))? == 0 {
        return Err(CacheError::NotPinned(digest.to_string()));
    }
    Ok(done(format, "unpinned", &digest))
}

#[derive(Serialize)]
struct Blobs<'a> {
    blobs: &'a [BlobLine],
}

#[derive(Serialize)]
struct BlobLine {
    digest: String,
    size: u64,
    media_type: Option<String>,
    added: String,
    used: String,
    uses: u64,
    pinned: bool,
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct Pins<'a> {
    pins: &'a [PinLine],
}

#[derive(Serialize)]
struct PinLine {
    digest: String,
    owner: String,
    reason: String,
    since: String,
}

#[derive(Serialize)]
struct Removed {
    digests: Vec<String>,
    bytes: u64,
}

#[derive(Serialize)]
struct Done<'a> {
    done: &'a str,
    digest: String,
}

#[derive(Serialize)]
struct StatusJson {
    cap_bytes: u64,
    ttl_seconds: u64,
    small_max_bytes: u64,
    blobs: u64,
    bytes: u64,
    small_bytes: u64,
    pinned_bytes: u64,
    fills: u64,
    aside: u64,
    unchecked: u64,
    repositories: u64,
    tags: u64,
}

#[derive(Serialize)]
struct BlobJson {
    digest: String,
    kept: Option<BlobLine>,
    checked: Option<String>,
    children: Vec<ChildJson>,
    parents: Vec<String>,
    tags: Vec<String>,
    pins: Vec<PinLine>,
    aside: Option<AsideJson>,
}

#[derive(Serialize)]
struct ChildJson {
    digest: String,
    size: u64,
    media_type: String,
}

#[derive(Serialize)]
struct AsideJson {
    since: String,
    reason: String,
}

impl From<Listed> for BlobLine {
    fn from(listed: Listed) -> Self {
        Self {
            digest: listed.digest.to_string(),
            size: listed.size,
            media_type: listed.media_type,
            added: format_moment(listed.added),
            used: format_moment(listed.used),
            uses: listed.uses,
            pinned: listed.pinned,
            repositories: listed.repositories,
        }
    }
}

impl From<Pin> for PinLine {
    fn from(pin: Pin) -> Self {
        Self {
            digest: pin.digest.to_string(),
            owner: pin.owner,
            reason: pin.reason,
            since: format_moment(pin.since),
        }
    }
}

impl From<&Status> for StatusJson {
    fn from(status: &Status) -> Self {
        Self {
            cap_bytes: status.cap_bytes,
            ttl_seconds: status.ttl_seconds,
            small_max_bytes: status.small_max_bytes,
            blobs: status.blobs,
            bytes: status.bytes,
            small_bytes: status.small_bytes,
            pinned_bytes: status.pinned_bytes,
            fills: status.fills,
            aside: status.aside,
            unchecked: status.unchecked,
            repositories: status.repositories,
            tags: status.tags,
        }
    }
}

impl BlobJson {
    fn new(digest: &Digest, info: BlobInfo) -> Self {
        let children = info.children.into_iter().map(|child| ChildJson {
            digest: child.digest.to_string(),
            size: child.size,
            media_type: child.media_type,
        });
        Self {
            digest: digest.to_string(),
            kept: info.listed.map(BlobLine::from),
            checked: info.checked.map(format_moment),
            children: children.collect(),
            parents: info.parents.iter().map(ToString::to_string).collect(),
            tags: info.tags,
            pins: info.pins.into_iter().map(PinLine::from).collect(),
            aside: info.aside.map(|(since, reason)| AsideJson {
                since: format_moment(since),
                reason,
            }),
        }
    }
}

impl Row for BlobLine {
    const HEADINGS: &'static [&'static str] = &[
        "BLOB",
        "TYPE",
        "SIZE",
        "USED",
        "USES",
        "PINNED",
        "REPOSITORIES",
    ];

    fn cells(&self) -> Vec<String> {
        let pinned = if self.pinned { "yes" } else { "no" };
        vec![
            self.digest.clone(),
            kind_of(self.media_type.as_deref()).to_owned(),
            format_bytes(self.size),
            self.used.clone(),
            self.uses.to_string(),
            pinned.to_owned(),
            self.repositories.join(", "),
        ]
    }
}

impl Row for PinLine {
    const HEADINGS: &'static [&'static str] = &["PIN", "OWNER", "SINCE", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            self.owner.clone(),
            self.since.clone(),
            self.reason.clone(),
        ]
    }
}

/// A word for a media type of OCI's or Docker's.
fn kind_of(media_type: Option<&str>) -> &'static str {
    let Some(text) = media_type else {
        return "unknown";
    };
    let kinds = [
        ("index", "index"),
        ("manifest.list", "index"),
        ("manifest", "manifest"),
        ("config", "config"),
        ("container.image", "config"),
        ("layer", "layer"),
        ("rootfs", "layer"),
    ];
    let found = kinds.iter().find(|(part, _)| text.contains(part));
    found.map_or("other", |(_, kind)| *kind)
}

fn status_properties(status: &Status) -> Vec<(&'static str, String)> {
    let ttl = match status.ttl_seconds {
        0 => "never".to_owned(),
        seconds => TimeSpan::from(Duration::from_secs(seconds)).to_string(),
    };
    let of_cap = format!(
        "{} of {}",
        format_bytes(status.bytes),
        format_bytes(status.cap_bytes)
    );
    vec![
        ("Kept", of_cap),
        ("Blobs and manifests", status.blobs.to_string()),
        (
            "Small",
            format!(
                "{} (up to {} each)",
                format_bytes(status.small_bytes),
                format_bytes(status.small_max_bytes)
            ),
        ),
        ("Pinned", format_bytes(status.pinned_bytes)),
        ("Goes without use after", ttl),
        ("Unfinished fills", status.fills.to_string()),
        ("Damaged, set aside", status.aside.to_string()),
        ("To be checked", status.unchecked.to_string()),
        ("Repositories", status.repositories.to_string()),
        ("Tags", status.tags.to_string()),
    ]
}

fn blob_properties(digest: &Digest, info: &BlobInfo) -> Vec<(&'static str, String)> {
    let kept = info.listed.as_ref();
    let of = |tell: fn(&Listed) -> String| kept.map(tell).unwrap_or_default();
    let time = |at: Option<SystemTime>| at.map(format_moment).unwrap_or_default();
    let children = info.children.iter().map(|child| {
        let kind = kind_of(Some(&child.media_type));
        format!("{} {kind} {}", child.digest, format_bytes(child.size))
    });
    let pins = info.pins.iter().map(|pin| {
        let text = format!(
            "{} since {}: {}",
            pin.owner,
            format_moment(pin.since),
            pin.reason
        );
        text.trim_end_matches([':', ' ']).to_owned()
    });
    let aside = info.aside.as_ref();
    vec![
        ("Digest", digest.to_string()),
        ("Kept", if kept.is_some() { "yes" } else { "no" }.to_owned()),
        ("Size", of(|one| format_bytes(one.size))),
        (
            "Media type",
            of(|one| one.media_type.clone().unwrap_or_default()),
        ),
        ("Since", of(|one| format_moment(one.added))),
        (
            "Used",
            of(|one| format!("{} ({} times)", format_moment(one.used), one.uses)),
        ),
        ("Checked", time(info.checked)),
        ("Repositories", of(|one| one.repositories.join("\n"))),
        ("Tags", info.tags.join("\n")),
        ("Names", lines(children)),
        (
            "Named by",
            lines(info.parents.iter().map(ToString::to_string)),
        ),
        ("Pinned by", lines(pins)),
        (
            "Damaged",
            aside
                .map(|(since, reason)| format!("set aside {}: {reason}", format_moment(*since)))
                .unwrap_or_default(),
        ),
    ]
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join("\n")
}

/// So many of them, in words.
pub(crate) fn blobs(count: usize) -> String {
    match count {
        1 => "one blob".to_owned(),
        count => format!("{count} blobs"),
    }
}

fn done(format: Format, done: &str, digest: &Digest) -> String {
    let digest = digest.to_string();
    match format {
        Format::Text => format!("{done} {digest}\n"),
        Format::Json => json(&Done { done, digest }),
    }
}
