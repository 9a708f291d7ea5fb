//! Sizes, durations and moments as people write and read them.

mod moment;
mod size;
mod span;

pub use self::moment::{MomentError, format_moment, parse_moment};
pub use self::size::{ByteSize, SizeError, format_bytes};
pub use self::span::{SpanError, TimeSpan, format_duration};
