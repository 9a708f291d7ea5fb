//! The OCI process of a further process: the container's own, with other arguments.

use orlop_api::Any;
use serde_json::{Value, json};

use super::ExecCommand;

/// As containerd's clients type it.
const TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum ExecSpecError {
    /// The command has no program.
    #[error("the command is empty")]
    NoProgram,
    /// The container's spec is not JSON.
    #[error("the container's spec cannot be read")]
    Json(#[from] serde_json::Error),
    /// The container's spec has no process.
    #[error("the container's spec has no process")]
    NoProcess,
}

/// Takes over everything of the container's process that is not about its command: what this version does not know, too.
pub(super) fn process_of(spec: &[u8], command: &ExecCommand) -> Result<Any, ExecSpecError> {
    if command.args.is_empty() {
        return Err(ExecSpecError::NoProgram);
    }
    let mut spec: Value = serde_json::from_slice(spec)?;
    let Some(Value::Object(process)) = spec.get_mut("process") else {
        return Err(ExecSpecError::NoProcess);
    };
    process.insert("args".to_owned(), json!(command.args));
    process.insert("terminal".to_owned(), json!(command.terminal));
    process.remove("commandLine");
    process.remove("consoleSize");
    if command.terminal {
        let env = process.entry("env").or_insert_with(|| json!([]));
        if let Value::Array(env) = env
            && !env.iter().any(is_term)
        {
            env.push(json!("TERM=xterm"));
        }
    }
    Ok(Any {
        type_url: TYPE_URL.to_owned(),
        value: serde_json::to_vec(process)?,
    })
}

fn is_term(variable: &Value) -> bool {
    variable
        .as_str()
        .is_some_and(|text| text.starts_with("TERM="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(process: Value, terminal: bool) -> Value {
        let spec = json!({"ociVersion": "1.2.0", "process": process}).to_string();
        let command = ExecCommand {
            args: vec!["id".to_owned()],
            terminal,
            ..ExecCommand::default()
        };
        let process = process_of(spec.as_bytes(), &command).unwrap();
        serde_json::from_slice(&process.value).unwrap()
    }

    #[test]
    fn everything_but_the_command_is_the_containers() {
        let user = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
        let own = json!({"args": ["init"], "terminal": true, "consoleSize": {"width": 1, "height": 1}, "user": user,
            "cwd": "/w", "env": ["A=b"], "capabilities": {"bounding": ["CAP_CHOWN"]}, "unheard": [1]});
        let expected = json!({"args": ["id"], "terminal": false, "user": user, "cwd": "/w", "env": ["A=b"],
            "capabilities": {"bounding": ["CAP_CHOWN"]}, "unheard": [1]});
        assert_eq!(derived(own, false), expected);
    }

    #[test]
    fn a_terminal_has_a_kind_unless_the_container_says_which() {
        let table = [
            (json!({}), json!(["TERM=xterm"])),
            (json!({"env": ["A=b"]}), json!(["A=b", "TERM=xterm"])),
            (json!({"env": ["TERM=vt100"]}), json!(["TERM=vt100"])),
        ];
        for (process, env) in table {
            assert_eq!(derived(process, true)["env"], env);
        }
    }

    #[test]
    fn without_a_program_or_a_process_there_is_none() {
        let command = ExecCommand {
            args: vec!["id".to_owned()],
            ..ExecCommand::default()
        };
        for spec in ["", "{}", "[]", r#"{"process": 1}"#] {
            assert!(process_of(spec.as_bytes(), &command).is_err(), "{spec}");
        }
        let empty = ExecCommand::default();
        assert!(process_of(br#"{"process": {}}"#, &empty).is_err());
    }
}
