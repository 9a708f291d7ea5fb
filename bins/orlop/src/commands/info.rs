//! `orlop info`.

use clap::Args;
use orlop_api::orlop::v1::{ComponentInfo, InfoRequest, InfoResponse};
use orlop_base::units::format_bytes;
use serde::Serialize;

use super::Context;
use crate::error::{CliError, Explain};
use crate::output::Card;
use crate::time;

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

#[derive(Debug, Serialize)]
struct Info {
    version: String,
    revision: String,
    uuid: String,
    pid: u32,
    started_at: Option<String>,
    root_folder: String,
    state_folder: String,
    default_snapshotter: String,
    snapshotters: Vec<Component>,
    default_runtime: String,
    runtimes: Vec<Component>,
    cgroup_version: u32,
    kernel_release: String,
    platform: String,
    schema_version: u32,
    memory_bytes: u64,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Component {
    name: String,
    version: String,
    path: String,
    error: Option<String>,
}

pub(crate) async fn run(_: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let answer = context
        .client
        .node()
        .info(InfoRequest {})
        .await
        .explain(|| "cannot ask the daemon about itself".to_owned())?
        .into_inner();
    context.output.card(&Info::from(answer))
}

impl From<InfoResponse> for Info {
    fn from(answer: InfoResponse) -> Self {
        let platform = answer.platform.clone().unwrap_or_default();
        let parts = [platform.os, platform.architecture, platform.variant];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self {
            started_at: time::moment(answer.started_at.as_ref()),
            snapshotters: answer
                .snapshotters
                .into_iter()
                .map(Component::from)
                .collect(),
            runtimes: answer.runtimes.into_iter().map(Component::from).collect(),
            platform: parts.join("/"),
            version: answer.version,
            revision: answer.revision,
            uuid: answer.uuid,
            pid: answer.pid,
            root_folder: answer.root_folder,
            state_folder: answer.state_folder,
            default_snapshotter: answer.default_snapshotter,
            default_runtime: answer.default_runtime,
            cgroup_version: answer.cgroup_version,
            kernel_release: answer.kernel_release,
            schema_version: answer.schema_version,
            memory_bytes: answer.memory_bytes,
            warnings: answer.warnings,
        }
    }
}

impl From<ComponentInfo> for Component {
    fn from(info: ComponentInfo) -> Self {
        Self {
            name: info.name,
            version: info.version,
            path: info.path,
            error: Some(info.error).filter(|error| !error.is_empty()),
        }
    }
}

impl Component {
    fn line(&self, default: &str) -> String {
        let mut words = vec![self.name.as_str(), &self.version, &self.path];
        words.retain(|word| !word.is_empty());
        let mut line = words.join(" ");
        if self.name == default {
            line.push_str(" (default)");
        }
        if let Some(error) = &self.error {
            line.push_str(&format!(" does not work: {error}"));
        }
        line
    }
}

impl Card for Info {
    fn properties(&self) -> Vec<(&'static str, String)> {
        let lines = |components: &[Component], default: &str| {
            let lines: Vec<String> = components
                .iter()
                .map(|component| component.line(default))
                .collect();
            lines.join("\n")
        };
        vec![
            (
                "version",
                format!("{} {}", self.version, self.revision)
                    .trim_end()
                    .to_owned(),
            ),
            ("uuid", self.uuid.clone()),
            ("pid", self.pid.to_string()),
            ("started", self.started_at.clone().unwrap_or_default()),
            ("memory", format_bytes(self.memory_bytes)),
            ("root", self.root_folder.clone()),
            ("state", self.state_folder.clone()),
            (
                "snapshotters",
                lines(&self.snapshotters, &self.default_snapshotter),
            ),
            ("runtimes", lines(&self.runtimes, &self.default_runtime)),
            ("cgroups", format!("v{}", self.cgroup_version)),
            ("kernel", self.kernel_release.clone()),
            ("platform", self.platform.clone()),
            ("database", format!("schema {}", self.schema_version)),
            ("warnings", self.warnings.join("\n")),
        ]
    }
}
