//! Commands in containers.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::Site;
use tonic::Code;

use crate::support::{Pod, SLEEPING, says};

pub(crate) fn a_command_gives_its_outputs_and_its_code(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container("sleeper", SLEEPING);
    let script = "echo out; echo err >&2; exit 9";
    let answer = kubelet.exec(&container, &["sh", "-c", script]).unwrap();
    assert_eq!(answer.exit_code, 9);
    assert_eq!(
        (&*answer.stdout, &*answer.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let large = says(kubelet, &container, "head -c 1000000 /dev/zero");
    assert_eq!(large.len(), 1_000_000);
    kubelet.exec(&container, &["/no/such"]).unwrap_err();
    pod.take_away();
}

pub(crate) fn a_command_that_takes_too_long_is_ended(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container("sleeper", SLEEPING);
    let request = cri::ExecSyncRequest {
        container_id: container.clone(),
        cmd: ["sleep", "80000"].map(str::to_owned).to_vec(),
        timeout: 1,
    };
    let late = kubelet
        .call(async |mut client| client.exec_sync(request).await)
        .unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    let left = says(kubelet, &container, "ps");
    assert!(!left.contains("sleep 80000"), "{left}");
    pod.take_away();
}
