//! What the daemon says about itself: log lines on stderr, figures for Prometheus, and spans for whoever exports them.

mod logs;
mod metrics;
pub mod names;
pub mod spans;
mod throttle;

pub use self::logs::{LogError, SpanLayer, check_filter, init_logs, install_panic_hook};
pub use self::metrics::Metrics;
pub use self::throttle::Throttle;
