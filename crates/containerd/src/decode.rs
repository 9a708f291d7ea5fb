//! From buckets to records. The layout is described at the top of containerd's `core/metadata/buckets.go`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use orlop_meta::{Image, Runtime, Sandbox, TypedBytes};
use orlop_types::{Descriptor, Digest, ImageName, Labels, LeaseId, Namespace, SandboxId};
use prost::Message;

use crate::Left;
use crate::bolt::{Bolt, BoltError, Bucket, Entry, ReadAt};
use crate::stock::{Blob, Lease, Shelf, Stock};

/// The bucket of everything since containerd 1.0.
const SCHEMA: &[u8] = b"v1";

/// Kinds of records that stay where they are, with the reason.
const LEFT_OUT: [(&[u8], &str, &str); 2] = [
    (
        b"containers",
        "containers",
        "processes and writable layers belong to containerd: drain the node first",
    ),
    (b"ingests", "downloads under way", "they are begun anew"),
];

const SNAPSHOTS_STAY: &str = "layers are unpacked again when an image is first used";

/// Reads everything there is to bring.
pub(crate) fn read<S: ReadAt>(bolt: &mut Bolt<S>) -> Result<Stock, BoltError> {
    let mut reader = Reader {
        bolt,
        stock: Stock::default(),
    };
    let root = reader.bolt.root();
    let mut schema = None;
    let mut old = Vec::new();
    for (key, entry) in reader.bolt.entries(root)? {
        match entry {
            Entry::Bucket(bucket) if key == SCHEMA => schema = Some(bucket),
            Entry::Bucket(bucket) => old.push((key, bucket)),
            Entry::Value(_) => reader.leave(&format!("key {}", shown(&key)), "it is unknown"),
        }
    }
    if let Some(schema) = schema {
        reader.schema(schema)?;
    }
    // Layout 3 kept sandboxes here; what layout 4 has of the same name is younger.
    for (key, bucket) in old {
        reader.beside_schema(&key, bucket)?;
    }
    Ok(reader.stock)
}

/// The keys of a bucket, apart by what they name.
#[derive(Default)]
struct Record {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    buckets: BTreeMap<Vec<u8>, Bucket>,
}

impl Record {
    fn text(&self, key: &str) -> String {
        let value = self.values.get(key.as_bytes());
        value.map_or_else(String::new, |value| shown_plain(value))
    }

    fn number(&self, key: &str) -> Option<i64> {
        varint(self.values.get(key.as_bytes())?)
    }

    fn any(&self, key: &str) -> Result<Option<TypedBytes>, String> {
        let value = self.values.get(key.as_bytes());
        value.map(|value| typed(value)).transpose()
    }
}

struct Reader<'a, S> {
    bolt: &'a mut Bolt<S>,
    stock: Stock,
}

impl<S: ReadAt> Reader<'_, S> {
    fn schema(&mut self, schema: Bucket) -> Result<(), BoltError> {
        let schema = self.record(schema)?;
        self.stock.version = schema.number("version").unwrap_or(0);
        for key in schema.values.keys().filter(|key| *key != b"version") {
            self.leave(&format!("key v1/{}", shown(key)), "it is unknown");
        }
        for (key, bucket) in schema.buckets {
            match parse::<Namespace>(&key) {
                Ok(namespace) => self.namespace(&namespace, bucket)?,
                Err(reason) => self.leave(&format!("namespace {}", shown(&key)), &reason),
            }
        }
        Ok(())
    }

    fn namespace(&mut self, namespace: &Namespace, bucket: Bucket) -> Result<(), BoltError> {
        let record = self.record(bucket)?;
        self.stock.shelves.entry(namespace.clone()).or_default();
        for key in record.values.keys() {
            self.leave(&format!("{namespace}: key {}", shown(key)), "it is unknown");
        }
        for (key, bucket) in record.buckets {
            match key.as_slice() {
                b"labels" => self.shelf(namespace).labels = self.labels(bucket)?,
                b"images" => self.each(namespace, "image", bucket, Self::image)?,
                b"content" => self.content(namespace, bucket)?,
                b"leases" => self.each(namespace, "lease", bucket, Self::lease)?,
                b"sandboxes" => self.each(namespace, "sandbox", bucket, Self::sandbox)?,
                b"snapshots" => self.snapshots(namespace, bucket)?,
                b"indexes" => {}
                _ => self.stays(namespace, &key, bucket)?,
            }
        }
        Ok(())
    }

    /// A namespace of layout 3, which kept its sandboxes beside the schema.
    fn beside_schema(&mut self, key: &[u8], bucket: Bucket) -> Result<(), BoltError> {
        let record = self.record(bucket)?;
        for (kind, bucket) in record.buckets {
            let what = format!("bucket {}/{}", shown(key), shown(&kind));
            if kind != b"sandboxes" {
                self.leave(&what, "it is unknown");
                continue;
            }
            match parse::<Namespace>(key) {
                Ok(namespace) => self.each(&namespace, "sandbox", bucket, Self::sandbox)?,
                Err(reason) => self.leave(&what, &reason),
            }
        }
        for unknown in record.values.keys() {
            let what = format!("key {}/{}", shown(key), shown(unknown));
            self.leave(&what, "it is unknown");
        }
        Ok(())
    }

    /// Reads every record of a bucket; one that does not parse is left with its reason.
    fn each(
        &mut self,
        namespace: &Namespace,
        kind: &str,
        bucket: Bucket,
        read: impl Fn(&mut Self, &Namespace, &[u8], Record) -> Result<Result<(), String>, BoltError>,
    ) -> Result<(), BoltError> {
        for (key, entry) in self.bolt.entries(bucket)? {
            let outcome = match entry {
                Entry::Value(_) => Err("it is no record".to_owned()),
                Entry::Bucket(bucket) => {
                    let record = self.record(bucket)?;
                    read(self, namespace, &key, record)?
                }
            };
            if let Err(reason) = outcome {
                self.leave(&format!("{namespace}: {kind} {}", shown(&key)), &reason);
            }
        }
        Ok(())
    }

    fn image(
        &mut self,
        namespace: &Namespace,
        key: &[u8],
        mut record: Record,
    ) -> Result<Result<(), String>, BoltError> {
        let labels = self.labels_of(&mut record)?;
        let target = self.optional(record.buckets.remove(b"target".as_slice()))?;
        let annotations = self.map_of(&mut record, "annotations")?;
        let image = parse::<ImageName>(key).and_then(|name| {
            let digest = target.text("digest").parse::<Digest>();
            let digest = digest.map_err(|error| error.to_string())?;
            let size = size(&target)?;
            let mut target = Descriptor::new(target.text("mediatype"), digest, size);
            target.annotations = annotations.into_iter().collect();
            Ok(Image::new(name, target, labels?))
        });
        Ok(image.map(|image| self.shelf(namespace).images.push(image)))
    }

    fn content(&mut self, namespace: &Namespace, bucket: Bucket) -> Result<(), BoltError> {
        let record = self.record(bucket)?;
        for (key, bucket) in record.buckets {
            match key.as_slice() {
                b"blob" => self.each(namespace, "blob", bucket, Self::blob)?,
                // Before containerd 1.2.
                b"ingest" => self.stays(namespace, b"ingests", bucket)?,
                _ => self.stays(namespace, &key, bucket)?,
            }
        }
        Ok(())
    }

    fn blob(
        &mut self,
        namespace: &Namespace,
        key: &[u8],
        mut record: Record,
    ) -> Result<Result<(), String>, BoltError> {
        let labels = self.labels_of(&mut record)?;
        let blob = parse::<Digest>(key).and_then(|digest| {
            Ok(Blob {
                digest,
                size_bytes: size(&record)?,
                labels: labels?,
            })
        });
        Ok(blob.map(|blob| self.shelf(namespace).blobs.push(blob)))
    }

    /// Of what a lease holds only blobs are here already when it is made.
    fn lease(
        &mut self,
        namespace: &Namespace,
        key: &[u8],
        mut record: Record,
    ) -> Result<Result<(), String>, BoltError> {
        let labels = self.labels_of(&mut record)?;
        let held = self.map_of(&mut record, "content")?;
        let lease = parse::<LeaseId>(key).and_then(|id| {
            let blobs = held.into_keys().map(|digest| digest.parse::<Digest>());
            let blobs: Result<_, _> = blobs.collect();
            Ok(Lease {
                id,
                labels: labels?,
                blobs: blobs.map_err(|error| error.to_string())?,
            })
        });
        Ok(lease.map(|lease| self.shelf(namespace).leases.push(lease)))
    }

    fn sandbox(
        &mut self,
        namespace: &Namespace,
        key: &[u8],
        mut record: Record,
    ) -> Result<Result<(), String>, BoltError> {
        let labels = self.labels_of(&mut record)?;
        let runtime = self.optional(record.buckets.remove(b"runtime".as_slice()))?;
        let extensions = self.optional(record.buckets.remove(b"extensions".as_slice()))?;
        let sandbox = parse::<SandboxId>(key).and_then(|id| {
            let runtime = Runtime {
                name: runtime.text("name"),
                options: runtime.any("options")?,
            };
            let mut sandbox = Sandbox::new(id, runtime);
            sandbox.labels = labels?;
            sandbox.spec = record.any("spec")?;
            sandbox.sandboxer = record.text("sandboxer");
            for (name, value) in &extensions.values {
                sandbox.extensions.insert(shown_plain(name), typed(value)?);
            }
            Ok(sandbox)
        });
        Ok(sandbox.and_then(|sandbox| self.add_sandbox(namespace, sandbox)))
    }

    fn add_sandbox(&mut self, namespace: &Namespace, sandbox: Sandbox) -> Result<(), String> {
        let sandboxes = &mut self.shelf(namespace).sandboxes;
        if sandboxes.iter().any(|known| known.id == sandbox.id) {
            return Err("a younger record has its id".to_owned());
        }
        sandboxes.push(sandbox);
        Ok(())
    }

    fn snapshots(&mut self, namespace: &Namespace, bucket: Bucket) -> Result<(), BoltError> {
        for (name, bucket) in self.record(bucket)?.buckets {
            let count = self.bolt.entries(bucket)?.into_iter().len();
            let what = format!("{namespace}: {count} snapshots of {}", shown(&name));
            self.leave(&what, SNAPSHOTS_STAY);
        }
        Ok(())
    }

    /// Counts what is not brought.
    fn stays(
        &mut self,
        namespace: &Namespace,
        key: &[u8],
        bucket: Bucket,
    ) -> Result<(), BoltError> {
        let count = self.bolt.entries(bucket)?.into_iter().len();
        let known = LEFT_OUT.iter().find(|(kind, ..)| *kind == key);
        match known {
            Some(_) if count == 0 => {}
            Some((_, words, reason)) => {
                self.leave(&format!("{namespace}: {count} {words}"), reason)
            }
            None => self.leave(
                &format!("{namespace}: bucket {}", shown(key)),
                "it is unknown",
            ),
        }
        Ok(())
    }

    fn shelf(&mut self, namespace: &Namespace) -> &mut Shelf {
        self.stock.shelves.entry(namespace.clone()).or_default()
    }

    fn leave(&mut self, what: &str, why: &str) {
        self.stock.left.push(Left::new(what, why));
    }

    fn record(&mut self, bucket: Bucket) -> Result<Record, BoltError> {
        let mut record = Record::default();
        for (key, entry) in self.bolt.entries(bucket)? {
            match entry {
                Entry::Value(value) => drop(record.values.insert(key, value)),
                Entry::Bucket(bucket) => drop(record.buckets.insert(key, bucket)),
            }
        }
        Ok(record)
    }

    fn optional(&mut self, bucket: Option<Bucket>) -> Result<Record, BoltError> {
        bucket.map_or_else(|| Ok(Record::default()), |bucket| self.record(bucket))
    }

    fn map_of(
        &mut self,
        record: &mut Record,
        key: &str,
    ) -> Result<BTreeMap<String, String>, BoltError> {
        let record = self.optional(record.buckets.remove(key.as_bytes()))?;
        let texts = record.values.iter();
        Ok(texts
            .map(|(key, value)| (shown_plain(key), shown_plain(value)))
            .collect())
    }

    fn labels_of(&mut self, record: &mut Record) -> Result<Result<Labels, String>, BoltError> {
        let map = self.map_of(record, "labels")?;
        Ok(Labels::try_from(map).map_err(|error| error.to_string()))
    }

    /// Labels of a namespace; those that do not fit are left.
    fn labels(&mut self, bucket: Bucket) -> Result<Labels, BoltError> {
        let mut labels = Labels::new();
        for (key, value) in self.record(bucket)?.values {
            let (key, value) = (shown_plain(&key), shown_plain(&value));
            if let Err(error) = labels.insert(key.clone(), value) {
                self.leave(&format!("label {key:?}"), &error.to_string());
            }
        }
        Ok(labels)
    }
}

/// Bytes for a message: quoted, and what is no text escaped.
fn shown(bytes: &[u8]) -> String {
    format!("{:?}", shown_plain(bytes))
}

fn shown_plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn parse<T: FromStr<Err: Display>>(key: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(key).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn size(record: &Record) -> Result<u64, String> {
    let size = record
        .number("size")
        .and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| "its size is missing or impossible".to_owned())
}

/// Go's `binary.PutVarint`: seven bits a byte, least first, the sign in the least bit.
fn varint(bytes: &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index * 7).ok()?)?;
        if byte & 0x80 == 0 {
            let magnitude = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 0 {
                magnitude
            } else {
                !magnitude
            });
        }
    }
    None
}

/// An encoded `google.protobuf.Any`.
fn typed(bytes: &[u8]) -> Result<TypedBytes, String> {
    let any = prost_types::Any::decode(bytes).map_err(|error| error.to_string())?;
    Ok(TypedBytes {
        type_url: any.type_url,
        value: any.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_writes_them() {
        let table: [(&[u8], Option<i64>); 7] = [
            (&[0], Some(0)),
            (&[8], Some(4)),
            (&[1], Some(-1)),
            (&[0x80, 0x01], Some(64)),
            (
                &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                Some(i64::MAX),
            ),
            (&[0x80], None),
            (&[], None),
        ];
        for (bytes, expected) in table {
            assert_eq!(varint(bytes), expected, "{bytes:?}");
        }
    }
}
