//! What is done before a mount is made: names put in, folders and file systems made.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use orlop_sys::beneath::{set_mode_fd, set_owner_fd};
use orlop_sys::fs::{Dir, FsError, Mode, Name};
use orlop_sys::process::{Spawn, run};
use orlop_types::{Mount, chain};

use crate::options::{Mkdir, Mkfs, take_mkdirs, take_mkfs};
use crate::plan::{Preparation, Step};
use crate::store::Active;
use crate::template::expand;
use crate::{Error, store};

/// Where Debian and others keep programs that make file systems, in the order they are looked for.
const PROGRAM_FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// A file is sparse: there is little to write however large it is.
const MKFS_TIMEOUT: Duration = Duration::from_secs(120);
/// More is not needed to know what went wrong, in bytes.
const SAID_BYTES_MAX: usize = 4096;

/// The folders beneath which files and folders may be made.
#[derive(Debug)]
pub(crate) struct Roots(Vec<PathBuf>);

impl Roots {
    pub(crate) fn new(roots: Vec<PathBuf>) -> Self {
        Self(roots)
    }

    /// Makes what a step needs, and gives its mount as it is to be made.
    pub(crate) fn prepare(&self, step: &Step, active: &[Active]) -> Result<Mount, Error> {
        let mut mount = step.mount.clone();
        for preparation in &step.preparations {
            match preparation {
                Preparation::Format => format(&mut mount, active),
                Preparation::Mkdir => {
                    let folders = take_mkdirs(&mut mount.options);
                    let folders = folders.map_err(|reason| store::invalid(step, reason))?;
                    for folder in &folders {
                        self.make_folder(step, folder)?;
                    }
                    Ok(())
                }
                Preparation::Mkfs => {
                    let wanted = take_mkfs(&mut mount.options);
                    let wanted = wanted.map_err(|reason| store::invalid(step, reason))?;
                    self.make_file_system(step, &mount.source, &wanted)?;
                    Ok(())
                }
            }
            .map_err(|reason| store::invalid(step, reason))?;
        }
        Ok(mount)
    }

    /// One that exists keeps what is in it, and gets the mode and owner asked for.
    fn make_folder(&self, step: &Step, wanted: &Mkdir) -> Result<(), Error> {
        let (parent, name) = self.locate(step, &wanted.path)?;
        let folder = parent.ensure_dir(&name, Mode::from_raw_mode(wanted.mode))?;
        let failed = |operation| {
            let path = folder.path().to_owned();
            move |source| FsError::io(operation, &path, source)
        };
        if let Some((uid, gid)) = wanted.owner {
            set_owner_fd(&folder, uid, gid).map_err(failed("set the owner of"))?;
        }
        // After the owner, whose change takes bits away; and by itself, since creation goes through the umask.
        set_mode_fd(&folder, wanted.mode).map_err(failed("set the mode of"))?;
        Ok(())
    }

    /// A file that exists is left as it is.
    fn make_file_system(&self, step: &Step, source: &str, wanted: &Mkfs) -> Result<(), Error> {
        let (parent, name) = self.locate(step, source)?;
        if parent.contains(&name)? {
            return Ok(());
        }
        // Without a name until it is whole: whoever finds the file finds a file system.
        let file = parent.create_unnamed(Mode::from_raw_mode(0o640))?;
        let failed = |operation| {
            let path = parent.path_of(&name);
            move |source| FsError::io(operation, &path, source)
        };
        file.set_len(wanted.size_bytes).map_err(failed("size"))?;
        fill(&file, &parent.path_of(&name), wanted)?;
        file.sync_all().map_err(failed("sync"))?;
        match parent.name_file(&file, &name) {
            Err(error) if !error.is_already_exists() => Err(error.into()),
            Ok(()) | Err(_) => Ok(parent.sync()?),
        }
    }

    /// The folder that a path lies in, reached without a link, and its name there.
    fn locate(&self, step: &Step, path: &str) -> Result<(Dir, Name), Error> {
        let path = Path::new(path);
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let beneath = |root: &PathBuf| Some((root.clone(), path.strip_prefix(root).ok()?));
        let found = self.0.iter().find_map(beneath).filter(|_| is_plain);
        let Some((root, relative)) = found else {
            let roots: Vec<_> = self
                .0
                .iter()
                .map(|root| root.display().to_string())
                .collect();
            let reason = format!(
                "{} is not beneath {}, where files are made",
                path.display(),
                roots.join(" or ")
            );
            return Err(store::unsupported(step, reason));
        };
        let name = relative.file_name().and_then(|name| Name::new(name).ok());
        let name = name
            .ok_or_else(|| store::invalid(step, format!("{} is a root itself", path.display())))?;
        let root = Dir::open(&root)?;
        let parent = match relative.parent() {
            Some(parent) if parent != Path::new("") => root.open_dir_beneath(parent)?,
            Some(_) | None => root,
        };
        Ok((parent, name))
    }
}

fn format(mount: &mut Mount, active: &[Active]) -> Result<(), String> {
    mount.source = expand(&mount.source, active)?;
    mount.target = expand(&mount.target, active)?;
    for option in &mut mount.options {
        *option = expand(option, active)?;
    }
    Ok(())
}

/// Has a program make a file system in `file`, which is called `path` in errors.
fn fill(file: &File, path: &Path, wanted: &Mkfs) -> Result<(), Error> {
    let program = format!("mkfs.{}", wanted.kind);
    let failed = |said: String| Error::Mkfs {
        program: program.clone(),
        path: path.to_owned(),
        said,
    };
    let found = PROGRAM_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(&program))
        .find(|path| path.is_file())
        .ok_or_else(|| failed("it is not installed".to_owned()))?;
    let mut arguments = vec!["-q".to_owned()];
    match (wanted.kind.as_str(), &wanted.uuid) {
        ("xfs", Some(uuid)) => arguments.extend(["-m".to_owned(), format!("uuid={uuid}")]),
        (_, Some(uuid)) => arguments.extend(["-U".to_owned(), uuid.clone()]),
        (_, None) => {}
    }
    // The program opens the file through our descriptor, since it has no name.
    arguments.push(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ));
    let ended = run(
        Spawn::new(found).args(arguments),
        MKFS_TIMEOUT,
        SAID_BYTES_MAX,
    );
    let ended = ended.map_err(|error| failed(chain(&error)))?;
    if ended.status.exit_code() == Some(0) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(failed(if said.is_empty() {
        format!("{:?}", ended.status)
    } else {
        said
    }))
}
