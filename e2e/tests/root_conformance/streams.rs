//! The streams behind URLs. SPDY, port-forwarding and odd peers have suites of their own beside the daemon.

use orlop_api::runtime::v1 as cri;
use orlop_e2e::websocket::WebSocket;
use orlop_e2e::{Kubelet, Site};

use crate::support::{Pod, SLEEPING};

const OUTPUT: usize = 1;
const ERRORS: usize = 2;
const END: usize = 3;

fn exec_url(kubelet: &Kubelet, container: &str, script: &str) -> String {
    let request = cri::ExecRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let answer = kubelet.call(async |mut client| client.exec(request).await);
    answer.unwrap().url
}

pub(crate) fn a_command_is_streamed_both_ways(site: &Site) {
    let pod = Pod::run(site, "web");
    let container = pod.container("sleeper", SLEEPING);
    let script = "read line; echo heard $line; echo problem >&2; exit 4";
    let url = exec_url(site.kubelet(), &container, script);
    let mut stream = WebSocket::connect(&url).unwrap();
    stream.send(b"some words\n").unwrap();
    stream.read_all().unwrap();
    assert_eq!(stream.text(OUTPUT), "heard some words\n");
    assert_eq!(stream.text(ERRORS), "problem\n");
    let end = stream.text(END);
    assert!(
        end.contains("NonZeroExitCode") && end.contains("\"4\""),
        "{end}"
    );
    pod.take_away();
}

pub(crate) fn a_container_is_attached_to(site: &Site) {
    let pod = Pod::run(site, "web");
    let script = "while read line; do echo heard $line; done";
    let container = pod.container_with("listener", script, |config| config.stdin = true);
    let request = cri::AttachRequest {
        container_id: container,
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let answer = site
        .kubelet()
        .call(async |mut client| client.attach(request).await);
    let mut stream = WebSocket::connect(&answer.unwrap().url).unwrap();
    stream.send(b"some words\n").unwrap();
    stream.wait_for(OUTPUT, "heard some words\n").unwrap();
    drop(stream);
    pod.take_away();
}

pub(crate) fn a_url_is_good_for_one_connection(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.container("sleeper", SLEEPING);
    let url = exec_url(kubelet, &container, "true");
    WebSocket::connect(&url).unwrap().read_all().unwrap();
    let again = WebSocket::connect(&url).unwrap_err().to_string();
    assert!(again.contains("refused"), "{again}");
    let (above, _token) = url.rsplit_once('/').unwrap();
    let guessed = WebSocket::connect(&format!("{above}/AAAAAAAA")).unwrap_err();
    assert!(guessed.to_string().contains("refused"), "{guessed}");
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![80],
    };
    let forward = kubelet.call(async |mut client| client.port_forward(request).await);
    assert!(forward.unwrap().url.starts_with("http://"));
    pod.take_away();
}
