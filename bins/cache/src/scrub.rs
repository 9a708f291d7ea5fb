//! `orlop cache scrub`: hashing what is kept once more.

use std::time::Duration;

use clap::Args;
use orlop_base::units::{ByteSize, format_bytes};
use orlop_cache::store::{Scrub, Scrubbed};
use serde::Serialize;

use crate::error::CacheError;
use crate::kept::blobs;
use crate::root::Root;
use crate::{Format, json};

/// Bytes hashed between two looks at the clock.
const SCRUB_STEP_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    root: Root,
    /// A digest, its beginning, or registry/repository:tag; without it: all
    what: Option<String>,
    /// The most bytes a second that are read, if no server runs
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
}

pub(crate) fn run(
    arguments: &Arguments,
    format: Format,
    _width: Option<usize>,
) -> Result<String, CacheError> {
    let root = &arguments.root;
    let failed = |source| root.failed(source);
    let inspection = root.ask()?;
    let digest = match &arguments.what {
        Some(what) => Some(root.digest(&inspection, what)?),
        None => None,
    };
    let asked = inspection.ask_check(digest.as_ref()).map_err(failed)?;
    if asked == 0
        && let Some(what) = &arguments.what
    {
        return Err(CacheError::Unknown(what.clone()));
    }
    let mut report = Report {
        asked,
        is_left_to_the_server: true,
        ..Report::default()
    };
    if let Some(store) = root.take(&inspection)? {
        report.is_left_to_the_server = false;
        let first = digest.and_then(|digest| Scrub::beginning_with(&store, &digest));
        let mut scrub = first.unwrap_or_else(|| Scrub::new(&store));
        while report.checked < asked {
            let step = scrub.step(SCRUB_STEP_BYTES).map_err(failed)?;
            let Some(bytes) = report.add(step) else {
                break;
            };
            if let Some(rate) = arguments.rate {
                let pause = bytes.saturating_mul(1000) / rate.as_u64().max(1);
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
    }
    Ok(match format {
        Format::Json => json(&report),
        Format::Text => report.text(),
    })
}

#[derive(Debug, Default, Serialize)]
struct Report {
    asked: usize,
    is_left_to_the_server: bool,
    checked: usize,
    bytes: u64,
    damaged: Vec<String>,
}

impl Report {
    /// Adds what a step came to, and says how many bytes it read; none at the end.
    fn add(&mut self, step: Scrubbed) -> Option<u64> {
        let bytes = match step {
            Scrubbed::Nothing => return None,
            Scrubbed::Read(bytes) => bytes,
            Scrubbed::Sound { bytes, .. } => {
                self.checked += 1;
                bytes
            }
            Scrubbed::Damaged { digest, bytes } => {
                self.checked += 1;
                self.damaged.push(digest.to_string());
                bytes
            }
        };
        self.bytes += bytes;
        Some(bytes)
    }

    fn text(&self) -> String {
        if self.is_left_to_the_server {
            return format!(
                "a server has this cache open: it checks {} in the background, at its own rate\n",
                blobs(self.asked)
            );
        }
        let mut text = format!(
            "checked {}: {}\n",
            blobs(self.checked),
            format_bytes(self.bytes)
        );
        for digest in &self.damaged {
            text += &format!("damaged, and set aside: {digest}\n");
        }
        text
    }
}
