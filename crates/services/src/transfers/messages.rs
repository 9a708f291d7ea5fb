//! Messages of `orlop.v1.Images` and the values they stand for.

use std::path::PathBuf;

use orlop_api::containerd::types;
use orlop_api::orlop::v1 as api;
use orlop_image::images::{
    BlobProgress, BlobState, Credential, Event, Pulled, PushedImage, RegistryAccess, UnpackState,
};
use orlop_types::Platform;

use crate::translate::descriptor_message;

/// A platform of a request; absent is this machine's.
pub(crate) fn platform(message: Option<types::Platform>) -> Option<Platform> {
    let message = message?;
    let variant = Some(message.variant.as_str()).filter(|variant| !variant.is_empty());
    Some(Platform::new(&message.os, &message.architecture, variant))
}

/// How a request wants its registry reached.
pub(super) fn access(options: Option<api::RegistryOptions>) -> RegistryAccess {
    let Some(options) = options else {
        return RegistryAccess::default();
    };
    RegistryAccess {
        credential: options.credentials.map(credential),
        credentials: None,
        plain_http: options.plain_http,
        hosts_folder: Some(options.hosts_folder)
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from),
    }
}

fn credential(message: api::RegistryCredentials) -> Credential {
    if message.identity_token.is_empty() {
        Credential::Basic {
            username: message.username,
            password: message.password,
        }
    } else {
        Credential::IdentityToken(message.identity_token)
    }
}

pub(super) fn pull_event(event: Event) -> api::PullEvent {
    let event = match event {
        Event::Resolved { name, target } => api::pull_event::Event::Resolved(api::ImageResolved {
            name: name.to_string(),
            target: Some(descriptor_message(target)),
        }),
        Event::Blob(progress) => api::pull_event::Event::Blob(blob(progress)),
    };
    api::PullEvent { event: Some(event) }
}

pub(super) fn push_event(event: Event) -> api::PushEvent {
    let event = match event {
        // A push resolves nothing.
        Event::Resolved { .. } => None,
        Event::Blob(progress) => Some(api::push_event::Event::Blob(blob(progress))),
    };
    api::PushEvent { event }
}

pub(super) fn pulled(pulled: Pulled) -> api::PullEvent {
    let done = api::PullDone {
        name: pulled.image.name.to_string(),
        target: Some(descriptor_message(pulled.image.target)),
        chain_id: pulled
            .chain_id
            .map(|chain| chain.to_string())
            .unwrap_or_default(),
        snapshotter: pulled.snapshotter.to_string(),
        bytes_fetched: pulled.bytes_fetched,
        duration: pulled.duration.try_into().ok(),
    };
    api::PullEvent {
        event: Some(api::pull_event::Event::Done(done)),
    }
}

pub(super) fn pushed(pushed: PushedImage) -> api::PushEvent {
    let done = api::PushDone {
        reference: pushed.reference.to_string(),
        target: Some(descriptor_message(pushed.target)),
        bytes_sent: pushed.bytes_sent,
    };
    api::PushEvent {
        event: Some(api::push_event::Event::Done(done)),
    }
}

fn blob(progress: BlobProgress) -> api::BlobProgress {
    let state = match progress.state {
        BlobState::Waiting => api::BlobState::Waiting,
        BlobState::Downloading => api::BlobState::Downloading,
        BlobState::Verifying => api::BlobState::Verifying,
        BlobState::Stored => api::BlobState::Stored,
        BlobState::Present => api::BlobState::Present,
        BlobState::Uploading => api::BlobState::Uploading,
        BlobState::Remote => api::BlobState::Remote,
    };
    let unpack = match progress.unpack {
        UnpackState::None => api::UnpackState::Unspecified,
        UnpackState::Waiting => api::UnpackState::Waiting,
        UnpackState::Unpacking => api::UnpackState::Unpacking,
        UnpackState::Unpacked => api::UnpackState::Unpacked,
        UnpackState::Present => api::UnpackState::Present,
    };
    api::BlobProgress {
        descriptor: Some(descriptor_message(progress.descriptor)),
        state: state.into(),
        bytes_done: progress.bytes_done,
        bytes_moved: progress.bytes_moved,
        host: progress.host,
        unpack: unpack.into(),
        bytes_unpacked: progress.bytes_unpacked,
    }
}
