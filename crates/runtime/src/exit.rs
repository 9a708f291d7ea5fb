//! How a process ended, from the record that `orlop-shim` leaves in the bundle.

use std::time::{Duration, SystemTime};

use orlop_types::exit::{EXIT_VERSION, ExitCause, ExitFile};

use crate::machine::Exit;

/// The code told when nobody saw the end: what containerd calls unknown.
const UNKNOWN_CODE: u32 = 255;

/// The end of the init process in a shim's exit file; `None` if it has not ended, or if the file is of another version or
/// damaged, which is as good as none.
pub(crate) fn parse(text: &[u8]) -> Option<Exit> {
    let file: ExitFile = serde_json::from_slice(text).ok()?;
    let record = file.init.filter(|_| file.version == EXIT_VERSION)?;
    let since_1970 = Duration::from_nanos(u64::try_from(record.exited_at.wall_ns).unwrap_or(0));
    Some(Exit {
        code: record.exit_status,
        at: SystemTime::UNIX_EPOCH + since_1970,
        cause: record.cause,
        record: Some(record),
    })
}

/// The end of a process whose shim died without leaving a record: the code is made up, and says so.
pub(crate) fn unseen(now: SystemTime) -> Exit {
    Exit {
        code: UNKNOWN_CODE,
        at: now,
        cause: ExitCause::ShimCrash,
        record: None,
    }
}

/// The cause as records and events spell it.
pub(crate) fn word(cause: ExitCause) -> String {
    serde_json::to_value(cause)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u32, raw_status: i32) -> Option<Exit> {
        let moment = r#"{"wall_ns":5,"boot_ns":1}"#;
        let init = format!(
            r#"{{"pid":1,"raw_status":{raw_status},"exit_status":137,"started_at":{moment},"exited_at":{moment},"cause":"exited"}}"#
        );
        parse(
            format!(r#"{{"version":{version},"container_id":"c","namespace":"n","init":{init}}}"#)
                .as_bytes(),
        )
    }

    #[test]
    fn a_record_keeps_exit_137_and_kill_9_apart() {
        let (exited, killed) = (
            file(EXIT_VERSION, 0x8900).unwrap(),
            file(EXIT_VERSION, 9).unwrap(),
        );
        assert_eq!((exited.code, killed.code), (137, 137));
        assert_ne!(
            exited.record.unwrap().raw_status,
            killed.record.unwrap().raw_status
        );
    }

    #[test]
    fn what_is_no_record_of_a_known_version_is_none() {
        assert_eq!(file(EXIT_VERSION + 1, 0), None);
        for text in [
            "",
            "{}",
            "{",
            r#"{"version":1,"container_id":"c","namespace":"n"}"#,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
