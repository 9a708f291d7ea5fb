//! The shim's own log: logrus' text form on standard error, which the engine copies from the FIFO `log` in the bundle.
//!
//! A line that does not fit into the FIFO is lost: the engine may be away, and nothing here may wait for it.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::clock;
use crate::fault::Fault;

/// Something the operator may want to know.
pub(crate) fn info(message: &str) {
    line("info", message);
}

/// Something is not as it should be, and the shim goes on.
pub(crate) fn warn(message: &str) {
    line("warning", message);
}

/// The reason for the end of this program.
pub(crate) fn fatal(fault: &Fault) {
    let mut error = std::io::stderr();
    // There is nobody left to tell.
    writeln!(error, "orlop-shim: {} [{}]", fault.chain(), fault.code()).ok();
}

fn line(level: &str, message: &str) {
    let mut text = String::from("time=\"");
    clock::write_rfc3339(&mut text, clock::wall_ns());
    // Writing to a string cannot fail.
    writeln!(
        text,
        "\" level={level} msg={message:?} runtime=io.containerd.orlop.v1"
    )
    .ok();
    std::io::stderr().write_all(text.as_bytes()).ok();
}
