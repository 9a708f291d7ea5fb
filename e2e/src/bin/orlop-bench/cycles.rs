//! Containers a second: made, started, waited for and removed, each with a process that ends at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use orlop_api::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use orlop_e2e::container::{Cycle, PARTS};
use orlop_e2e::figures::cpu_time;

use crate::report::Report;
use crate::samples::Samples;
use crate::sides::{Side, Sides};
use crate::{Effort, floor};

const AT_ONCE: [usize; 3] = [1, 2, 8];

/// Holds what a cycle makes before its record is there, as a client's lease does.
const LEASE: &str = "bench";

/// How long each part of a container's life took, of both engines.
#[derive(Debug, Default)]
struct Parts([[Samples; PARTS.len()]; 2]);

impl Parts {
    fn add(&mut self, index: usize, lives: &[[Duration; PARTS.len()]]) {
        for (part, samples) in self.0[index].iter_mut().enumerate() {
            lives.iter().for_each(|life| samples.add_millis(life[part]));
        }
    }

    fn report(&self, at_once: usize, report: &mut Report) -> Result<()> {
        let [ours, theirs] = &self.0;
        for (part, (ours, theirs)) in PARTS.iter().zip(ours.iter().zip(theirs)) {
            let (ours, theirs) = (ours.median(), theirs.median());
            report.note(&format!(
                "{at_once} at once, {part}, ms: orlop {ours:.2}, containerd {theirs:.2}"
            ))?;
        }
        Ok(())
    }
}

/// With the generated client.
pub(crate) async fn measure(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    report.disk(sides)?;
    let mut rates: [[Samples; 2]; AT_ONCE.len()] = Default::default();
    let mut floors: [Samples; AT_ONCE.len()] = Default::default();
    let mut parts: [Parts; AT_ONCE.len()] = Default::default();
    let mut cpu: [Samples; 2] = Default::default();
    for round in 0..effort.rounds {
        for (turn, at_once) in AT_ONCE.into_iter().enumerate() {
            let floor = floor::rate(&sides.scratch, at_once, effort.containers, round)?;
            floors[turn].add(floor);
            for index in sides.turns(round) {
                let side = &sides.both[index];
                let before = cpu_time(side.engine.pid())?;
                let (rate, lives) = rate(side, at_once, effort.containers, round).await?;
                rates[turn][index].add(rate);
                parts[turn].add(index, &lives);
                let used = cpu_time(side.engine.pid())? - before;
                cpu[index].add_millis(used / u32::try_from(effort.containers)?);
            }
        }
    }
    for (turn, at_once) in AT_ONCE.into_iter().enumerate() {
        let (samples, floor) = (&rates[turn], &floors[turn]);
        report.ratio(
            &format!("run_rate_{at_once}"),
            samples,
            "containers/s",
            ">=2",
        )?;
        let bound = floor.median() / samples[1].median();
        report.note(&format!(
            "runc alone, {at_once} at once, containers/s: {floor}; an engine that cost nothing would reach {bound:.2}"
        ))?;
        parts[turn].report(at_once, report)?;
    }
    let [ours, theirs] = cpu;
    report.note(&format!(
        "daemon and what it waited for, ms of processor each: orlop {ours}, containerd {theirs}"
    ))
}

/// With the two command lines, one container after the other, as a person would.
pub(crate) fn measure_by_hand(sides: &Sides, effort: Effort, report: &mut Report) -> Result<()> {
    let mut rates: [Samples; 2] = Default::default();
    for round in 0..effort.rounds {
        for index in sides.turns(round) {
            let side = &sides.both[index];
            rates[index].add(rate_by_hand(sides, side, effort.containers / 2, round)?);
        }
    }
    report.ratio("run_rate_cli", &rates, "containers/s", ">=2")
}

/// Containers a second, and how long the parts of each one's life took.
async fn rate(
    side: &Side,
    at_once: usize,
    count: usize,
    round: u32,
) -> Result<(f64, Vec<[Duration; PARTS.len()]>)> {
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
    let lives = stream::iter(ids)
        .map(|id| {
            let cycle = &cycle;
            async move { cycle.run(&id, &["/bin/true"]).await }
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    let elapsed = started.elapsed();
    let lease = DeleteRequest {
        id: LEASE.to_owned(),
        ..DeleteRequest::default()
    };
    leases.delete(lease).await?;
    Ok((per_second(count, elapsed), lives))
}

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

pub(crate) fn per_second(count: usize, elapsed: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / elapsed.as_secs_f64()
}
