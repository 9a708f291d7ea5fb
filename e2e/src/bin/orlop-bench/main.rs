//! `make bench`: Orlop and Debian's containerd side by side, interleaved, on the same disk with the same runc.
//!
//! One line per figure: `ratio NAME VALUE goal GOAL`, VALUE being Orlop divided by containerd, or `value NAME VALUE
//! UNIT goal GOAL` for absolute ones. Lines that begin with `#` say what is behind them: medians with least and most. Both
//! daemons are driven by one generated gRPC client, so that clients' differences do not count; figures that end in
//! `_cli` compare the two command lines. A missed goal is a figure, not a failure; a figure that could not be taken is.

mod collect;
mod cycles;
mod floor;
mod memory;
mod pods;
mod pull;
mod readopt;
mod report;
mod samples;
mod scale;
mod sides;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser};
use tokio::signal::unix::{SignalKind, signal};

use report::Report;
use sides::Sides;

/// Compares Orlop with Debian's containerd.
#[derive(Debug, Parser)]
#[command(max_term_width = 80)]
struct Arguments {
    /// Rounds; each measures both engines, and medians count
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 5)]
    rounds: u32,
    /// Few rounds of less, in under three minutes
    #[arg(long, env = "BENCH_QUICK", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    quick: bool,
    /// The image to pull; without one, 21 layers are made
    #[arg(long, env = "BENCH_IMAGE")]
    image: Option<String>,
    /// Only these parts: memory, run, collect, pull, cri, scale
    #[arg(long, env = "BENCH_ONLY", value_delimiter = ',')]
    only: Vec<String>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: u32,
    containers: usize,
    shims: usize,
    images: usize,
    layers: u64,
    /// Made one after the other in each round, and there at once.
    pods: [usize; 2],
    /// Found again by a new daemon.
    pods_left: usize,
}

const FULL: Effort = Effort {
    rounds: 5,
    containers: 24,
    shims: 10,
    images: 10_000,
    layers: 20,
    pods: [8, 20],
    pods_left: 100,
};

const QUICK: Effort = Effort {
    rounds: 2,
    containers: 12,
    shims: 5,
    images: 1_000,
    layers: 10,
    pods: [4, 8],
    pods_left: 20,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be there to read it.
            writeln!(std::io::stderr(), "orlop-bench: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = match arguments.quick {
        true => QUICK,
        false => Effort {
            rounds: arguments.rounds.max(1),
            ..FULL
        },
    };
    // One thread: the client must not take the second processor from the daemons.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut ended = signal(SignalKind::terminate())?;
            tokio::select! {
                outcome = measure(&arguments, effort) => outcome,
                // Dropping what was measured takes it away.
                _ = ended.recv() => bail!("ended by SIGTERM"),
                _ = tokio::signal::ctrl_c() => bail!("ended by SIGINT"),
            }
        })
}

async fn measure(arguments: &Arguments, effort: Effort) -> Result<()> {
    let wanted =
        |part: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == part);
    let mut report = Report::default();
    let sides = Sides::start().await?;
    report.machine(&sides)?;
    if wanted("memory") {
        let outcome = memory::measure(&sides, effort, &mut report).await;
        report.settle("memory", outcome)?;
    }
    if wanted("run") {
        let outcome = cycles::measure(&sides, effort, &mut report).await;
        report.settle("run", outcome)?;
        let outcome = cycles::measure_by_hand(&sides, effort, &mut report);
        report.settle("run by hand", outcome)?;
    }
    if wanted("collect") {
        let outcome = collect::measure(&sides, effort, &mut report).await;
        report.settle("collect", outcome)?;
    }
    if wanted("pull") {
        let outcome = pull::measure(&sides, effort, arguments.image.as_deref(), &mut report).await;
        report.settle("pull", outcome)?;
    }
    if wanted("cri") {
        let outcome = pods::measure(&sides, effort, &mut report).await;
        report.settle("pods", outcome)?;
        let outcome = readopt::measure(&sides, effort, &mut report).await;
        report.settle("pods of an earlier daemon", outcome)?;
    }
    if wanted("scale") {
        let outcome = scale::measure(&sides, effort, &mut report).await;
        report.settle("scale", outcome)?;
    }
    for leftover in sides.close()? {
        report.note(&format!("left over: {leftover}"))?;
    }
    match report.missing() {
        [] => Ok(()),
        missing => bail!("not measured: {}", missing.join(", ")),
    }
}
