//! How a command's end is told on the error stream: `metav1.Status` as JSON since version 4, words before.

use serde_json::json;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With this exit status.
    Exited(u32),
    /// It did not run, or its end was not seen.
    Failed(String),
}

impl Outcome {
    /// What is written; nothing for a success before version 4.
    pub(super) fn text(&self, has_status: bool) -> Option<String> {
        match self {
            Self::Exited(0) if has_status => {
                Some(json!({"metadata": {}, "status": "Success"}).to_string())
            }
            Self::Exited(0) => None,
            Self::Exited(code) => {
                let message = format!("command terminated with exit code {code}");
                if !has_status {
                    return Some(message);
                }
                let causes = json!([{"reason": "ExitCode", "message": code.to_string()}]);
                let status = json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                    "message": message, "details": {"causes": causes}});
                Some(status.to_string())
            }
            Self::Failed(message) if has_status => {
                let causes = json!([{"message": message}]);
                let status = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                    "message": format!("Internal error occurred: {message}"), "details": {"causes": causes}});
                Some(status.to_string())
            }
            Self::Failed(message) => Some(message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn since_version_four_the_exit_code_is_a_cause() {
        let text = Outcome::Exited(7).text(true).unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        let text = Outcome::Failed("no such file".to_owned())
            .text(true)
            .unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["reason"], "InternalError");
        let text = Outcome::Exited(0).text(true).unwrap();
        assert!(text.contains("Success"));
    }

    #[test]
    fn before_version_four_there_are_only_words_and_none_for_success() {
        assert_eq!(Outcome::Exited(0).text(false), None);
        let words = Outcome::Exited(7).text(false).unwrap();
        assert_eq!(words, "command terminated with exit code 7");
    }
}
