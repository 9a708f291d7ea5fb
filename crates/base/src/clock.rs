//! Time as an argument: code that asks a [`Clock`] can be tested at any hour, at any speed.
//!
//! Wall time is what people and peers read; it jumps. Boot time only grows, also while the machine sleeps, so
//! deadlines, leases and back-off use it.
//!
//! Ordering: after [`ManualClock::advance`] returns, every reader sees the new time and every sleeper whose
//! moment has come has been woken. Cancellation: dropping a [`Sleep`] forgets it. Crash: a clock keeps nothing.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

/// A future that ends when its time has come.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A clock shared by everything that needs one.
pub type SharedClock = Arc<dyn Clock>;

/// A source of time. Two exist: [`SystemClock`], and [`ManualClock`] for tests.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day, for people and peers. It may jump either way.
    fn wall(&self) -> SystemTime;

    /// Time since the machine started, its sleep included. Never goes back, and starts anew with a reboot, so
    /// never store it without the boot's id.
    fn boottime(&self) -> Duration;

    /// Waits for `duration`. Only the future needs a runtime; asking for it does not.
    fn sleep(&self, duration: Duration) -> Sleep;

    /// Waits until [`Clock::boottime`] has reached `moment`; returns at once if it has.
    fn sleep_until(&self, moment: Duration) -> Sleep {
        self.sleep(moment.saturating_sub(self.boottime()))
    }
}

/// The kernel's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The kernel's clocks, ready to be shared.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the time of day"
    )]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn boottime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).expect("the kernel's boot clock is never negative")
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        // Built inside the future: `tokio::time::sleep` panics when it is made outside a runtime.
        Box::pin(async move { tokio::time::sleep(duration).await })
    }
}

/// A clock that stands still until told otherwise. Clones share one time; threads and tasks may both use it.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now: Arc<Mutex<Now>>,
    boottime: watch::Sender<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Now {
    wall: SystemTime,
    boottime: Duration,
}

impl ManualClock {
    /// A clock that starts at 2026-01-01T00:00:00Z, one hour after boot.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }

    /// A clock whose time of day is `wall`, one hour after boot.
    #[must_use]
    pub fn starting_at(wall: SystemTime) -> Self {
        let boottime = Duration::from_secs(3600);
        Self {
            now: Arc::new(Mutex::new(Now { wall, boottime })),
            boottime: watch::Sender::new(boottime),
        }
    }

    /// Lets `duration` pass and wakes whoever slept for less.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.lock();
        now.wall += duration;
        now.boottime += duration;
        self.boottime.send_replace(now.boottime);
    }

    /// Sets the time of day, as an administrator or NTP does. Sleepers notice nothing.
    pub fn set_wall(&self, wall: SystemTime) {
        self.lock().wall = wall;
    }

    /// How many futures wait for this clock: lets a test wait for its subject to fall asleep.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.boottime.receiver_count()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Both fields are plain values: a panic of another holder cannot have left them half written.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        self.lock().wall
    }

    fn boottime(&self) -> Duration {
        self.lock().boottime
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let moment = self.boottime() + duration;
        let mut boottime = self.boottime.subscribe();
        // The sender's end is a clock nobody can move any more: such a sleep never ends, as a still clock's would not.
        Box::pin(async move {
            if boottime.wait_for(|now| *now >= moment).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_moves_forward() {
        let clock = SystemClock;
        let before = clock.boottime();
        assert!(clock.boottime() >= before);
        assert!(clock.wall() > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_manual_clock_moves_for_threads_that_know_no_runtime() {
        let clock = ManualClock::new();
        let other = clock.clone();
        let before = clock.boottime();
        other.advance(Duration::from_secs(5));
        assert_eq!(clock.boottime() - before, Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(10));
        assert_eq!(clock.sleepers(), 1);
        clock.advance(Duration::from_secs(9));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn setting_the_time_of_day_wakes_nobody() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(10));
        clock.set_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
        assert!(futures_util::poll!(&mut sleep).is_pending());
    }

    #[tokio::test]
    async fn sleeping_until_a_past_moment_returns_at_once() {
        let clock = ManualClock::new();
        clock.sleep_until(Duration::ZERO).await;
    }
}
