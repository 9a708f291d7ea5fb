//! The lines that are printed.

use std::io::Write;

use anyhow::Result;
use orlop_e2e::figures::sync_latency;
use orlop_e2e::programs::{self, run_words};
use orlop_sys::process::Spawn;

use crate::samples::Samples;
use crate::sides::Sides;

/// Prints figures as they come, and remembers what is missing.
#[derive(Debug, Default)]
pub(crate) struct Report {
    missing: Vec<&'static str>,
}

impl Report {
    /// What the figures were taken on.
    pub(crate) fn machine(&mut self, sides: &Sides) -> Result<()> {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = run_words(&["uname", "-r"])?;
        let containerd = Spawn::new(programs::containerd()).arg("--version");
        let containerd = programs::run(containerd, "containerd --version")?;
        let runc = run_words(&["runc", "--version"])?;
        let runc = runc.lines().next().unwrap_or_default();
        let containerd = containerd.split(' ').nth(2).unwrap_or_default();
        self.note(&format!("{processors} processors, Linux {}", kernel.trim()))?;
        self.note(&format!("containerd {}, {runc}", containerd.trim()))?;
        self.disk(sides)
    }

    /// What the disk does at this moment: figures of different moments compare only as far as this does.
    pub(crate) fn disk(&mut self, sides: &Sides) -> Result<()> {
        let (median, tail) = sync_latency(sides.scratch.path())?;
        let millis = |span: std::time::Duration| span.as_secs_f64() * 1000.0;
        let (median, tail) = (millis(median), millis(tail));
        self.note(&format!(
            "disk: fdatasync of 4 KiB median {median:.2} ms, p90 {tail:.2} ms"
        ))
    }

    /// A comparison of the medians.
    pub(crate) fn ratio(
        &mut self,
        name: &str,
        [ours, theirs]: &[Samples; 2],
        unit: &str,
        goal: &str,
    ) -> Result<()> {
        self.note(&format!(
            "{name}, {unit}: orlop {ours}, containerd {theirs}"
        ))?;
        let ratio = ours.median() / theirs.median();
        line(&format!("ratio {name} {ratio:.3} goal {goal}"))
    }

    /// A figure of our own.
    pub(crate) fn value(
        &mut self,
        name: &str,
        samples: &Samples,
        unit: &str,
        goal: &str,
    ) -> Result<()> {
        self.note(&format!("{name}, {unit}: orlop {samples}"))?;
        line(&format!(
            "value {name} {:.2} {unit} goal {goal}",
            samples.median()
        ))
    }

    /// Something that no program reads.
    pub(crate) fn note(&mut self, text: &str) -> Result<()> {
        line(&format!("# {text}"))
    }

    /// Tells why a part has no figures, and goes on with the others.
    pub(crate) fn settle(&mut self, part: &'static str, outcome: Result<()>) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        self.missing.push(part);
        self.note(&format!("{part} not measured: {error:#}").replace('\n', "\n# "))
    }

    pub(crate) fn missing(&self) -> &[&'static str] {
        &self.missing
    }
}

fn line(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")?;
    Ok(output.flush()?)
}
