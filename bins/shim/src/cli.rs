//! The command line as containerd calls it: Go's flags, then at most one word.

use std::path::PathBuf;

use crate::fault::Fault;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a server, say where it listens, end.
    Start,
    /// Clean up after a server that died.
    Delete,
    /// Describe the runtime.
    Info,
    /// Say which version this is.
    Version,
}

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cli {
    /// None if the command line says only who it is about.
    pub(crate) action: Option<Action>,
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    pub(crate) publish_binary: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) debug: bool,
}

impl Cli {
    /// Reads the arguments after the program's name.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, Fault> {
        let mut cli = Self {
            action: None,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: None,
            debug: false,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                cli.word(&arg)?;
                break;
            };
            cli.flag(flag.strip_prefix('-').unwrap_or(flag), &mut args)?;
        }
        cli.check()
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        self.action = match word {
            "start" => Some(Action::Start),
            "delete" => Some(Action::Delete),
            other => return Err(Fault::Invalid(format!("unknown command {other:?}"))),
        };
        Ok(())
    }

    fn flag(&mut self, flag: &str, args: &mut impl Iterator<Item = String>) -> Result<(), Fault> {
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => self.debug = inline.as_deref() != Some("false"),
            "v" | "version" => self.action = Some(Action::Version),
            "info" => self.action = Some(Action::Info),
            name => {
                let value = inline
                    .or_else(|| args.next())
                    .ok_or_else(|| Fault::Invalid(format!("the flag -{name} needs a value")))?;
                self.value(name, value)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, name: &str, value: String) -> Result<(), Fault> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = Some(value.into()),
            "socket" | "debug-socket" => {}
            other => return Err(Fault::Invalid(format!("unknown flag -{other}"))),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, Fault> {
        match self.action {
            Some(Action::Version | Action::Info) => Ok(self),
            Some(Action::Start | Action::Delete) | None => {
                let wrong = |error: orlop_types::IdError| Fault::Invalid(error.to_string());
                orlop_types::Namespace::new(&self.namespace).map_err(wrong)?;
                orlop_types::ContainerId::new(&self.id).map_err(wrong)?;
                Ok(self)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, Fault> {
        Cli::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_calls_are_understood() {
        let cli = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /bin/c -id web -bundle /b -debug delete",
        )
        .unwrap();
        assert_eq!(cli.action, Some(Action::Delete));
        assert_eq!(cli.namespace, "k8s.io");
        assert_eq!(cli.address, "/run/c.sock");
        assert_eq!(cli.bundle, Some("/b".into()));
        assert!(cli.debug);
        assert_eq!(
            parse("--namespace=a --id=b start").unwrap().action,
            Some(Action::Start)
        );
        assert_eq!(parse("-namespace a -id b").unwrap().action, None);
        assert_eq!(parse("-v").unwrap().action, Some(Action::Version));
        assert_eq!(parse("-info").unwrap().action, Some(Action::Info));
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        for line in [
            "",
            "start",
            "-namespace a start",
            "-id",
            "-namespace a -id ../b start",
            "-namespace a -id b stop",
            "-what 1",
        ] {
            assert!(matches!(parse(line), Err(Fault::Invalid(_))), "{line}");
        }
    }
}
