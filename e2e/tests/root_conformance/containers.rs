//! Containers: their states, their lists, what they are made of.

use std::os::unix::fs::PermissionsExt;

use orlop_api::runtime::v1 as cri;
use orlop_api::runtime::v1::ContainerState;
use orlop_e2e::Site;
use tonic::Code;

use crate::support::{Pod, SLEEPING, code, labels, says, wait_for_end};

pub(crate) fn a_container_is_created_runs_and_ends(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.create_with("worker", "sleep 1; exit 3", |config| {
        config.labels = labels("role", "worker");
        config.annotations = labels("note", "text");
    });
    let created = kubelet.container(&container).unwrap();
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    assert_eq!(created.metadata.unwrap().name, "worker");
    assert_eq!(created.labels, labels("role", "worker"));
    assert_eq!(created.annotations, labels("note", "text"));
    assert_eq!(created.image.unwrap().image, site.image());
    assert!(!created.image_ref.is_empty());
    let log = kubelet.log_folder("web").join("worker.log");
    assert_eq!(created.log_path, log.display().to_string());
    kubelet.start(&container).unwrap();
    let running = kubelet.container(&container).unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= created.created_at);
    let again = kubelet.start(&container).unwrap_err();
    assert_ne!(again.code(), Code::NotFound);
    let ended = wait_for_end(kubelet, &container);
    assert_eq!((ended.exit_code, &*ended.reason), (3, "Error"), "{ended:?}");
    assert!(ended.finished_at > ended.started_at);
    let well = wait_for_end(kubelet, &pod.container("well", "true"));
    assert_eq!((well.exit_code, &*well.reason), (0, "Completed"));
    kubelet.remove(&container).unwrap();
    let gone = kubelet.container(&container).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let running = pod.container("running", SLEEPING);
    // One that runs is killed.
    kubelet.remove(&running).unwrap();
    pod.take_away();
}

pub(crate) fn containers_are_found_by_id_state_pod_and_labels(site: &Site) {
    let kubelet = site.kubelet();
    let [one, two] = ["one", "two"].map(|name| Pod::run(site, name));
    let first = one.container_with("first", SLEEPING, |config| {
        config.labels = labels("n", "1");
    });
    let second = two.create_with("second", SLEEPING, |config| {
        config.labels = labels("n", "2");
    });
    let found = |filter: cri::ContainerFilter| {
        let containers = kubelet.containers(Some(filter)).unwrap();
        let mut ids: Vec<String> = containers.into_iter().map(|one| one.id).collect();
        ids.sort();
        ids
    };
    let any = cri::ContainerFilter::default;
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    assert_eq!(found(any()), both);
    let by_id = |id: &str| cri::ContainerFilter {
        id: id.to_owned(),
        ..any()
    };
    assert_eq!(found(by_id(&first[..10])), [&*first]);
    let by_pod = cri::ContainerFilter {
        pod_sandbox_id: two.id.clone(),
        ..any()
    };
    assert_eq!(found(by_pod), [&*second]);
    let by_state = cri::ContainerFilter {
        state: Some(cri::ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        }),
        ..any()
    };
    assert_eq!(found(by_state), [&*first]);
    let by_label = cri::ContainerFilter {
        label_selector: labels("n", "2"),
        ..any()
    };
    assert_eq!(found(by_label), [&*second]);
    let listed = kubelet.containers(Some(by_id(&second))).unwrap();
    assert_eq!(listed[0].pod_sandbox_id, two.id);
    assert_eq!(listed[0].metadata.as_ref().unwrap().name, "second");
    one.take_away();
    two.take_away();
}

pub(crate) fn what_the_image_says_holds_unless_the_container_says_otherwise(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    // The image's command is a shell, which ends at once without input.
    let bare = pod.container_with("bare", "", |config| config.command.clear());
    assert_eq!(wait_for_end(kubelet, &bare).exit_code, 0);
    let told = pod.container_with("told", "", |config| {
        config.command = vec!["sh".to_owned(), "-c".to_owned()];
        config.args = vec![SLEEPING.to_owned()];
        config.working_dir = "/tmp".to_owned();
        config.envs = vec![cri::KeyValue {
            key: "WORD".to_owned(),
            value: b"a b=c".to_vec(),
        }];
    });
    let environment = says(kubelet, &told, "env; echo FOLDER=$PWD");
    for line in ["PATH=/bin", "WORD=a b=c", "FOLDER=/tmp"] {
        assert!(environment.lines().any(|one| one == line), "{environment}");
    }
    pod.take_away();
}

pub(crate) fn a_container_that_does_not_listen_is_killed_after_its_grace(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let deaf = pod.container("deaf", "trap '' TERM; while :; do sleep 0.1; done");
    let polite = pod.container("polite", "trap 'exit 7' TERM; while :; do sleep 0.1; done");
    says(kubelet, &polite, "sleep 1");
    let before = std::time::Instant::now();
    kubelet.stop(&deaf, 1).unwrap();
    assert!(before.elapsed() >= std::time::Duration::from_secs(1));
    kubelet.stop(&polite, 10).unwrap();
    for (id, exit_code) in [(&deaf, 137), (&polite, 7)] {
        let ended = kubelet.container(id).unwrap();
        assert_eq!(ended.state(), ContainerState::ContainerExited);
        assert_eq!(ended.exit_code, exit_code, "{ended:?}");
        // One that has ended is stopped.
        kubelet.stop(id, 0).unwrap();
    }
    pod.take_away();
}

pub(crate) fn a_container_that_cannot_be_started_says_why(site: &Site) {
    let kubelet = site.kubelet();
    let pod = Pod::run(site, "web");
    let container = pod.create_with("broken", "", |config| {
        config.command = vec!["/no/such/program".to_owned()];
    });
    let refused = kubelet.start(&container).unwrap_err();
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    let ended = kubelet.container(&container).unwrap();
    assert_eq!(ended.state(), ContainerState::ContainerExited);
    assert_eq!((ended.exit_code, &*ended.reason), (128, "StartError"));
    assert!(ended.message.contains("/no/such/program"), "{ended:?}");
    assert!(ended.finished_at > 0);
    pod.take_away();
}

pub(crate) fn files_of_the_host_are_seen_as_they_were_mounted(site: &Site) {
    let kubelet = site.kubelet();
    let scratch = site.ground().scratch();
    let shared = scratch.folder("shared").unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::rename(
        scratch.file("note", "from outside\n").unwrap(),
        shared.join("note"),
    )
    .unwrap();
    let missing = scratch.path().join("made/for/it");
    let mount = |path: &std::path::Path, container_path: &str, readonly| cri::Mount {
        container_path: container_path.to_owned(),
        host_path: path.display().to_string(),
        readonly,
        ..cri::Mount::default()
    };
    let pod = Pod::run(site, "web");
    let container = pod.container_with("mounts", SLEEPING, |config| {
        config.mounts = vec![
            mount(&shared, "/mnt/rw", false),
            mount(&shared, "/mnt/ro", true),
            mount(&missing, "/mnt/new", false),
        ];
    });
    assert_eq!(
        says(kubelet, &container, "cat /mnt/ro/note"),
        "from outside\n"
    );
    says(kubelet, &container, "echo inside > /mnt/rw/word");
    assert_eq!(
        std::fs::read_to_string(shared.join("word")).unwrap(),
        "inside\n"
    );
    assert_ne!(code(kubelet, &container, "echo no > /mnt/ro/word"), 0);
    assert!(missing.is_dir(), "a missing folder is made");
    let told = kubelet.container(&container).unwrap().mounts;
    let read_only = told.iter().find(|one| one.container_path == "/mnt/ro");
    assert!(read_only.unwrap().readonly, "{told:?}");
    pod.take_away();
}
