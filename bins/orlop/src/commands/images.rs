//! `orlop images`.

use std::time::SystemTime;

use clap::Args;
use orlop_api::containerd::services::images::v1::{Image, ListImagesRequest};
use orlop_base::units::format_bytes;
use orlop_types::Reference;
use serde::Serialize;

use super::Context;
use crate::error::{CliError, Explain};
use crate::output::Row;
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only names
    #[arg(long, short)]
    quiet: bool,
    /// containerd's filters, such as name~=alpine; any of several matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ImageRow {
    name: String,
    digest: String,
    media_type: String,
    /// Of the manifest or index, not of what it refers to.
    target_bytes: i64,
    created_at: Option<String>,
    labels: std::collections::BTreeMap<String, String>,
    #[serde(skip)]
    age: String,
}

impl ImageRow {
    fn new(image: Image, now: SystemTime) -> Self {
        let target = image.target.unwrap_or_default();
        Self {
            age: time::age(image.created_at.as_ref(), now),
            created_at: time::moment(image.created_at.as_ref()),
            name: image.name,
            digest: target.digest,
            media_type: target.media_type,
            target_bytes: target.size,
            labels: image.labels.into_iter().collect(),
        }
    }

    fn kind(&self) -> &'static str {
        match self.media_type.as_str() {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => "index",
            _other => "manifest",
        }
    }
}

impl Row for ImageRow {
    const HEADINGS: &'static [&'static str] = &["NAME", "TARGET", "KIND", "SIZE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let familiar = self
            .name
            .parse::<Reference>()
            .map(|reference| reference.familiar());
        let digest = super::content::short(&self.digest);
        let size = u64::try_from(self.target_bytes).unwrap_or_default();
        vec![
            familiar.unwrap_or_else(|_| self.name.clone()),
            digest,
            self.kind().to_owned(),
            format_bytes(size),
            self.age.clone(),
        ]
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let request = ListImagesRequest {
        filters: arguments.filters.clone(),
    };
    let answer = context
        .client
        .image_records()
        .list(request)
        .await
        .explain(|| "cannot list images".to_owned())?
        .into_inner();
    let now = context.clock.wall();
    let mut rows: Vec<ImageRow> = answer
        .images
        .into_iter()
        .map(|image| ImageRow::new(image, now))
        .collect();
    rows.sort_by(|left, right| left.name.cmp(&right.name));
    if arguments.quiet && !context.output.is_json() {
        return rows
            .iter()
            .try_for_each(|row| context.output.text(&row.name));
    }
    context.output.rows(&rows)
}
