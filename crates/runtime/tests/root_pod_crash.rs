//! A daemon that is killed at many moments of a pod's life: the next one leaves nothing behind that is not on record, and
//! nothing on record that is not there.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test drives programs, writes into its own folder, and may panic"
)]

mod support;

use std::time::{Duration, Instant};

use orlop_runtime::pod::{IdMaps, IdRange, PodPhase, ProcessNamespace};
use support::child::{self, run_until, say};
use support::{Life, Node, config, eventually, namespace, output};

/// Set if the pod is to have a user namespace.
const USERS: &str = "ORLOP_TEST_USERS";

/// How long what a killed daemon began may go on: a plugin or a starter that it called.
const LEFT_MAX: Duration = Duration::from_secs(20);

/// Moments at which the daemon is killed, over each life of a pod.
const MOMENTS: u32 = 24;

/// The life of a daemon that makes, stops and removes a pod, and says so. Run by the other test in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn daemon() {
    let Some(node) = child::node() else {
        return;
    };
    let life = node.begin();
    life.runtime.recover().await.unwrap();
    say("begin");
    let mut asked = config("victim");
    asked.namespaces.processes = ProcessNamespace::Pod;
    asked.namespaces.user = std::env::var_os(USERS).map(|_| users());
    let id = life.run(asked).await;
    say("made");
    life.runtime.stop_pod(&namespace(), &id).await.unwrap();
    say("stopped");
    life.remove(&id).await;
    say("removed");
    life.end().await;
}

fn users() -> IdMaps {
    let range = IdRange {
        inside: 0,
        outside: 500_000,
        count: 65_536,
    };
    IdMaps {
        uids: vec![range],
        gids: vec![range],
    }
}

/// What the next daemon makes of it.
async fn recover(node: &Node, life: &Life) {
    life.runtime.recover().await.unwrap();
    eventually("what was half-made or half-gone is settled", async || {
        let pods = life.pods().await;
        pods.iter()
            .all(|pod| matches!(pod.phase, PodPhase::Ready | PodPhase::NotReady))
    })
    .await;
    for pod in life.pods().await {
        if pod.is_ready() {
            let init = pod.init.unwrap().pid;
            assert!(std::path::Path::new(&format!("/proc/{init}")).exists());
            assert!(pod.places.network.as_ref().unwrap().exists());
        }
        life.remove(&pod.id).await;
    }
    let mut left = node.traces();
    let deadline = Instant::now() + LEFT_MAX;
    while !left.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        left = node.traces();
    }
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_leaves_nothing_to_its_successor() {
    kill_at_many_moments(20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_whose_pods_have_user_namespaces() {
    kill_at_many_moments(21, true).await;
}

async fn kill_at_many_moments(subnet: u8, with_users: bool) {
    let node = Node::new(subnet);
    let variables: &[_] = if with_users { &[(USERS, "1")] } else { &[] };
    let whole = run_until(&node, variables, "removed", Duration::ZERO).took;
    eventually("nothing is left", async || node.traces().is_empty()).await;
    let mut phases = std::collections::BTreeSet::new();
    for moment in 0..MOMENTS {
        let killed = run_until(&node, variables, "begin", whole * moment / MOMENTS);
        let holder = format!("user-namespace {}", killed.pid);
        eventually("what held a user namespace has ended", async || {
            output("pgrep", &["-f", &holder]).is_empty()
        })
        .await;
        let life = node.begin();
        let found = life.pods().await;
        phases.insert(
            found
                .first()
                .map_or("none".to_owned(), |pod| pod.phase.to_string()),
        );
        recover(&node, &life).await;
        life.end().await;
    }
    // The moments were not all the same one.
    assert!(phases.len() >= 3, "{phases:?}");
}
