//! `orlop push`, and how to reach a registry for one call.

use std::io::Read;

use clap::Args;
use orlop_api::orlop::v1::{PushRequest, RegistryCredentials, RegistryOptions, push_event};
use orlop_base::units::format_bytes;
use serde::Serialize;

use super::Context;
use crate::error::{CliError, Explain};
use crate::image;
use crate::output::Progress;

/// No password is longer; a file given by mistake is not read whole.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct RegistryArguments {
    /// A user of the registry; the password is read from standard input
    #[arg(long, short = 'u', value_name = "NAME")]
    user: Option<String>,
    /// Plain HTTP, without TLS
    #[arg(long)]
    plain_http: bool,
    /// A hosts.toml tree on the daemon's machine, instead of the configured one
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "",
        hide_default_value = true
    )]
    hosts_dir: String,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    registry: RegistryArguments,
    /// Only this platform
    #[arg(long)]
    platform: Option<String>,
    /// An image
    image: String,
    /// Where to push, if its name does not say
    #[arg(value_name = "REFERENCE")]
    target: Option<String>,
}

#[derive(Debug, Serialize)]
struct Pushed {
    reference: String,
    digest: String,
    bytes_sent: u64,
}

impl RegistryArguments {
    /// The options, or none if the daemon's configuration says it all. A password never stands on a command line,
    /// where every user of the machine could read it.
    pub(crate) fn options(&self) -> Result<Option<RegistryOptions>, CliError> {
        let credentials = match &self.user {
            None => None,
            Some(username) => Some(RegistryCredentials {
                username: username.clone(),
                password: password()?,
                identity_token: String::new(),
            }),
        };
        if credentials.is_none() && !self.plain_http && self.hosts_dir.is_empty() {
            return Ok(None);
        }
        Ok(Some(RegistryOptions {
            credentials,
            plain_http: self.plain_http,
            hosts_folder: self.hosts_dir.clone(),
        }))
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &mut Context<'_>) -> Result<(), CliError> {
    let image = image::name(&arguments.image);
    let reference = match &arguments.target {
        Some(target) => image::reference("REFERENCE", target)?,
        None => String::new(),
    };
    let request = PushRequest {
        image: image.clone(),
        reference,
        platform: image::platform(arguments.platform.as_deref())?,
        registry: arguments.registry.options()?,
    };
    let what = || format!("cannot push {image}");
    let mut events = context
        .client
        .images()
        .push(request)
        .await
        .explain(what)?
        .into_inner();
    let mut progress = Progress::default();
    while let Some(message) = events.message().await.explain(what)? {
        match message.event {
            Some(push_event::Event::Blob(blob)) => {
                progress.update(&blob, context.clock.boottime());
                context.output.progress(&mut progress)?;
            }
            Some(push_event::Event::Done(done)) => {
                let pushed = Pushed {
                    digest: done.target.unwrap_or_default().digest,
                    reference: done.reference,
                    bytes_sent: done.bytes_sent,
                };
                if !context.output.is_json() {
                    let sent = format_bytes(pushed.bytes_sent);
                    context.output.note(&format!("{sent} sent"))?;
                }
                let text = format!("{}\n{}", pushed.reference, pushed.digest);
                return context.output.done(&pushed, &text);
            }
            None => {}
        }
    }
    Err(CliError::Incomplete {
        what: what(),
        missing: "the stream ended before the registry had the image",
    })
}

fn password() -> Result<String, CliError> {
    let mut text = String::new();
    std::io::stdin()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text)
        .explain(|| "cannot read the password from standard input".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
