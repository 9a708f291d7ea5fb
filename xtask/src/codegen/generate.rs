//! Generates `crates/api/src/generated` from `crates/api/proto`.
//!
//! The result is checked in, so that building the engine needs neither protoc nor the generator's dependencies;
//! those come with the feature `codegen` only. gRPC services become tonic clients and servers behind the feature
//! `grpc` of `orlop-api`; services that are spoken over ttrpc become a list of method names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use prost_build::{Config, Service, ServiceGenerator};

const PROTO_FOLDER: &str = "crates/api/proto";
const GENERATED_FOLDER: &str = "crates/api/src/generated";

/// Packages whose services are spoken over ttrpc: gRPC code for them would be dead.
const TTRPC_PACKAGES: [&str; 4] = [
    "containerd.runtime.sandbox.v1",
    "containerd.services.events.ttrpc.v1",
    "containerd.task.v2",
    "containerd.task.v3",
];

/// Messages whose `bytes` fields carry data streams: they are shared, not copied.
const STREAMED: [&str; 3] = [
    ".containerd.services.content.v1",
    ".containerd.types.transfer.Data",
    ".orlop.v1",
];

/// Files by name below the generated folder.
type Generated = BTreeMap<PathBuf, Vec<u8>>;

/// Writes the generated files below `root`, or with `check` fails when they are not what is there.
///
/// # Errors
/// A `.proto` file does not compile, a file cannot be written, or `check` found a difference.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let expected = generate(&root.join(PROTO_FOLDER))?;
    let folder = root.join(GENERATED_FOLDER);
    let present = read_folder(&folder)?;
    if check {
        return compare(&expected, &present);
    }
    for stale in present.keys().filter(|name| !expected.contains_key(*name)) {
        let path = folder.join(stale);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for (name, bytes) in &expected {
        if present.get(name) != Some(bytes) {
            write(&folder.join(name), bytes)?;
        }
    }
    Ok(())
}

fn generate(protos: &Path) -> Result<Generated> {
    let descriptors = protox::Compiler::new([protos])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(proto_files(protos)?)?
        .file_descriptor_set();
    let out = tempfile::tempdir()?;
    config(out.path()).compile_fds(descriptors)?;
    read_folder(out.path())
}

fn config(out: &Path) -> Config {
    let tonic = tonic_prost_build::configure()
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .service_generator();
    let mut config = Config::new();
    config
        .out_dir(out)
        .include_file("mod.rs")
        .enable_type_names()
        .btree_map(["."])
        .bytes(STREAMED)
        .service_generator(Box::new(Services { tonic }));
    config
}

/// Sends each service to the generator of the protocol it is spoken over.
struct Services {
    tonic: Box<dyn ServiceGenerator>,
}

impl ServiceGenerator for Services {
    fn generate(&mut self, service: Service, buffer: &mut String) {
        if TTRPC_PACKAGES.contains(&service.package.as_str()) {
            buffer.push_str(&ttrpc_methods(&service));
        } else {
            self.tonic.generate(service, buffer);
        }
    }

    fn finalize(&mut self, buffer: &mut String) {
        self.tonic.finalize(buffer);
    }
}

/// A module with the service's full name and an enum of its methods.
fn ttrpc_methods(service: &Service) -> String {
    let module = service.name.to_lowercase();
    let full_name = format!("{}.{}", service.package, service.proto_name);
    let mut variants = String::new();
    let mut names = String::new();
    let mut parsers = String::new();
    for method in &service.methods {
        let name = &method.proto_name;
        // Writing to a String cannot fail; the macro only cannot know it.
        writeln!(variants, "        {name},").expect("a String takes all");
        writeln!(names, "                Self::{name} => \"{name}\",").expect("a String takes all");
        writeln!(parsers, "                \"{name}\" => Self::{name},")
            .expect("a String takes all");
    }
    format!(
        "/// The ttrpc service `{full_name}`.
pub mod {module}_service {{
    /// The name that requests carry.
    pub const SERVICE: &str = \"{full_name}\";
    /// The methods of the service.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Method {{
{variants}    }}
    impl Method {{
        /// The name that requests carry.
        pub const fn name(self) -> &'static str {{
            match self {{
{names}            }}
        }}
        /// The method of that name.
        pub fn from_name(name: &str) -> Option<Self> {{
            Some(match name {{
{parsers}                _ => return None,
            }})
        }}
    }}
}}
"
    )
}

/// Every `.proto` file below `folder`, in a stable order.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in entries(&next)? {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry
                .extension()
                .is_some_and(|extension| extension == "proto")
            {
                files.push(entry);
            }
        }
    }
    ensure!(
        !files.is_empty(),
        "no .proto file below {}",
        folder.display()
    );
    files.sort();
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().with_context(|| format!("cannot list {}", folder.display()))
}

fn read_folder(folder: &Path) -> Result<Generated> {
    if !folder.exists() {
        return Ok(Generated::new());
    }
    entries(folder)?
        .into_iter()
        .map(|path| {
            let name = path.file_name().context("an entry without a name")?.into();
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((name, bytes))
        })
        .collect()
}

#[allow(
    clippy::disallowed_methods,
    reason = "generated sources are made again, not recovered: no need for an atomic write"
)]
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a generated file has a folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn compare(expected: &Generated, present: &Generated) -> Result<()> {
    let differs: Vec<String> = expected
        .keys()
        .chain(present.keys())
        .filter(|name| expected.get(*name) != present.get(*name))
        .map(|name| name.display().to_string())
        .collect();
    if !differs.is_empty() {
        bail!(
            "{GENERATED_FOLDER} is out of date ({}): run `cargo xtask codegen`",
            differs.join(", ")
        );
    }
    Ok(())
}
