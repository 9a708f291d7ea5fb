//! Ports of pods.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener};

use crate::node::{Node, eventually};
use crate::spdy::Client;

fn pair(client: &mut Client, port: u16, request: &str) -> (u32, u32) {
    let port = port.to_string();
    let headers = |kind| {
        [
            ("streamtype", kind),
            ("port", port.as_str()),
            ("requestid", request),
        ]
    };
    (
        client.open(&headers("error")),
        client.open(&headers("data")),
    )
}

/// Says everything back, in upper case, after the client has said all.
fn serve(listener: TcpListener, connections: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut socket, _) = listener.accept().unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).unwrap();
            socket
                .write_all(text.to_ascii_uppercase().as_bytes())
                .unwrap();
        }
    })
}

#[test]
fn many_connections_pass_over_one_and_each_half_closes() {
    let node = Node::start(&[]);
    let pod = node.host_pod();
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    let ports: Vec<u16> = [Some(&v4), v6.as_ref().ok()]
        .into_iter()
        .flatten()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let mut serving = vec![serve(v4, 8)];
    serving.extend(v6.ok().map(|listener| serve(listener, 8)));
    let mut client = Client::connect(&node.port_forward_url(&pod), &["portforward.k8s.io"]);
    for port in &ports {
        let pairs: Vec<_> = (0..8)
            .map(|index| pair(&mut client, *port, &format!("{port}-{index}")))
            .collect();
        for (index, (_, data)) in pairs.iter().enumerate() {
            client.send(*data, format!("hello {index} ").repeat(10_000).as_bytes());
            client.end(*data);
        }
        for (index, (error, data)) in pairs.iter().enumerate() {
            client.read_until(|client| client.streams[data].has_ended);
            assert_eq!(client.text(*data), format!("HELLO {index} ").repeat(10_000));
            assert_eq!(client.text(*error), "");
        }
    }
    serving
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// What listens in the pod's own network namespace is reached, and what listens on the host is not.
#[test]
fn a_pod_with_a_network_of_its_own_is_reached_inside_it() {
    let node = Node::start_networked();
    let pod = node.own_pod();
    let mut inside = std::process::Command::new("ip")
        .args(["netns", "exec", &format!("orlop-{pod}"), "busybox", "nc"])
        .args(["-ll", "-p", "7000", "-e", "busybox"])
        .args(["echo", "from inside"])
        .spawn()
        .unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let on_host = outside.local_addr().unwrap().port();
    let said = |port: u16| {
        let url = node.port_forward_url(&pod);
        let mut client = Client::connect(&url, &["portforward.k8s.io"]);
        let (error, data) = pair(&mut client, port, "1");
        client.end(data);
        client.read_until(|client| {
            client.streams[&error].has_ended && client.streams[&data].has_come_to_its_end()
        });
        (client.text(data), client.text(error))
    };
    eventually("it listens", || said(7000).1.is_empty());
    assert_eq!(said(7000), ("from inside\n".to_owned(), String::new()));
    assert!(said(on_host).1.contains("refused"));
    inside.kill().unwrap();
    inside.wait().unwrap();
    node.remove_pod(&pod);
}

#[test]
fn a_port_where_nobody_listens_says_so_and_the_connection_goes_on() {
    let node = Node::start(&[]);
    let pod = node.host_pod();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut client = Client::connect(&node.port_forward_url(&pod), &["portforward.k8s.io"]);
    for request in ["1", "2"] {
        let (error, data) = pair(&mut client, port, request);
        client.read_until(|client| {
            client.streams[&error].has_ended && client.streams[&data].was_reset
        });
        let text = client.text(error);
        assert!(text.contains("refused"), "{text}");
    }
}
