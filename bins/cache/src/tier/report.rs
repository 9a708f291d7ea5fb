//! What is shown of a plan and of a run.

use std::fmt::Write as _;

use orlop_base::table::{self, Row};
use orlop_base::units::{format_bytes, format_moment};
use orlop_cache::tier::apply::{Outcome, Pending, Run};
use orlop_cache::tier::{Move, Place, Plan, Rules};
use orlop_types::Digest;
use serde::Serialize;

use super::view::Seen;

/// Costs are US dollars, sizes bytes.
#[derive(Serialize)]
pub(super) struct Report {
    prices_of: String,
    objects: usize,
    objects_too_small: usize,
    objects_cut: bool,
    bytes: u64,
    dollars_per_month_now: f64,
    dollars_per_month_then: f64,
    moves: usize,
    moves_cost: f64,
    moves_within_bounds: usize,
    shown: Vec<MoveLine>,
    /// What a run did; none if nothing was to be done.
    ended: Option<Vec<EndedLine>>,
    pending: Vec<PendingLine>,
}

#[derive(Serialize)]
struct MoveLine {
    digest: String,
    bytes: u64,
    image: String,
    from: String,
    to: String,
    dollars: f64,
    saves_per_month: f64,
    reads_per_month: f64,
    reason: String,
}

#[derive(Serialize)]
struct EndedLine {
    digest: String,
    from: String,
    to: String,
    dollars: f64,
    outcome: &'static str,
    error: Option<String>,
}

#[derive(Serialize)]
struct PendingLine {
    digest: String,
    from: String,
    to: String,
    dollars: f64,
    next: String,
    attempts: u32,
    error: Option<String>,
}

impl Report {
    pub(super) fn new(
        seen: &Seen,
        plan: &Plan<Digest>,
        within: usize,
        run: Option<Run>,
        pending: &[Pending],
        rules: &Rules,
        most: usize,
    ) -> Self {
        let prices = &rules.prices;
        Self {
            prices_of: format!("{}, {}", prices.region, prices.checked),
            objects: seen.blobs.len(),
            objects_too_small: seen.small,
            objects_cut: seen.is_cut,
            bytes: seen.blobs.values().map(|blob| blob.bytes).sum(),
            dollars_per_month_now: plan.month_now,
            dollars_per_month_then: plan.month_then,
            moves: plan.moves.len(),
            moves_cost: plan.costs(),
            moves_within_bounds: within,
            shown: plan.moves.iter().take(most).map(MoveLine::new).collect(),
            ended: run.map(|run| run.ended.into_iter().map(ended_line).collect()),
            pending: pending.iter().take(most).map(PendingLine::new).collect(),
        }
    }

    pub(super) fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a report has only text keys");
        text + "\n"
    }

    pub(super) fn text(&self, width: Option<usize>) -> String {
        let small = self.objects_too_small;
        let cut = if self.objects_cut {
            ", and more that were not looked at"
        } else {
            ""
        };
        let properties = [
            (
                "Objects",
                format!("{} ({small} too small to be moved{cut})", self.objects),
            ),
            ("Bytes", format_bytes(self.bytes)),
            (
                "A month now",
                format!(
                    "{} ({})",
                    dollars(self.dollars_per_month_now),
                    self.prices_of
                ),
            ),
            ("A month then", dollars(self.dollars_per_month_then)),
            (
                "Moves",
                format!(
                    "{} for {}; {} within the bounds of a run",
                    self.moves,
                    dollars(self.moves_cost),
                    self.moves_within_bounds
                ),
            ),
        ];
        let mut text = table::render_properties(&properties);
        let mut add = |rendered: String, is_shown: bool| {
            if is_shown {
                // Writing to a string does not fail.
                let _written = write!(text, "\n{rendered}");
            }
        };
        add(table::render(&self.shown, width), !self.shown.is_empty());
        let ended = self.ended.as_deref().unwrap_or_default();
        add(table::render(ended, width), !ended.is_empty());
        add(
            table::render(&self.pending, width),
            !self.pending.is_empty(),
        );
        text
    }
}

impl MoveLine {
    fn new(one: &Move<Digest>) -> Self {
        Self {
            digest: one.blob.to_string(),
            bytes: one.bytes,
            image: one.image.clone(),
            from: name(&one.from),
            to: name(&one.to),
            dollars: one.costs,
            saves_per_month: one.saves_per_month,
            reads_per_month: one.reads_per_month,
            reason: reason(one),
        }
    }
}

/// Why a move pays.
fn reason(one: &Move<Digest>) -> String {
    let reads = match one.reads_per_month {
        rate if rate < 0.05 => "not read".to_owned(),
        rate => format!("read {rate:.1} times a month"),
    };
    if one.saves_per_month <= 0.0 {
        return format!("{reads}; moves with the rest of its image");
    }
    let days = (one.costs / one.saves_per_month * 30.0).ceil();
    format!("{reads}; pays for itself in {days:.0} days")
}

fn ended_line(ended: orlop_cache::tier::apply::Ended) -> EndedLine {
    let (outcome, error) = match ended.outcome {
        Outcome::Moved => ("moved", None),
        Outcome::Copied => ("copied", None),
        Outcome::Gone => ("gone", None),
        Outcome::GivenUp(why) => ("given up", Some(why)),
    };
    EndedLine {
        digest: ended.pending.digest.to_string(),
        from: name(&ended.pending.from),
        to: name(&ended.pending.to),
        dollars: ended.pending.dollars,
        outcome,
        error,
    }
}

impl PendingLine {
    fn new(one: &Pending) -> Self {
        Self {
            digest: one.digest.to_string(),
            from: name(&one.from),
            to: name(&one.to),
            dollars: one.dollars,
            next: format_moment(one.next),
            attempts: one.attempts,
            error: one.error.clone(),
        }
    }
}

fn name(place: &Place) -> String {
    match place {
        Place::Local => "disk".to_owned(),
        Place::Dropped => "dropped".to_owned(),
        Place::Stored(class) => class.to_string(),
    }
}

/// Moves of small blobs cost thousandths of a cent.
fn dollars(amount: f64) -> String {
    if amount.abs() >= 0.01 || amount == 0.0 {
        format!("${amount:.2}")
    } else {
        format!("${amount:.6}")
    }
}

impl Row for MoveLine {
    const HEADINGS: &'static [&'static str] = &[
        "BLOB",
        "SIZE",
        "FROM",
        "TO",
        "COSTS",
        "SAVES/MONTH",
        "IMAGE",
        "WHY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            format_bytes(self.bytes),
            self.from.clone(),
            self.to.clone(),
            dollars(self.dollars),
            dollars(self.saves_per_month),
            self.image.clone(),
            self.reason.clone(),
        ]
    }
}

impl Row for EndedLine {
    const HEADINGS: &'static [&'static str] = &["ENDED", "FROM", "TO", "COSTS", "HOW", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            self.from.clone(),
            self.to.clone(),
            dollars(self.dollars),
            self.outcome.to_owned(),
            self.error.clone().unwrap_or_default(),
        ]
    }
}

impl Row for PendingLine {
    const HEADINGS: &'static [&'static str] =
        &["UNDER WAY", "FROM", "TO", "COSTS", "NEXT LOOK", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.digest.clone(),
            self.from.clone(),
            self.to.clone(),
            dollars(self.dollars),
            self.next.clone(),
            self.error.clone().unwrap_or_default(),
        ]
    }
}
