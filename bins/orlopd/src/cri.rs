//! CRI, and the server where its exec, attach and port-forward are streamed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use orlop_base::clock::SharedClock;
use orlop_base::config::Config;
use orlop_base::task::TaskTree;
use orlop_cri::{Cri, Parts, Streaming, StreamingOptions, TlsFiles};

use crate::engine::{Engine, search_folders, uses_systemd};
use crate::handlers;

/// Starts what the configuration describes.
///
/// # Errors
/// The streaming server's address or certificate cannot be used.
pub(crate) async fn start(
    config: &Config,
    engine: &Engine,
    clock: &SharedClock,
    tasks: &TaskTree,
) -> anyhow::Result<Cri> {
    engine.runtime.hang_up_orphans();
    let options = streaming_options(config)?;
    let runtime = engine.runtime.clone();
    let streaming = Streaming::start(runtime, options, Arc::clone(clock), tasks)
        .await
        .context("cannot serve streams")?;
    Ok(Cri::new(Parts {
        version: engine.identity.version.clone(),
        db: engine.db.clone(),
        runtime: engine.runtime.clone(),
        images: engine.images.clone(),
        snapshot_roots: engine.snapshot_roots.clone(),
        systemd_cgroups: uses_systemd(config.runtime.cgroup_driver),
        probe: handlers::probe(config, search_folders()),
        streaming,
        exec_drain: config.cri.exec_drain_timeout,
        tasks: tasks.child("cri"),
    }))
}

fn streaming_options(config: &Config) -> anyhow::Result<StreamingOptions> {
    let cri = &config.cri;
    let address: IpAddr = cri.stream_address.parse().context("cri.stream_address")?;
    let port = u16::try_from(cri.stream_port).context("cri.stream_port")?;
    let tls = Some((&cri.stream_certificate, &cri.stream_key))
        .filter(|(certificate, _)| !certificate.is_empty())
        .map(|(certificate, key)| TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
            client_authorities: Some(&cri.stream_client_ca)
                .filter(|path| !path.is_empty())
                .map(Into::into),
        });
    Ok(StreamingOptions {
        address: SocketAddr::new(address, port),
        idle: cri.stream_idle_timeout,
        creation: cri.stream_creation_timeout,
        drain: cri.exec_drain_timeout,
        tls,
    })
}
