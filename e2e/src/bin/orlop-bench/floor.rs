//! What the OCI runtime takes by itself: the same containers without an engine, a snapshot, a shim or a record.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use orlop_e2e::Scratch;
use orlop_e2e::container::spec;
use orlop_e2e::programs::run;
use orlop_sys::fs::{Dir, Mode, Name};
use orlop_sys::process::Spawn;

use crate::cycles::per_second;

/// Containers a second of `runc run`, which is one call of runc where an engine needs three: no engine on this runc is
/// faster.
pub(crate) fn rate(scratch: &Scratch, at_once: usize, count: usize, round: u32) -> Result<f64> {
    let folder = scratch.state_folder("floor")?;
    let ids: Vec<_> = (0..count)
        .map(|number| format!("f{round}-{at_once}-{number}"))
        .collect();
    for id in &ids {
        bundle(scratch, &folder, id)?;
    }
    let started = Instant::now();
    std::thread::scope(|scope| {
        let share = count.div_ceil(at_once);
        let workers: Vec<_> = ids
            .chunks(share)
            .map(|ids| scope.spawn(|| ids.iter().try_for_each(|id| run_one(&folder, id))))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker returns its errors"))
    })?;
    Ok(per_second(count, started.elapsed()))
}

/// A bundle on the small image's own files: nothing is mounted for it.
fn bundle(scratch: &Scratch, folder: &Path, id: &str) -> Result<()> {
    let mut spec = spec(&format!("/{}/{id}", scratch.name()), &["/bin/true"]);
    spec["root"]["path"] = scratch.path().join("small-tree").to_str().into();
    let bundle = Dir::create_all(&folder.join(id), Mode::from_raw_mode(0o700))?;
    let text = spec.to_string();
    let name = Name::new("config.json")?;
    bundle
        .write_volatile(&name, text.as_bytes(), Mode::from_raw_mode(0o600))
        .context("cannot write a bundle")
}

fn run_one(folder: &Path, id: &str) -> Result<()> {
    let call = Spawn::new("runc")
        .arg("--root")
        .arg(folder.join("runc"))
        .args(["run", "--bundle"])
        .arg(folder.join(id))
        .arg(id);
    run(call, "runc run").map(drop)
}
