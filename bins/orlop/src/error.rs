//! What can go wrong, and how it is told: what, which, why, what to do, an id and a page.

use std::io;

use serde::Serialize;
use tonic::{Code, Status};

/// Exit codes, as `orlop --help` lists them.
pub(crate) mod exit {
    /// The command failed.
    pub(crate) const FAILURE: u8 = 1;
    /// The command was typed wrongly (clap's own code too).
    pub(crate) const USAGE: u8 = 2;
    /// The named thing does not exist.
    pub(crate) const NOT_FOUND: u8 = 3;
    /// The daemon cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 4;
    /// The thing exists already, is in use, or is in the wrong state.
    pub(crate) const CONFLICT: u8 = 5;
    /// `--timeout` is over, or the daemon's own deadline.
    pub(crate) const TIMEOUT: u8 = 6;
    /// `run` and `exec`: the container could not be started. Other codes are the container's own.
    pub(crate) const NOT_STARTED: u8 = 125;
    /// Ended by Ctrl-C, as shells count it.
    pub(crate) const INTERRUPTED: u8 = 130;
    /// The reader of our output went away, as shells count SIGPIPE.
    pub(crate) const CLOSED_PIPE: u8 = 141;
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Nobody answers on the socket.
    #[error("cannot reach the daemon at {address}")]
    Unreachable {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// The daemon said no.
    #[error("{what}")]
    Call {
        what: String,
        #[source]
        status: Box<Status>,
    },
    /// The daemon's answer is not what its protocol promises.
    #[error("{what}: the daemon's answer is incomplete: {missing}")]
    Incomplete { what: String, missing: &'static str },
    /// An argument that only we can judge.
    #[error("{argument}: {reason}")]
    Argument { argument: String, reason: String },
    /// A file, FIFO or terminal of ours.
    #[error("{what}")]
    Local {
        what: String,
        #[source]
        source: io::Error,
    },
    /// Writing the answer.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
    /// `--timeout`.
    #[error("gave up after {seconds} s (--timeout)")]
    Timeout { seconds: f64 },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// `run` and `exec`: any other failure before the process ran.
    #[error("{0}")]
    NotStarted(#[source] Box<CliError>),
}

/// A failure as it is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) id: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) page: String,
}

/// Says what was being done when a call failed.
pub(crate) trait Explain<T> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, CliError>;
}

impl<T> Explain<T> for Result<T, Status> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|status| CliError::Call {
            what: what(),
            status: Box::new(status),
        })
    }
}

impl<T> Explain<T> for io::Result<T> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|source| CliError::Local {
            what: what(),
            source,
        })
    }
}

impl CliError {
    /// An argument that cannot be taken.
    pub(crate) fn argument(argument: impl Into<String>, reason: impl ToString) -> Self {
        Self::Argument {
            argument: argument.into(),
            reason: reason.to_string(),
        }
    }

    /// Whether the reader of our output went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the daemon does not know what was named.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::NotFound)
    }

    /// Whether the daemon says that asking again may help.
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::Unavailable)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Call { status, .. } => exit_code_of(status.code()),
            Self::Argument { .. } => exit::USAGE,
            Self::Incomplete { .. } | Self::Local { .. } => exit::FAILURE,
            Self::Output(_) if self.is_closed_pipe() => exit::CLOSED_PIPE,
            Self::Output(_) => exit::FAILURE,
            Self::Timeout { .. } => exit::TIMEOUT,
            Self::Interrupted => exit::INTERRUPTED,
            Self::NotStarted(inner) => match inner.exit_code() {
                code @ (exit::USAGE | exit::INTERRUPTED | exit::CLOSED_PIPE) => code,
                _ => exit::NOT_STARTED,
            },
        }
    }

    /// The failure as it is shown.
    pub(crate) fn report(&self) -> Report {
        let (id, hint) = match self {
            Self::NotStarted(inner) => return inner.report(),
            Self::Call { status, .. } => match daemon_id(status.message()) {
                Some(id) if TELLS_ONLY_KINDS.iter().any(|part| id.starts_with(part)) => {
                    (id, call_hint(status.code()))
                }
                // Registries, runtimes and file systems fail in ways of their own, which their pages explain.
                Some(id) => (id, None),
                None => (call_id(status.code()), call_hint(status.code())),
            },
            Self::Unreachable { .. } => ("ORL-E8001", Some(UNREACHABLE_HINT)),
            Self::Argument { .. } => (
                "ORL-E8002",
                Some("`orlop help COMMAND` shows what it takes"),
            ),
            Self::Timeout { .. } => (
                "ORL-E8003",
                Some("give it longer, or see `orlop info` for what is slow"),
            ),
            Self::Interrupted => ("ORL-E8004", None),
            Self::Local { .. } => ("ORL-E8005", None),
            Self::Output(_) => ("ORL-E8006", None),
            Self::Incomplete { .. } => (
                "ORL-E8007",
                Some("`orlop version` tells whether program and daemon fit"),
            ),
        };
        Report {
            id: id.to_owned(),
            message: self.message(),
            hint: hint.map(str::to_owned),
            page: format!("docs/errors/{id}.md"),
        }
    }

    /// The failure with its causes, each said once.
    fn message(&self) -> String {
        match self {
            Self::Call { what, status } => format!("{what}: {}", call_message(status)),
            Self::Unreachable { source, .. } => format!("{self}: {}", root_cause(source)),
            Self::Local { source, .. } | Self::Output(source) => format!("{self}: {source}"),
            Self::NotStarted(inner) => inner.message(),
            Self::Incomplete { .. }
            | Self::Argument { .. }
            | Self::Timeout { .. }
            | Self::Interrupted => self.to_string(),
        }
    }
}

/// How the ids of database and services begin (docs/errors/README.md). They tell the same kinds of failure apart as
/// gRPC's codes do, so advice by code fits them.
const TELLS_ONLY_KINDS: [&str; 2] = ["ORL-E4", "ORL-E7"];

const UNREACHABLE_HINT: &str = "is orlopd running (systemctl status orlopd)? Its socket is named by --address or ORLOP_ADDRESS";

/// Our id for a failure that the daemon gave none.
fn call_id(code: Code) -> &'static str {
    match code {
        Code::NotFound => "ORL-E8010",
        Code::AlreadyExists => "ORL-E8011",
        Code::FailedPrecondition | Code::Aborted => "ORL-E8012",
        Code::InvalidArgument | Code::OutOfRange => "ORL-E8013",
        Code::PermissionDenied | Code::Unauthenticated => "ORL-E8014",
        Code::Unimplemented => "ORL-E8015",
        Code::DeadlineExceeded => "ORL-E8016",
        Code::ResourceExhausted => "ORL-E8017",
        Code::Unavailable => "ORL-E8018",
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => "ORL-E8019",
    }
}

fn call_hint(code: Code) -> Option<&'static str> {
    match code {
        Code::NotFound => {
            Some("names belong to a namespace: `orlop namespaces ls`, and --namespace")
        }
        Code::Unimplemented => {
            Some("this daemon does not offer it: `orlop version` shows both versions")
        }
        Code::PermissionDenied => Some("the daemon's socket and its work belong to root: try sudo"),
        Code::Unavailable => {
            Some("the daemon or what it relies on went away: `orlop info`, and its log")
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

fn exit_code_of(code: Code) -> u8 {
    match code {
        Code::NotFound => exit::NOT_FOUND,
        Code::Unavailable => exit::UNREACHABLE,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => exit::CONFLICT,
        Code::DeadlineExceeded => exit::TIMEOUT,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => exit::FAILURE,
    }
}

/// The daemon's words without its id, which is shown apart.
fn call_message(status: &Status) -> String {
    let message = status.message();
    let Some(id) = daemon_id(message) else {
        return match message {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
    };
    let bare = message
        .replacen(&format!("({id})"), "", 1)
        .replacen(&format!("[{id}]"), "", 1)
        .replacen(id, "", 1);
    bare.trim_matches([' ', ':']).to_owned()
}

/// The first id in a status message.
fn daemon_id(message: &str) -> Option<&str> {
    message.match_indices("ORL-E").find_map(|(at, _)| {
        let id = message.get(at..at + "ORL-E".len() + 4)?;
        id["ORL-E".len()..]
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then_some(id)
    })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(status: Status) -> CliError {
        Err::<(), _>(status)
            .explain(|| "cannot pull x".to_owned())
            .unwrap_err()
    }

    #[test]
    fn the_daemons_id_is_shown_apart_from_its_words() {
        for message in [
            "ORL-E3004: no such manifest",
            "[ORL-E3004] no such manifest",
            "no such manifest [ORL-E3004]",
            "no such manifest (ORL-E3004)",
        ] {
            let report = call(Status::not_found(message)).report();
            assert_eq!(report.id, "ORL-E3004");
            assert_eq!(report.message, "cannot pull x: no such manifest");
            assert_eq!(report.page, "docs/errors/ORL-E3004.md");
        }
    }

    #[test]
    fn advice_by_kind_is_given_where_it_fits() {
        let hint = |message: &str| call(Status::not_found(message)).report().hint;
        assert!(hint("image \"x\" not found (ORL-E4001)").is_some());
        assert_eq!(hint("no such manifest (ORL-E3004)"), None);
    }

    #[test]
    fn a_failure_without_an_id_gets_one_of_ours() {
        let report = call(Status::already_exists("")).report();
        assert_eq!(report.id, "ORL-E8011");
        assert!(
            report.message.starts_with("cannot pull x: "),
            "{}",
            report.message
        );
    }

    #[test]
    fn exit_codes_tell_kinds_of_failure_apart() {
        let output = |kind| CliError::Output(io::Error::from(kind));
        for (error, code) in [
            (call(Status::not_found("x")), exit::NOT_FOUND),
            (call(Status::aborted("x")), exit::CONFLICT),
            (call(Status::unavailable("x")), exit::UNREACHABLE),
            (call(Status::internal("x")), exit::FAILURE),
            (CliError::argument("--cpus", "no number"), exit::USAGE),
            (CliError::Timeout { seconds: 1.0 }, exit::TIMEOUT),
            (CliError::Interrupted, exit::INTERRUPTED),
            (output(io::ErrorKind::BrokenPipe), exit::CLOSED_PIPE),
            (output(io::ErrorKind::StorageFull), exit::FAILURE),
            (
                CliError::NotStarted(Box::new(call(Status::not_found("x")))),
                exit::NOT_STARTED,
            ),
            (
                CliError::NotStarted(Box::new(CliError::Interrupted)),
                exit::INTERRUPTED,
            ),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }
}
