//! `orlop version`.

use clap::Args;
use serde::Serialize;

use crate::cli::Global;
use crate::client::Client;
use crate::error::{CliError, Explain};
use crate::output::{Card, Output};

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    server: Option<String>,
    revision: Option<String>,
}

impl Card for Versions {
    fn properties(&self) -> Vec<(&'static str, String)> {
        let or_none =
            |value: &Option<String>| value.clone().unwrap_or_else(|| "not reached".to_owned());
        vec![
            ("client", self.client.to_owned()),
            ("server", or_none(&self.server)),
            ("revision", or_none(&self.revision)),
        ]
    }
}

/// Shows our own version even when no daemon answers; the failure is told afterwards.
pub(crate) async fn run(
    _: &Arguments,
    global: &Global,
    output: &mut Output,
) -> Result<(), CliError> {
    let answer = ask(global).await;
    let (server, revision) = match &answer {
        Ok((version, revision)) => (Some(version.clone()), Some(revision.clone())),
        Err(_) => (None, None),
    };
    output.card(&Versions {
        client: env!("CARGO_PKG_VERSION"),
        server,
        revision,
    })?;
    answer.map(drop)
}

async fn ask(global: &Global) -> Result<(String, String), CliError> {
    let client = Client::connect(&global.address, &global.namespace).await?;
    let answer = client
        .version()
        .version(())
        .await
        .explain(|| "cannot ask the daemon for its version".to_owned())?
        .into_inner();
    Ok((answer.version, answer.revision))
}
