//! `orlop namespaces`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use orlop_api::FieldMask;
use orlop_api::containerd::services::namespaces::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace as Record,
    UpdateNamespaceRequest,
};
use orlop_types::Namespace;
use serde::Serialize;

use super::content::labels;
use super::{Context, each};
use crate::error::{CliError, Explain};
use crate::output::Row;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List namespaces
    Ls(List),
    /// Make a namespace
    Create(Labelled),
    /// Change labels of a namespace; an empty value removes one
    Label(Labelled),
    /// Remove empty namespaces
    Rm(Several),
}

#[derive(Debug, Args)]
pub(crate) struct List {}

#[derive(Debug, Args)]
pub(crate) struct Labelled {
    /// A namespace
    name: Namespace,
    /// Labels
    #[arg(value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Namespaces
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NamespaceRow {
    name: String,
    labels: BTreeMap<String, String>,
}

impl Row for NamespaceRow {
    const HEADINGS: &'static [&'static str] = &["NAME", "LABELS"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), labels(&self.labels, ",")]
    }
}

/// `name=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}

pub(crate) async fn run(command: &Command, context: &mut Context<'_>) -> Result<(), CliError> {
    match command {
        Command::Ls(List {}) => list(context).await,
        Command::Create(arguments) => create(arguments, context).await,
        Command::Label(arguments) => label(arguments, context).await,
        Command::Rm(arguments) => remove(arguments, context).await,
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), CliError> {
    let answer = context
        .client
        .namespaces()
        .list(ListNamespacesRequest::default())
        .await;
    let answer = answer
        .explain(|| "cannot list namespaces".to_owned())?
        .into_inner();
    let mut rows: Vec<NamespaceRow> = answer
        .namespaces
        .into_iter()
        .map(|namespace| NamespaceRow {
            name: namespace.name,
            labels: namespace.labels.into_iter().collect(),
        })
        .collect();
    rows.sort_by(|left, right| left.name.cmp(&right.name));
    context.output.rows(&rows)
}

async fn create(arguments: &Labelled, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = CreateNamespaceRequest {
        namespace: Some(arguments.record()),
    };
    let created = context.client.namespaces().create(request).await;
    created.explain(|| format!("cannot make namespace {}", arguments.name))?;
    arguments.done(context)
}

async fn label(arguments: &Labelled, context: &mut Context<'_>) -> Result<(), CliError> {
    let paths = arguments
        .labels
        .iter()
        .map(|(name, _)| format!("labels.{name}"))
        .collect();
    let request = UpdateNamespaceRequest {
        namespace: Some(arguments.record()),
        update_mask: Some(FieldMask { paths }),
    };
    let updated = context.client.namespaces().update(request).await;
    updated.explain(|| format!("cannot label namespace {}", arguments.name))?;
    arguments.done(context)
}

async fn remove(arguments: &Several, context: &mut Context<'_>) -> Result<(), CliError> {
    each(&arguments.names, context, async |name, context| {
        let request = DeleteNamespaceRequest {
            name: name.to_owned(),
        };
        let deleted = context.client.namespaces().delete(request).await;
        deleted.explain(|| format!("cannot remove namespace {name}"))?;
        Ok(name.to_owned())
    })
    .await
}

impl Labelled {
    fn record(&self) -> Record {
        Record {
            name: self.name.to_string(),
            labels: self.labels.iter().cloned().collect(),
        }
    }

    fn done(&self, context: &mut Context<'_>) -> Result<(), CliError> {
        let result = serde_json::json!({ "name": self.name });
        context.output.done(&result, self.name.as_str())
    }
}
