//! Containers through the command line, from their start to the last trace of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use orlop_e2e::Node;
use orlop_e2e::node::eventually;

/// Runs a script in a container that goes with its end.
fn run(node: &Node, options: &[&str], script: &str) -> orlop_e2e::node::Answer {
    let command = [node.image(), "sh", "-c", script];
    node.caller()
        .orlop(&[&["run", "--rm"], options, &command].concat())
        .unwrap()
}

fn output(node: &Node, options: &[&str], script: &str) -> String {
    run(node, options, script).success().unwrap()
}

#[test]
fn a_command_ends_with_the_code_and_the_output_of_its_process() {
    let node = Node::start().unwrap();
    // The first one fetches the image, and says so.
    assert_eq!(output(&node, &[], "echo fetched"), "fetched\n");
    let answer = run(&node, &[], "echo out; echo err >&2; exit 7");
    assert_eq!(
        (answer.code, &*answer.stdout, &*answer.stderr),
        (7, "out\n", "err\n")
    );
    for code in [0, 1, 125, 137, 255] {
        assert_eq!(run(&node, &[], &format!("exit {code}")).code, code);
    }
    let long = output(&node, &[], "busybox seq 30000");
    assert_eq!(long.lines().count(), 30_000);
    assert_eq!(long.lines().last(), Some("30000"));
    let caller = node.caller();
    let echoed = caller.orlop_with_input(&["run", "--rm", "-i", node.image(), "cat"], "a\nb\n");
    assert_eq!(echoed.unwrap().success().unwrap(), "a\nb\n");
    node.close().unwrap();
}

#[test]
fn options_reach_the_process() {
    let node = Node::start().unwrap();
    let folder = node.scratch().folder("shared").unwrap();
    node.scratch().file("shared-file", "seen\n").unwrap();
    let volume = format!("{}:/data:ro", node.scratch().path().display());
    let writable = format!("{}:/data", folder.display());
    // Options, script, what is printed.
    let table: [(&[&str], &str, &str); 7] = [
        (&["-e", "WORD=two words"], "echo $WORD", "two words\n"),
        (&["-u", "12:34"], "id -u; id -g", "12\n34\n"),
        (&["-w", "/tmp"], "pwd", "/tmp\n"),
        (&["--hostname", "a-name"], "busybox hostname", "a-name\n"),
        (&["-v", &volume], "cat /data/shared-file", "seen\n"),
        (&["--tmpfs", "/new"], "echo x >/new/y; cat /new/y", "x\n"),
        (&["-v", &writable], "echo written >/data/file", ""),
    ];
    for (options, script, expected) in table {
        assert_eq!(output(&node, options, script), expected, "{options:?}");
    }
    let written = std::fs::read_to_string(folder.join("file")).unwrap();
    assert_eq!(written, "written\n");

    let refused: [(&[&str], &str); 2] = [
        (&["-v", &volume], "echo x >/data/shared-file"),
        (&["--read-only"], "echo x >/tmp/y"),
    ];
    for (options, script) in refused {
        let answer = run(&node, options, script);
        assert_ne!(answer.code, 0, "{options:?}");
        let why = answer.stderr;
        assert!(why.contains("Read-only file system"), "{options:?}: {why}");
    }
    node.close().unwrap();
}

#[test]
fn a_detached_container_is_reached_by_its_name_until_it_is_removed() {
    let node = Node::start().unwrap();
    let caller = node.caller();
    let script = "echo first; trap 'echo bye; exit 5' TERM; while :; do sleep 0.1; done";
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        node.image(),
        "sh",
        "-c",
        script,
    ];
    assert_eq!(caller.orlop(&run).unwrap().success().unwrap(), "web\n");
    let logs = || caller.orlop(&["logs", "web"])?.success();
    eventually("the log has a line", || {
        Ok(Some(logs()?).filter(|text| text.starts_with("first\n")))
    })
    .unwrap();

    let executed = caller.orlop(&["exec", "web", "sh", "-c", "echo in; exit 9"]);
    let executed = executed.unwrap();
    assert_eq!((executed.code, &*executed.stdout), (9, "in\n"));
    let running = node.inspect("web").unwrap();
    assert_eq!(running["task"]["state"], "running");
    let group = running["cgroup_path"].as_str().unwrap();
    assert!(group.starts_with('/') && group.contains("web"), "{group}");
    let steps = running["transitions"].as_array().unwrap();
    assert!(steps.len() >= 3, "{steps:?}");
    assert!(steps.iter().all(|step| step["undone"] == false));
    let again = caller.orlop(&run).unwrap();
    assert_eq!(again.code, 125, "a name is given once: {again:?}");
    assert!(again.stderr.contains("already exists"), "{again:?}");
    let snapshots = caller.orlop(&["snapshots", "ls"]).unwrap();
    assert!(
        snapshots.success().unwrap().contains("web"),
        "the refused one takes nothing from the running one"
    );
    assert_eq!(caller.orlop(&["rm", "web"]).unwrap().code, 5);

    caller.orlop(&["stop", "web"]).unwrap().success().unwrap();
    let exit = node.wait_for_exit("web").unwrap();
    assert_eq!(
        (&exit["exit_code"], &exit["cause"]),
        (&5.into(), &"exited".into())
    );
    assert!(logs().unwrap().ends_with("bye\n"));
    assert_eq!(caller.orlop(&["exec", "web", "true"]).unwrap().code, 125);
    caller.orlop(&["rm", "web"]).unwrap().success().unwrap();
    assert_eq!(caller.orlop(&["inspect", "web"]).unwrap().code, 3);
    node.close().unwrap();
}

#[test]
fn the_cause_of_an_end_is_told_apart_from_its_number() {
    let node = Node::start().unwrap();
    let caller = node.caller();
    let hungry = "x=a; while :; do x=$x$x$x; done";
    // Name, options, script, code, cause, wait status.
    let table: [(&str, &[&str], _, _, _, _); 3] = [
        (
            "hungry",
            &["--memory", "16m"],
            hungry,
            137,
            "workload_oom",
            9,
        ),
        ("liar", &[], "exit 137", 137, "exited", 137 << 8),
        ("plain", &[], "exit 1", 1, "exited", 1 << 8),
    ];
    for (name, options, script, code, cause, status) in table {
        let command = [node.image(), "sh", "-c", script];
        let run = [&["run", "--name", name], options, &command].concat();
        assert_eq!(caller.orlop(&run).unwrap().code, code, "{name}");
        let exit = node.wait_for_exit(name).unwrap();
        assert_eq!(exit["cause"], cause, "{exit}");
        assert_eq!(exit["wait_status"], status, "{exit}");
        assert_ne!(exit["evidence"].as_array().unwrap().len(), 0, "{exit}");
        caller.orlop(&["rm", name]).unwrap().success().unwrap();
    }
    let sleep = [
        "run",
        "-d",
        "--name",
        "target",
        node.image(),
        "sleep",
        "1000",
    ];
    caller.orlop(&sleep).unwrap().success().unwrap();
    let kill = ["kill", "--signal", "KILL", "target"];
    caller.orlop(&kill).unwrap().success().unwrap();
    let exit = node.wait_for_exit("target").unwrap();
    assert_eq!(exit["cause"], "killed_by_runtime", "{exit}");
    caller.orlop(&["rm", "target"]).unwrap().success().unwrap();
    node.close().unwrap();
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let node = Node::start().unwrap();
    let missing = format!("{}/e2e/missing:1", node.registry().host());
    // Arguments of run, exit code, what the message has.
    let table: [(&[&str], u32, &str); 4] = [
        (&[&missing], 125, "e2e/missing:1"),
        (&["--pull", "never", &missing], 125, "e2e/missing:1"),
        (&[node.image(), "no-such-command"], 125, "no-such-command"),
        (
            &["-u", "nobody-here", node.image(), "true"],
            125,
            "nobody-here",
        ),
    ];
    for (arguments, code, word) in table {
        let answer = node
            .caller()
            .orlop(&[&["run"], arguments].concat())
            .unwrap();
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.stderr.contains(word), "{answer:?}");
        assert!(answer.stderr.contains("ORL-E"), "{answer:?}");
    }
    let kept = node.caller().json(&["ps", "-a"]).unwrap();
    assert_eq!(kept.as_array().map(Vec::len), Some(0), "{kept}");
    node.close().unwrap();
}

#[test]
fn each_network_is_what_it_says() {
    let node = Node::start().unwrap();
    let links = "ls /sys/class/net";
    assert_eq!(output(&node, &["--net", "none"], links), "lo\n");
    let own = std::fs::read_dir("/sys/class/net").unwrap().count();
    let host = output(
        &node,
        &["--net", "host"],
        "ls -1 /proc/1/net/dev >/dev/null; cat /proc/net/dev",
    );
    assert_eq!(
        host.lines().count(),
        own + 2,
        "two lines of headings: {host}"
    );

    let plugged = output(
        &node,
        &["--net", "cni"],
        "busybox ip -4 address show dev eth0",
    );
    assert!(plugged.contains("inet 10.213.77."), "{plugged}");
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--net",
        "cni",
        node.image(),
        "sleep",
        "1000",
    ];
    node.caller().orlop(&run).unwrap().success().unwrap();
    let network = node.inspect("web").unwrap()["network"].take();
    assert!(
        network["addresses"][0]
            .as_str()
            .unwrap()
            .starts_with("10.213.77."),
        "{network}"
    );
    node.caller()
        .orlop(&["rm", "-f", "web"])
        .unwrap()
        .success()
        .unwrap();
    let leased: Vec<_> = std::fs::read_dir(node.scratch().path().join("ipam"))
        .unwrap()
        .flat_map(|network| std::fs::read_dir(network.unwrap().path()).unwrap())
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("10."))
        .collect();
    assert_eq!(leased, [""; 0], "addresses are given back");
    node.close().unwrap();
}

/// How often a container's script began.
fn beginnings(node: &Node, name: &str) -> usize {
    let log = node.caller().orlop(&["logs", name]).unwrap();
    log.stdout.lines().filter(|line| *line == "begin").count()
}

#[test]
fn a_container_that_ended_is_started_again_as_its_policy_says() {
    let mut node = Node::start_with(&["runtime.restart_interval=100ms"]).unwrap();
    let failing = "echo begin; exit 3";
    let staying = "echo begin; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    for (name, policy, script) in [
        ("never", "no", failing),
        ("twice", "on-failure:2", failing),
        ("well", "on-failure", "echo begin; exit 0"),
        ("always", "always", failing),
        ("stopped", "unless-stopped", staying),
    ] {
        let image = node.image();
        let run = [
            "run",
            "-d",
            "--restart",
            policy,
            "--name",
            name,
            image,
            "sh",
            "-c",
            script,
        ];
        node.caller().orlop(&run).unwrap().success().unwrap();
    }
    eventually("it was started again and again", || {
        Ok(Some(()).filter(|()| beginnings(&node, "always") >= 5))
    })
    .unwrap();
    eventually("it was started twice more", || {
        Ok(Some(()).filter(|()| beginnings(&node, "twice") >= 3))
    })
    .unwrap();
    assert_eq!(beginnings(&node, "never"), 1);
    assert_eq!(beginnings(&node, "well"), 1);
    let stop = ["stop", "stopped"];
    node.caller().orlop(&stop).unwrap().success().unwrap();

    // What is wanted is on record: another daemon goes on with it.
    let before = beginnings(&node, "always");
    node.kill_daemon().unwrap();
    node.start_daemon().unwrap();
    eventually("the next daemon starts it again", || {
        Ok(Some(()).filter(|()| beginnings(&node, "always") > before + 2))
    })
    .unwrap();
    assert_eq!(beginnings(&node, "twice"), 3);
    assert_eq!(beginnings(&node, "stopped"), 1);

    let caller = node.caller();
    for name in ["never", "twice", "well", "always", "stopped"] {
        caller
            .orlop(&["rm", "--force", name])
            .unwrap()
            .success()
            .unwrap();
    }
    let refused = caller.orlop(&["run", "--restart", "sometimes", node.image(), "true"]);
    let refused = refused.unwrap();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("no restart policy"), "{refused:?}");
    node.close().unwrap();
}
