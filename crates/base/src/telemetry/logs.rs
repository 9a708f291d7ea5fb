//! Log lines: text or JSON on stderr, filtered by level and module.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, Telemetry};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Fix the setting.
    #[error("telemetry.log_level: {0}")]
    Filter(String),
    /// A defect: logging is set up once, by `main`.
    #[error("logging was already set up")]
    AlreadySetUp(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process, on stderr.
///
/// # Errors
/// The filter cannot be read, or logging is set up already.
pub fn init_logs(telemetry: &Telemetry) -> Result<(), LogError> {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    subscriber(telemetry, color, std::io::stderr)?
        .try_init()
        .map_err(LogError::AlreadySetUp)
}

/// Checks a filter such as `info,orlop_registry=debug`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse_filter(filter).map(drop)
}

/// Makes every panic of the process a log line with its place, before it unwinds or aborts.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = crate::task::panic_message(info.payload());
        let thread = std::thread::current();
        tracing::error!(message, place, thread = thread.name(), "panicked");
    }));
}

fn parse_filter(filter: &str) -> Result<Targets, String> {
    filter.parse().map_err(|_| {
        format!("{filter:?} must be a level (error, warn, info, debug, trace) or modules with levels, such as \"info,orlop_registry=debug\"")
    })
}

fn subscriber<W>(
    telemetry: &Telemetry,
    color: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse_filter(&telemetry.log_level).map_err(LogError::Filter)?;
    let lines = fmt::layer().with_writer(writer).with_ansi(color);
    let layer = match telemetry.log_format {
        LogFormat::Text => lines.with_target(true).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .boxed(),
    };
    Ok(tracing_subscriber::registry().with(layer.with_filter(filter)))
}
