//! Pulls one image into a folder and says what it took: for measuring, and for looking.
//!
//! `cargo run --release --example pull -- FOLDER REFERENCE [NAMESPACE]`
#![allow(clippy::print_stdout, reason = "a tool for a terminal")]

use std::path::Path;
use std::sync::Arc;

use orlop_base::clock::SystemClock;
use orlop_base::task::TaskTree;
use orlop_image::images::{Event, Images, ImagesOptions, NoRecorder, Progress, PullRequest, Scope};
use orlop_meta::{Backends, Db};
use orlop_registry::{Client, ClientOptions};
use orlop_types::Namespace;

/// Prints what it hears when asked to.
struct Printer;

impl Progress for Printer {
    fn report(&self, event: Event) {
        if std::env::var_os("ORLOP_VERBOSE").is_some() {
            println!("{event:?}");
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(reference)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull FOLDER REFERENCE [NAMESPACE]".into());
    };
    let folder = Path::new(&folder);
    let clock = SystemClock::shared();
    let backends = Backends::open(folder)?;
    let db = Db::open(&folder.join("meta.db"), Arc::clone(&clock), backends)?;
    let tasks = TaskTree::root("pull", clock);
    let images = Images::new(
        db,
        Client::new(ClientOptions::default()),
        &tasks,
        ImagesOptions::default(),
        Arc::new(NoRecorder),
    );
    let scope = Scope {
        namespace: Namespace::new(arguments.next().unwrap_or_else(|| "default".to_owned()))?,
        lease: None,
    };
    let request = PullRequest {
        reference,
        ..PullRequest::default()
    };
    let pulled = images.pull(&scope, request, Arc::new(Printer)).await?;
    let top = pulled
        .chain_id
        .map(|id| id.digest().to_string())
        .unwrap_or_default();
    println!(
        "{} {} bytes {:.3} s",
        top,
        pulled.bytes_fetched,
        pulled.duration.as_secs_f64()
    );
    Ok(())
}
