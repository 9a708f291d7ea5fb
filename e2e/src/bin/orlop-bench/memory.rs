//! What daemons and shims cost while nothing happens.

use std::time::Duration;

use anyhow::{Result, ensure};
use orlop_e2e::container::Cycle;
use orlop_e2e::figures::{pss_bytes, shims};

use crate::Effort;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};

/// Daemons and shims give memory back a moment after their last work.
const QUIET: Duration = Duration::from_secs(6);

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    tokio::time::sleep(QUIET).await;
    let mut daemons = [Samples::default(), Samples::default()];
    let mut with_shims = [Samples::default(), Samples::default()];
    let mut shims = [Samples::default(), Samples::default()];
    for (index, side) in sides.both.iter().enumerate() {
        daemons[index].add_bytes(pss_bytes(side.engine.pid())?);
        with_sleepers(
            sides,
            side,
            effort,
            &mut shims[index],
            &mut with_shims[index],
        )
        .await?;
    }
    report.value("daemon_pss", &daemons[0], "MiB", "<=10")?;
    report.ratio("daemon_pss_ratio", &daemons, "MiB after one pull", "<=0.25")?;
    report.value("shim_pss", &shims[0], "MiB", "<=0.7")?;
    report.ratio("shim_pss_ratio", &shims, "MiB", "<=0.15")?;
    let [ours, theirs] = with_shims;
    let count = effort.shims;
    report.note(&format!(
        "daemon with {count} containers, MiB: orlop {ours}, containerd {theirs}"
    ))
}

async fn with_sleepers(
    sides: &Sides,
    side: &Side,
    effort: Effort,
    shim: &mut Samples,
    daemon: &mut Samples,
) -> Result<()> {
    let cycle = Cycle::new(&side.engine, side.client.clone(), &side.small);
    let ids: Vec<String> = (0..effort.shims)
        .map(|number| format!("m{number}"))
        .collect();
    for id in &ids {
        cycle.run_detached(id, &["/bin/sleep", "1000"]).await?;
    }
    tokio::time::sleep(QUIET).await;
    let namespace = side.engine.namespace();
    let socket = side
        .engine
        .socket()
        .parent()
        .unwrap_or(sides.scratch.path());
    let pids = shims(socket, namespace)?;
    ensure!(
        pids.len() == ids.len(),
        "{} shims hold {} containers",
        pids.len(),
        ids.len()
    );
    for pid in pids {
        shim.add_bytes(pss_bytes(pid)?);
    }
    daemon.add_bytes(pss_bytes(side.engine.pid())?);
    for id in &ids {
        cycle.kill(id).await?;
    }
    Ok(())
}
