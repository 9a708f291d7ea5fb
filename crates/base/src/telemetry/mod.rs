//! What the daemon says about itself: log lines on stderr, and figures for Prometheus.

mod logs;
mod metrics;
pub mod names;
mod throttle;

pub use self::logs::{LogError, check_filter, init_logs, install_panic_hook};
pub use self::metrics::Metrics;
pub use self::throttle::Throttle;
