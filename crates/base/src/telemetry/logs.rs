//! Log lines: text or JSON on stderr, filtered by level and module.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

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

/// What makes something else of spans than lines.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sets up logging for the process, on stderr, and gives spans to `spans` too.
///
/// # Errors
/// The filter cannot be read, or logging is set up already.
pub fn init_logs(telemetry: &Telemetry, spans: Option<SpanLayer>) -> Result<(), LogError> {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    subscriber(telemetry, spans, color, std::io::stderr)?
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
    // A bare word that is no level would be read as a module at its most talkative: a slip, never a wish.
    let names_its_levels = filter.split(',').all(|part| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        !level.is_empty() && LevelFilter::from_str(level.trim()).is_ok()
    });
    filter
        .parse()
        .ok()
        .filter(|_| names_its_levels)
        .ok_or_else(|| {
            format!(
                "{filter:?} must be a level (error, warn, info, debug, trace) or modules with levels, \
                 such as \"info,orlop_registry=debug\""
            )
        })
}

fn subscriber<W>(
    telemetry: &Telemetry,
    spans: Option<SpanLayer>,
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
    let registry = tracing_subscriber::registry().with(spans);
    Ok(registry.with(layer.with_filter(filter)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Config;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: LogFormat, filter: &str) -> String {
        let mut telemetry = Config::default().telemetry;
        telemetry.log_format = format;
        filter.clone_into(&mut telemetry.log_level);
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(&telemetry, None, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("pull", image = "alpine").entered();
            tracing::info!(bytes = 7, "pulled");
            tracing::debug!("hidden unless asked for");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines_carry_fields_and_span() {
        let text = lines(LogFormat::Text, "info");
        assert!(text.contains("INFO pull{image=\"alpine\"}"), "{text}");
        assert!(text.contains("pulled bytes=7"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_lines_are_objects_with_fields() {
        let text = lines(LogFormat::Json, "info");
        assert!(text.starts_with('{') && text.ends_with("}\n"), "{text}");
        assert!(text.contains("\"bytes\":7"), "{text}");
        assert!(text.contains("\"image\":\"alpine\""), "{text}");
    }

    #[test]
    fn levels_can_be_set_by_module() {
        assert_eq!(lines(LogFormat::Text, "warn").lines().count(), 0);
        let filter = "warn,orlop_base::telemetry=debug";
        assert_eq!(lines(LogFormat::Text, filter).lines().count(), 2);
    }

    #[test]
    fn a_filter_that_cannot_be_read_says_what_would_be_right() {
        for filter in ["loud!", "", "info,orlop_base", "orlop_base=loud"] {
            let reason = check_filter(filter).unwrap_err();
            assert!(reason.contains("must be a level"), "{reason}");
        }
    }
}
