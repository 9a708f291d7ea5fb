//! `orlop fsck`.

use clap::Args;
use orlop_api::orlop::v1::{FsckFinding, FsckRequest, FsckSummary, fsck_event};
use orlop_base::units::format_duration;
use serde_json::json;

use super::{Context, gc};
use crate::error::{CliError, Explain, exit};
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Repair what can be repaired without losing what is held
    #[arg(long)]
    repair: bool,
    /// Read and hash every blob
    #[arg(long)]
    verify: bool,
}

/// Ends with 1 when something was found that is not repaired.
pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<u8, CliError> {
    let request = FsckRequest {
        repair: arguments.repair,
        verify_content: arguments.verify,
    };
    let what = || "cannot compare database and disk".to_owned();
    let mut events = context
        .client
        .collection()
        .fsck(request)
        .await
        .explain(what)?
        .into_inner();
    while let Some(message) = events.message().await.explain(what)? {
        match message.event {
            Some(fsck_event::Event::Finding(found)) => show(&found, context)?,
            Some(fsck_event::Event::Summary(summary)) => return conclude(&summary, context),
            None => {}
        }
    }
    Err(CliError::Incomplete {
        what: what(),
        missing: "the stream ended before its summary",
    })
}

fn show(found: &FsckFinding, context: &mut Context<'_>) -> Result<(), CliError> {
    let value = json!({
        "finding": {
            "kind": found.kind,
            "resource": found.resource.as_ref().map(gc::resource_json),
            "path": found.path,
            "detail": found.detail,
            "bytes": found.bytes,
            "repaired": found.repaired,
            "repair_error": found.repair_error,
        }
    });
    context.output.item(&value, |_| finding_text(found))
}

fn finding_text(found: &FsckFinding) -> String {
    let subject = match &found.resource {
        Some(resource) => gc::name(resource),
        None => found.path.clone(),
    };
    let mut text = format!("{}: {subject}: {}", found.kind, found.detail);
    if found.repaired {
        text.push_str(" (repaired)");
    } else if !found.repair_error.is_empty() {
        text.push_str(&format!(" (not repaired: {})", found.repair_error));
    }
    text
}

fn conclude(summary: &FsckSummary, context: &mut Context<'_>) -> Result<u8, CliError> {
    let duration = time::span(summary.duration.as_ref());
    let value = json!({
        "summary": {
            "blobs_checked": summary.blobs_checked,
            "snapshots_checked": summary.snapshots_checked,
            "mounts_checked": summary.mounts_checked,
            "findings": summary.findings,
            "repaired": summary.repaired,
            "seconds": duration.as_secs_f64(),
        }
    });
    context.output.item(&value, |_| {
        format!(
            "{} blobs, {} snapshots, {} mounts checked in {}: {} findings, {} repaired",
            summary.blobs_checked,
            summary.snapshots_checked,
            summary.mounts_checked,
            format_duration(duration),
            summary.findings,
            summary.repaired,
        )
    })?;
    let clean = summary.findings == summary.repaired;
    Ok(if clean { 0 } else { exit::FAILURE })
}
