//! The stable id of what kept the daemon from starting.

use std::error::Error;
use std::fmt;

use orlop_base::config::ConfigErrors;
use orlop_runtime::PublishError;
use orlop_services::ServeError;

/// What has no id of its own: the message says what it was.
const NOT_STARTED: &str = "ORL-E7102";
/// The socket or a folder for it cannot be had.
const NO_SOCKET: &str = "ORL-E7103";

/// The context of whatever keeps the daemon from listening.
#[derive(Debug)]
pub(crate) struct NoSocket;

impl fmt::Display for NoSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("cannot serve clients")
    }
}

/// The id of the innermost cause that has one.
pub(crate) fn id(error: &anyhow::Error) -> &'static str {
    let ids = error.chain().filter_map(own_id);
    let by_context = error.downcast_ref::<NoSocket>().map(|_| NO_SOCKET);
    ids.last().or(by_context).unwrap_or(NOT_STARTED)
}

fn own_id(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    let of_meta = cause
        .downcast_ref()
        .map(|error: &orlop_meta::Error| error.code());
    let of_containerd = || {
        let error: &orlop_containerd::Error = cause.downcast_ref()?;
        Some(error.code())
    };
    let of_content = || {
        let error: &orlop_meta::ContentError = cause.downcast_ref()?;
        Some(error.code())
    };
    let of_runtime = || {
        let error: &orlop_runtime::Error = cause.downcast_ref()?;
        Some(error.code())
    };
    let of_config = || {
        let errors: &ConfigErrors = cause.downcast_ref()?;
        Some(errors.code())
    };
    let of_server = || {
        let error: &ServeError = cause.downcast_ref()?;
        Some(error.code())
    };
    let of_publish = || {
        let error: &PublishError = cause.downcast_ref()?;
        Some(error.code())
    };
    of_meta
        .or_else(of_containerd)
        .or_else(of_content)
        .or_else(of_runtime)
        .or_else(of_config)
        .or_else(of_server)
        .or_else(of_publish)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_innermost_id_is_told_and_everything_has_one() {
        let in_use = orlop_meta::Error::InUse {
            path: "/x/meta.db.lock".into(),
        };
        let error = Err::<(), _>(in_use).context("cannot open the database");
        assert_eq!(id(&error.unwrap_err()), "ORL-E4005");
        assert_eq!(id(&anyhow!("no thread")), NOT_STARTED);
        let socket = anyhow!("address in use").context(NoSocket);
        assert_eq!(id(&socket), NO_SOCKET);
    }
}
