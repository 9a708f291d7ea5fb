//! Containers a second: made, started, waited for and removed, each with a process that ends at once.

use std::time::Instant;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use orlop_api::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use orlop_e2e::container::Cycle;

use crate::Effort;
use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};

const AT_ONCE: [usize; 3] = [1, 2, 8];

/// Holds what a cycle makes before its record is there, as a client's lease does.
const LEASE: &str = "bench";

pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    report.disk(sides)?;
    let mut rates: [[Samples; 2]; AT_ONCE.len()] = Default::default();
    let mut by_hand: [Samples; 2] = Default::default();
    for round in 0..effort.rounds {
        for (samples, at_once) in rates.iter_mut().zip(AT_ONCE) {
            for index in sides.turns(round) {
                let rate = rate(&sides.both[index], at_once, effort.containers, round).await?;
                samples[index].add(rate);
            }
        }
        for index in sides.turns(round) {
            let rate = rate_by_hand(sides, &sides.both[index], effort.containers / 2, round)?;
            by_hand[index].add(rate);
        }
    }
    for (samples, at_once) in rates.iter().zip(AT_ONCE) {
        report.ratio(
            &format!("run_rate_{at_once}"),
            samples,
            "containers/s",
            ">=2",
        )?;
    }
    report.ratio("run_rate_cli", &by_hand, "containers/s", ">=2")
}

async fn rate(side: &Side, at_once: usize, count: usize, round: u32) -> Result<f64> {
    let mut leases = side.client.leases();
    let lease = CreateRequest {
        id: LEASE.to_owned(),
        ..CreateRequest::default()
    };
    leases.create(lease).await?;
    let client = side.client.with_lease(LEASE)?;
    let cycle = Cycle::new(&side.engine, client, &side.small);
    let ids = (0..count).map(|number| format!("r{round}-{at_once}-{number}"));
    let started = Instant::now();
    stream::iter(ids)
        .map(|id| {
            let cycle = &cycle;
            async move { cycle.run(&id, &["/bin/true"]).await }
        })
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    let elapsed = started.elapsed();
    let lease = DeleteRequest {
        id: LEASE.to_owned(),
        ..DeleteRequest::default()
    };
    leases.delete(lease).await?;
    Ok(per_second(count, elapsed))
}

/// One after the other by the command line, as a person would.
fn rate_by_hand(sides: &Sides, side: &Side, count: usize, round: u32) -> Result<f64> {
    let reference = &sides.reference;
    let started = Instant::now();
    for number in 0..count {
        let id = format!("h{round}-{number}");
        if side.is_orlop() {
            let arguments = [
                "run", "--rm", "--net", "none", "--name", &id, reference, "true",
            ];
            side.engine.orlop(&sides.programs, &arguments)?;
        } else {
            let arguments = ["run", "--rm", reference, &id, "true"];
            side.engine.ctr(&arguments)?;
        }
    }
    Ok(per_second(count, started.elapsed()))
}

fn per_second(count: usize, elapsed: std::time::Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / elapsed.as_secs_f64()
}
