//! What a client of a transfer is told, in the words of containerd's own progress.

use std::sync::Arc;

use orlop_api::containerd::types::transfer as api;
use orlop_api::{Any, any};
use orlop_image::images::{BlobProgress, BlobState, Event, Progress, UnpackState};
use orlop_image::model::{MediaKind, kind_of};
use orlop_meta::Image;
use orlop_types::{Descriptor, ImageName};
use tokio::sync::mpsc;
use tonic::Status;

use crate::request::Caller;
use crate::streams::{Pipe, Streams};
use crate::translate::{descriptor_message, signed};

/// Tells one client; nobody if it asked for nothing. It never waits: what a slow client has no room for is dropped,
/// because later progress replaces it.
pub(super) struct Teller {
    pipe: Option<Pipe>,
}

/// Which way blobs go.
#[derive(Clone)]
pub(super) enum Direction {
    /// Here, from a registry that is called so.
    Down(String),
    /// To a registry.
    Up,
}

impl Teller {
    /// Takes the stream of progress, if the request names one.
    ///
    /// # Errors
    /// `NOT_FOUND` for the stream.
    pub(super) fn new(streams: &Streams, caller: &Caller, stream: &str) -> Result<Self, Status> {
        let pipe = (!stream.is_empty()).then(|| streams.take(&caller.namespace, stream));
        Ok(Self {
            pipe: pipe.transpose()?,
        })
    }

    /// A step of the whole.
    pub(super) fn say(&self, event: &str) {
        self.tell(api::Progress {
            event: event.to_owned(),
            ..api::Progress::default()
        });
    }

    /// A name was written.
    pub(super) fn saved(&self, image: &Image) {
        self.tell(of_image("saved", &image.name, image.target.clone()));
    }

    /// An image is in its registry.
    pub(super) fn pushed(&self, name: &ImageName, target: Descriptor) {
        self.tell(of_image("pushed content", name, target));
    }

    /// Who hears of the blobs of `image`.
    pub(super) fn listener(&self, image: &ImageName, direction: Direction) -> Arc<dyn Progress> {
        let sender = self.pipe.as_ref().map(Pipe::sender);
        let image = image.clone();
        Arc::new(move |event| {
            let Some(sender) = &sender else { return };
            for message in messages(&image, &direction, event) {
                tell(sender, &message);
            }
        })
    }

    fn tell(&self, message: api::Progress) {
        if let Some(pipe) = &self.pipe {
            tell(&pipe.sender(), &message);
        }
    }
}

fn tell(sender: &mpsc::Sender<Result<Any, Status>>, message: &api::Progress) {
    drop(sender.try_send(Ok(any::pack(message))));
}

fn messages(image: &ImageName, direction: &Direction, event: Event) -> Vec<api::Progress> {
    match (event, direction) {
        (Event::Resolved { target, .. }, Direction::Down(from)) => vec![
            api::Progress {
                event: format!("Pulling from {from}"),
                ..api::Progress::default()
            },
            of_image("fetching image content", image, target),
        ],
        (Event::Resolved { target, .. }, Direction::Up) => {
            vec![of_image("pushing content", image, target)]
        }
        (Event::Blob(blob), Direction::Down(_) | Direction::Up) => vec![of_blob(image, blob)],
    }
}

fn of_image(event: &str, name: &ImageName, target: Descriptor) -> api::Progress {
    api::Progress {
        event: event.to_owned(),
        name: name.to_string(),
        desc: Some(descriptor_message(target)),
        ..api::Progress::default()
    }
}

fn of_blob(image: &ImageName, blob: BlobProgress) -> api::Progress {
    let size = blob.descriptor.size;
    let (event, done) = match (blob.unpack, blob.state) {
        // In bytes of the layer as it is stored, so that it fits the total.
        (UnpackState::Unpacking, _) => ("extracting", blob.bytes_unpacked.min(size)),
        (UnpackState::Unpacked, _) => ("extracted", size),
        (UnpackState::None | UnpackState::Waiting | UnpackState::Present, state) => match state {
            BlobState::Waiting => ("waiting", 0),
            BlobState::Downloading | BlobState::Verifying => ("downloading", blob.bytes_done),
            BlobState::Stored | BlobState::Remote => ("complete", size),
            BlobState::Present => ("already exists", size),
            BlobState::Uploading => ("uploading", blob.bytes_done),
        },
    };
    api::Progress {
        event: event.to_owned(),
        name: key(&blob.descriptor),
        parents: vec![image.to_string()],
        progress: signed(done),
        total: signed(size),
        desc: Some(descriptor_message(blob.descriptor)),
    }
}

/// What containerd calls a blob under way (`core/remotes`), which clients show.
fn key(descriptor: &Descriptor) -> String {
    let kind = match kind_of(&descriptor.media_type) {
        MediaKind::Manifest => "manifest",
        MediaKind::Index => "index",
        MediaKind::Layer(_) | MediaKind::OtherLayer | MediaKind::ForeignLayer => "layer",
        MediaKind::Config => "config",
        MediaKind::SchemaOne | MediaKind::Other => "unknown",
    };
    format!("{kind}-{}", descriptor.digest)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use orlop_types::Digest;

    use super::*;

    fn blob(state: BlobState, unpack: UnpackState) -> Event {
        Event::Blob(BlobProgress {
            descriptor: Descriptor::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Digest::sha256([1; 32]),
                100,
            ),
            state,
            bytes_done: 40,
            bytes_moved: 40,
            host: String::new(),
            unpack,
            bytes_unpacked: 300,
        })
    }

    #[test]
    fn a_client_hears_containerds_words() {
        let (pipe, mut heard) = Pipe::new(stream::empty());
        let teller = Teller { pipe: Some(pipe) };
        let image = ImageName::new("a/b:c").unwrap();
        let table = [
            (BlobState::Waiting, UnpackState::Waiting, "waiting", 0),
            (BlobState::Downloading, UnpackState::None, "downloading", 40),
            (BlobState::Stored, UnpackState::Unpacking, "extracting", 100),
            (BlobState::Stored, UnpackState::Unpacked, "extracted", 100),
            (BlobState::Stored, UnpackState::None, "complete", 100),
            (
                BlobState::Present,
                UnpackState::Present,
                "already exists",
                100,
            ),
            (BlobState::Uploading, UnpackState::None, "uploading", 40),
        ];
        let listener = teller.listener(&image, Direction::Up);
        for (state, unpack, event, progress) in table {
            listener.report(blob(state, unpack));
            let object = heard.try_recv().unwrap().unwrap();
            let message: api::Progress = any::unpack(&object).unwrap();
            assert_eq!(
                (message.event.as_str(), message.progress),
                (event, progress)
            );
            assert!(message.name.starts_with("layer-sha256:0101"));
            assert_eq!(message.parents, ["a/b:c"]);
        }
    }

    #[test]
    fn a_client_that_does_not_listen_holds_nobody_up() {
        let (pipe, _unread) = Pipe::new(stream::empty());
        let teller = Teller { pipe: Some(pipe) };
        for _ in 0..10_000 {
            teller.say("again");
        }
        Teller { pipe: None }.say("to nobody");
    }
}
