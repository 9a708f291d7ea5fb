//! Unpacks one layer blob into a directory and says what it took: for measuring, and for looking.
//!
//! `cargo run --release --example apply_layer -- BLOB DIRECTORY`
#![allow(clippy::print_stdout, reason = "a tool for a terminal")]

use std::fs::File;
use std::time::Instant;

use orlop_image::apply::{ApplyOptions, ApplyTarget, WhiteoutStyle, apply_layer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(blob), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: apply_layer BLOB DIRECTORY".into());
    };
    let root = File::open(directory)?.into();
    let target = ApplyTarget {
        root,
        whiteouts: WhiteoutStyle::Overlay,
    };
    let started = Instant::now();
    let applied = apply_layer(File::open(blob)?, &target, &ApplyOptions::default())?;
    println!(
        "{} {} bytes, {} entries, {} deferred, {:.3} s",
        applied.diff_id,
        applied.uncompressed_size,
        applied.entries,
        if applied.deferred.is_empty() {
            "nothing"
        } else {
            "something"
        },
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}
