//! A client of OCI registries: resolve, authorise, fetch in ranges, push.
//!
//! Purpose: turn a [`Reference`](orlop_types::Reference) into a descriptor and a descriptor into bytes in a
//! [`BlobSink`], from whichever of several hosts answers, and carry bytes the other way.
//!
//! Non-goals: storage, images, unpacking. A blob's digest is verified by whoever owns the sink, because only it
//! sees the bytes in order; manifests, which are held in memory, are verified here.
//!
//! Invariants:
//! - credentials go to the host they are for, over the scheme it was configured with, and never along a redirect;
//! - no body is read without a bound; a blob's bytes in memory never exceed the [`MemoryBudget`];
//! - every wait for a byte ends: a connection without progress is given up, one with progress never is;
//! - every retry is bounded, spread by jitter and not earlier than the server asked.
//!
//! Entry points: [`Client`], [`HostTree`], [`BlobSink`], [`CredentialSource`], [`Error`].
//!
//! The client speaks HTTP/1.1 on purpose: parallel ranges want parallel connections, and back-pressure then ends at
//! the socket instead of in a multiplexed window.

mod auth;
mod client;
mod document;
mod error;
mod fetch;
mod hosts;
mod manifest;
mod observe;
mod proxy;
mod push;
mod resolve;
mod tls;
mod transport;
mod upload;

pub use auth::{
    Challenge, Credential, CredentialError, CredentialFuture, CredentialHelper, CredentialSource,
    DockerConfig, FixedCredential, NoCredentials,
};
pub use client::{Client, ClientOptions};
pub use document::Document;
pub use error::{Error, Failure, FailureKind, Operation, Reach, TlsCause};
pub use fetch::{BlobSink, ContentRange, FetchOptions, Fetched, MemoryBudget};
pub use hosts::{Capabilities, Endpoint, HostTree, HostsError, Scheme, TlsFiles, parse_hosts_file};
pub use manifest::Manifest;
pub use observe::{NoObserver, Observer, Outcome, Transfer};
pub use proxy::Proxies;
pub use push::{BlobSource, Pushed};
pub use resolve::Resolved;
