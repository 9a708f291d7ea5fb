//! Logs in CRI's format.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::Site;
use orlop_e2e::node::eventually;

use crate::support::{Pod, wait_for_end};

/// A line beyond the 16 KiB after which both engines go on in another part.
const LONG_LINE_BYTES: usize = 20_000;

pub(crate) fn a_log_has_every_line_with_its_stream_and_long_ones_in_parts(site: &Site) {
    let pod = Pod::run(site, "web");
    let script = format!(
        "echo one; sleep 0.3; echo two >&2; sleep 0.3; head -c {LONG_LINE_BYTES} /dev/zero | busybox tr '\\0' x; \
         echo; printf rest"
    );
    let container = pod.container("talker", &script);
    let status = wait_for_end(site.kubelet(), &container);
    let log = eventually("the log is whole", || {
        let log = std::fs::read_to_string(&status.log_path)?;
        Ok(log.trim_end().ends_with(" rest").then_some(log))
    })
    .unwrap();
    let lines: Vec<Vec<&str>> = log
        .lines()
        .map(|line| line.splitn(4, ' ').collect())
        .collect();
    let stamps: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert!(stamps.iter().all(|stamp| stamp.contains('T')), "{stamps:?}");
    assert_eq!(lines[0][1..], ["stdout", "F", "one"]);
    assert_eq!(lines[1][1..], ["stderr", "F", "two"]);
    let long = &lines[2..lines.len() - 1];
    assert!(long.len() >= 2, "{}", long.len());
    let (last, parts) = long.split_last().unwrap();
    assert!(parts.iter().all(|part| part[1..3] == ["stdout", "P"]));
    assert_eq!(last[1..3], ["stdout", "F"]);
    let bytes: usize = long.iter().map(|part| part[3].len()).sum();
    assert_eq!(bytes, LONG_LINE_BYTES);
    assert_eq!(lines.last().unwrap()[1], "stdout");
    assert_eq!(lines.last().unwrap()[3], "rest");
    pod.take_away();
}

pub(crate) fn a_log_that_was_moved_away_is_begun_anew(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container("talker", "while :; do echo line; sleep 0.1; done");
    let path = kubelet.container(&container).unwrap().log_path;
    let moved = format!("{path}.1");
    std::fs::rename(&path, &moved).unwrap();
    let container_id = container.clone();
    let reopen = cri::ReopenContainerLogRequest { container_id };
    kubelet
        .call(async |mut client| client.reopen_container_log(reopen).await)
        .unwrap();
    eventually("the new log grows", || {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        Ok((log.lines().count() > 1).then_some(()))
    })
    .unwrap();
    let before = std::fs::read(&moved).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(std::fs::read(&moved).unwrap(), before, "the old one rests");
    pod.take_away();
}
