//! Every command against a daemon that follows a script.
#![allow(
    clippy::disallowed_methods,
    reason = "tests write their own input files and run the scripted daemon on the runtime of the test"
)]

mod containers;
mod fake;
mod store;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use clap::Parser;
use orlop_api::Timestamp;
use orlop_api::containerd::types::Descriptor;
use orlop_base::clock::ManualClock;

use self::fake::Fake;
use crate::cli::Cli;
use crate::output::Output;

/// The time of day at which every test runs: 2026-11-23T12:00:00Z.
const NOW_SECONDS: u64 = 1_795_435_200;

/// What a command has left behind.
struct Outcome {
    code: u8,
    stdout: String,
    stderr: String,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Outcome {
    /// The answer, which fits the terminal.
    fn table(&self) -> &str {
        for line in self.stdout.lines() {
            let columns = line.chars().count();
            assert!(columns <= 80, "{columns} columns: {line}");
        }
        &self.stdout
    }

    /// Everything in one text, for snapshots.
    fn all(&self) -> String {
        format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command line of a terminal with eighty columns.
async fn orlop(fake: &Fake, arguments: &[&str]) -> Outcome {
    let socket = fake.socket().to_str().unwrap().to_owned();
    let mut line = vec!["orlop", "--address", &socket];
    line.extend(arguments);
    let cli = Cli::try_parse_from(line).unwrap();
    let (stdout, stderr) = (Buffer::default(), Buffer::default());
    let mut output = Output::of_test(
        cli.global.output,
        Box::new(stdout.clone()),
        Box::new(stderr.clone()),
        Some(80),
    );
    let clock = ManualClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS));
    let result = crate::commands::run(cli, &mut output, Arc::new(clock)).await;
    let code = result.unwrap_or_else(|error| crate::conclude(&error, &mut output));
    Outcome {
        code,
        stdout: stdout.text(),
        stderr: stderr.text(),
    }
}

/// So many seconds ago.
fn ago(seconds: u64) -> Option<Timestamp> {
    Some((SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECONDS - seconds)).into())
}

fn descriptor(digit: char, size: i64) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: digest(digit),
        size,
        ..Descriptor::default()
    }
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}
