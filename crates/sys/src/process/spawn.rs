//! `posix_spawn` with owned, typed arguments.
#![allow(
    unsafe_code,
    reason = "posix_spawn and its attribute objects exist only in libc"
)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::RawStatus;

/// Descriptors are moved here before they are handed out, so that no target number is a source of another.
const STAGING_FD_MIN: i32 = 64;

/// Where a child's standard descriptor comes from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'fd> {
    /// `/dev/null`.
    Null,
    /// The parent's own.
    Inherit,
    /// This one.
    Fd(BorrowedFd<'fd>),
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program:?}")]
pub struct SpawnError {
    /// The program.
    pub program: PathBuf,
    /// The kernel's answer; "not found" may also name a missing interpreter.
    #[source]
    pub source: io::Error,
}

/// A program about to be started.
#[derive(Debug, Clone)]
pub struct Spawn<'fd> {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    standard: [Input<'fd>; 3],
    extra: Vec<BorrowedFd<'fd>>,
    own_group: bool,
}

impl<'fd> Spawn<'fd> {
    /// A program by its path; `PATH` is searched when it has no slash. Standard descriptors are `/dev/null`, the
    /// environment is the parent's.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: std::env::vars_os().collect(),
            dir: None,
            standard: [Input::Null; 3],
            extra: Vec::new(),
            own_group: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let key = key.as_ref();
        self.env.retain(|(existing, _)| existing != key);
        self.env.push((key.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts with an empty environment; variables set later count.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Starts in this folder.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets descriptor 0.
    #[must_use]
    pub fn stdin(mut self, input: Input<'fd>) -> Self {
        self.standard[0] = input;
        self
    }

    /// Sets descriptor 1.
    #[must_use]
    pub fn stdout(mut self, input: Input<'fd>) -> Self {
        self.standard[1] = input;
        self
    }

    /// Sets descriptor 2.
    #[must_use]
    pub fn stderr(mut self, input: Input<'fd>) -> Self {
        self.standard[2] = input;
        self
    }

    /// Hands a further descriptor over, as number 3, 4, … in the order of the calls.
    #[must_use]
    pub fn extra_fd(mut self, fd: BorrowedFd<'fd>) -> Self {
        self.extra.push(fd);
        self
    }

    /// Puts the child into a process group of its own, so that it does not share the parent's terminal signals.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// The program cannot be executed, or the machine is out of processes or descriptors.
    pub fn start(&self) -> Result<Child, SpawnError> {
        self.try_start().map_err(|source| SpawnError {
            program: self.program.clone(),
            source,
        })
    }

    fn try_start(&self) -> io::Result<Child> {
        let staged = self.stage()?;
        let mut actions = FileActions::new()?;
        for (fd, target) in staged.iter().zip(0..) {
            if let Some(fd) = fd {
                actions.dup2(fd.as_fd(), target)?;
            }
        }
        if let Some(dir) = &self.dir {
            actions.chdir(dir)?;
        }
        let kept = i32::try_from(staged.len()).unwrap_or(i32::MAX);
        actions.close_from(kept)?;
        let attributes = Attributes::new(self.own_group)?;
        let pid = self.call(&actions, &attributes)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Child { pid, pidfd })
    }

    /// The descriptors for 0, 1, 2, 3, …; `None` leaves the parent's in place.
    fn stage(&self) -> io::Result<Vec<Option<OwnedFd>>> {
        let null = rustix::fs::open(
            c"/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let lift = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, STAGING_FD_MIN).map(Some);
        let mut staged = Vec::with_capacity(3 + self.extra.len());
        for input in self.standard {
            staged.push(match input {
                Input::Null => lift(null.as_fd())?,
                Input::Inherit => None,
                Input::Fd(fd) => lift(fd)?,
            });
        }
        for fd in &self.extra {
            staged.push(lift(*fd)?);
        }
        Ok(staged)
    }

    fn call(&self, actions: &FileActions, attributes: &Attributes) -> io::Result<Pid> {
        let program = c_string(self.program.as_os_str())?;
        let mut args = vec![program.clone()];
        for arg in &self.args {
            args.push(c_string(arg)?);
        }
        let mut env = Vec::with_capacity(self.env.len());
        for (key, value) in &self.env {
            let mut line = key.clone();
            line.push("=");
            line.push(value);
            env.push(c_string(&line)?);
        }
        let argv = null_terminated(&args);
        let envp = null_terminated(&env);
        let mut pid: libc::pid_t = 0;
        // SAFETY: all pointers are to live objects: `argv` and `envp` end with null and point into `args` and `env`;
        // the actions and attributes were initialised by their own functions; the strings outlive the call.
        let error = unsafe {
            libc::posix_spawnp(
                &raw mut pid,
                program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        check(error)?;
        Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn returned no process"))
    }
}

/// A started process. Neither ended nor reaped when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Becomes readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal. One that has ended already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end and reaps.
    ///
    /// # Errors
    /// Someone else reaped it.
    pub fn wait(&self) -> io::Result<RawStatus> {
        loop {
            let options = rustix::process::WaitOptions::empty();
            match rustix::process::waitpid(Some(self.pid), options) {
                Ok(Some((_, status))) => return Ok(RawStatus(status.as_raw())),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn null_terminated(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

fn check(error: i32) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for writes; the function initialises what it points to, or fails.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised just now.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup2(&mut self, fd: BorrowedFd<'_>, target: i32) -> io::Result<()> {
        // SAFETY: the object is initialised; numbers are copied.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd.as_raw_fd(), target)
        })
    }

    fn chdir(&mut self, dir: &Path) -> io::Result<()> {
        let dir = c_string(dir.as_os_str())?;
        // SAFETY: the object is initialised; glibc copies the string.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }

    fn close_from(&mut self, first: i32) -> io::Result<()> {
        // SAFETY: the object is initialised; the number is copied.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new` and destroyed once. It cannot fail in glibc.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(own_group: bool) -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for writes; the function initialises what it points to, or fails.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised just now.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        attributes.reset_signals()?;
        let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        if own_group {
            flags |= libc::POSIX_SPAWN_SETPGROUP;
        }
        let flags = libc::c_short::try_from(flags)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // SAFETY: the object is initialised; a process group of 0 (the default) means a new one.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }

    fn reset_signals(&mut self) -> io::Result<()> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set it is given; the attributes copy it.
        check(unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::posix_spawnattr_setsigmask(&raw mut self.0, set.as_ptr())
        })?;
        // SAFETY: as above, with every signal; glibc skips those that cannot be changed.
        check(unsafe {
            libc::sigfillset(set.as_mut_ptr());
            libc::posix_spawnattr_setsigdefault(&raw mut self.0, set.as_ptr())
        })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new` and destroyed once. It cannot fail in glibc.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
