//! How a process ended, from the record that `orlop-shim` leaves in the bundle.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::machine::Exit;

/// The code told when nobody saw the end: what containerd calls unknown.
const UNKNOWN_CODE: u32 = 255;

/// The part of the shim's exit record that the daemon looks into. The file holds more, for the doctor.
#[derive(Debug, Deserialize)]
struct Record {
    version: u32,
    wait_status: i32,
    exited_at_unix_nanos: u64,
    cause: String,
}

/// Reads `exit.json`; `None` if it is of another version or damaged, which is as good as none.
pub(crate) fn parse(text: &[u8]) -> Option<Exit> {
    let record: Record = serde_json::from_slice(text)
        .ok()
        .filter(|record: &Record| record.version == 1)?;
    Some(Exit {
        code: shell_code(record.wait_status),
        at: SystemTime::UNIX_EPOCH + Duration::from_nanos(record.exited_at_unix_nanos),
        wait_status: Some(record.wait_status),
        cause: record.cause,
    })
}

/// The end of a process whose shim died without leaving a record: the code is made up, and says so.
pub(crate) fn unseen(now: SystemTime) -> Exit {
    Exit {
        code: UNKNOWN_CODE,
        at: now,
        wait_status: None,
        cause: "shim_crash".to_owned(),
    }
}

/// As a shell shows it: the exit status, or 128 plus the signal (wait(2)).
fn shell_code(wait_status: i32) -> u32 {
    let signal = wait_status & 0x7f;
    let code = if signal == 0 {
        (wait_status >> 8) & 0xff
    } else {
        128 + signal
    };
    u32::try_from(code).unwrap_or(UNKNOWN_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_exit_137_and_kill_9_apart() {
        let record = |status: i32| {
            let text = format!(
                r#"{{"version":1,"wait_status":{status},"exited_at_unix_nanos":5,"cause":"exited","more":1}}"#
            );
            parse(text.as_bytes()).unwrap()
        };
        assert_eq!((record(0x8900).code, record(9).code), (137, 137));
        assert_ne!(record(0x8900).wait_status, record(9).wait_status);
        assert_eq!(record(0x0300).code, 3);
    }

    #[test]
    fn what_is_no_record_of_a_known_version_is_none() {
        for text in [
            "",
            "{}",
            "{",
            r#"{"version":2,"wait_status":0,"exited_at_unix_nanos":0,"cause":""}"#,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
