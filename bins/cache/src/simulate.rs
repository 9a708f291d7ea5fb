//! `orlop cache simulate`

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use orlop_base::table::{self, Row};
use orlop_base::units::{ByteSize, format_bytes};
use orlop_cache::tier::{Prices, gigabytes};
use orlop_cache::trace::{Replay, Request, Room, Shape, generate, read, replay, write};
use serde::Serialize;

use crate::error::CacheError;
use crate::{Format, json};

/// What the server takes for small.
const SMALL_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A trace of yours: lines of seconds,blob,bytes; without it one is made
    /// from the published statistics of IBM's registries (FAST '18)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Size of a cache, in bytes or in per cent of all blobs together; may be
    /// given several times [default: 1%, 10%]
    #[arg(long, value_name = "SIZE")]
    room: Vec<RoomArgument>,
    /// Blobs of a made trace
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    blobs: u64,
    /// Requests of a made trace, about
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    requests: u64,
    /// Where the chance of a made trace begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the trace to a file, too
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct RoomArgument(Room);

impl FromStr for RoomArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let parsed = percent.parse::<f64>().ok();
            let percent = parsed.filter(|percent| *percent > 0.0 && *percent <= 1000.0);
            let room = percent.map(|percent| Self(Room::Percent(percent)));
            return room.ok_or_else(|| format!("{text:?} is not a per cent such as 10%"));
        }
        let size = text
            .parse::<ByteSize>()
            .map_err(|error| error.to_string())?;
        Ok(Self(Room::Bytes(size.as_u64())))
    }
}

/// The answer, to be written to stdout.
pub(crate) fn run(
    arguments: &Arguments,
    format: Format,
    width: Option<usize>,
) -> Result<String, CacheError> {
    let trace = trace(arguments)?;
    if let Some(path) = &arguments.write {
        let written = File::create(path).and_then(|file| write(&trace, BufWriter::new(file)));
        written.map_err(|source| CacheError::WriteTrace {
            path: path.clone(),
            source,
        })?;
    }
    let rooms = match &arguments.room[..] {
        [] => vec![Room::Percent(1.0), Room::Percent(10.0)],
        rooms => rooms.iter().map(|room| room.0).collect(),
    };
    let prices = Prices::default();
    let replays = replay(&trace, &rooms, SMALL_MAX_BYTES);
    let lines: Vec<_> = replays.iter().map(|one| Line::new(one, &prices)).collect();
    let report = Report {
        requests: trace.len() as u64,
        bytes: trace.iter().map(|request| request.bytes).sum(),
        prices_of: format!("{}, {}", prices.region, prices.checked),
        caches: lines,
    };
    Ok(match format {
        Format::Json => json(&report),
        Format::Text => report.text(width),
    })
}

fn trace(arguments: &Arguments) -> Result<Vec<Request>, CacheError> {
    let Some(path) = &arguments.trace else {
        return Ok(generate(&Shape {
            seed: arguments.seed,
            blobs: arguments.blobs,
            requests: arguments.requests,
            ..Shape::default()
        }));
    };
    let opened = File::open(path).map_err(orlop_cache::trace::TraceError::Read);
    let trace = opened.and_then(|file| read(BufReader::new(file)));
    trace.map_err(|source| CacheError::Trace {
        path: path.clone(),
        source,
    })
}

#[derive(Serialize)]
struct Report {
    requests: u64,
    bytes: u64,
    prices_of: String,
    caches: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    policy: &'static str,
    room_bytes: u64,
    hit_ratio: f64,
    byte_hit_ratio: f64,
    hit_bytes: u64,
    upstream_bytes: u64,
    dollars_saved: f64,
}

impl Report {
    fn text(&self, width: Option<usize>) -> String {
        let properties = [
            ("Requests", self.requests.to_string()),
            ("Bytes", format_bytes(self.bytes)),
            ("Prices", self.prices_of.clone()),
        ];
        let properties = table::render_properties(&properties);
        format!("{properties}\n{}", table::render(&self.caches, width))
    }
}

impl Line {
    fn new(replay: &Replay, prices: &Prices) -> Self {
        Self {
            policy: replay.eviction.as_str(),
            room_bytes: replay.room_bytes,
            hit_ratio: replay.hit_ratio(),
            byte_hit_ratio: replay.byte_hit_ratio(),
            hit_bytes: replay.hit_bytes,
            upstream_bytes: replay.bytes - replay.hit_bytes,
            dollars_saved: dollars(replay, prices),
        }
    }
}

/// What the hits would have cost: requests to an object store, and bytes that leave its region.
#[allow(clippy::cast_precision_loss, reason = "a trace has no 2^53 requests")]
fn dollars(replay: &Replay, prices: &Prices) -> f64 {
    let class = prices.class.get(&prices.restored_as);
    let per_request = class.map_or(0.0, |class| class.get_per_1k) / 1000.0;
    replay.hits as f64 * per_request + gigabytes(replay.hit_bytes) * prices.egress_per_gb
}

impl Row for Line {
    const HEADINGS: &'static [&'static str] = &[
        "CACHE",
        "POLICY",
        "HITS",
        "BYTES SAVED",
        "FROM UPSTREAM",
        "SAVES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            format_bytes(self.room_bytes),
            self.policy.to_owned(),
            format!("{:.1} %", self.hit_ratio * 100.0),
            format!("{:.1} %", self.byte_hit_ratio * 100.0),
            format_bytes(self.upstream_bytes),
            format!("${:.2}", self.dollars_saved),
        ]
    }
}
