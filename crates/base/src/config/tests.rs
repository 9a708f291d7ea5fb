use super::*;
use crate::units::ByteSize;
use std::time::Duration;

fn file(text: &str) -> Sources {
    Sources {
        file: Some(("/etc/orlop/config.toml".into(), text.to_owned())),
        ..Sources::default()
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn warnings(loaded: &Loaded) -> String {
    let lines: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let loaded = Config::read(&file("")).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.registry.download_memory, ByteSize::mib(32));
}

#[test]
fn the_default_text_shows_every_setting_and_reads_back_as_the_defaults() {
    let text = Config::default_text();
    insta::assert_snapshot!("default_text", text);
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = Config::read(&file(&uncommented)).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(warnings(&loaded), "");
}

#[test]
fn all_mistakes_are_reported_together_with_their_lines() {
    let mut sources = file(
        r#"
[engine]
root = "var/lib/orlop"
state = 7
oom_score_adj = -2000

[registry]
download_memory = "32 bananas"
progress_timeout = "30"
layers_at_once = 0

[gc]
mutations_max = 99999999999

[runtime]
oci_runtimes = []

[telemetry]
log_format = "xml"
log_level = "loud"
metrics_address = "localhost"
"#,
    );
    sources.environment = pairs(&[("ORLOPD_REGISTRY_ATTEMPTS_MAX", "many")]);
    sources.flags = pairs(&[
        ("snapshotter.default", "zfs"),
        ("registry.attemps_max", "1"),
    ]);
    let errors = Config::read(&sources).unwrap_err();
    assert_eq!(errors.code(), "ORL-E7101");
    insta::assert_snapshot!(errors);
}

#[test]
fn broken_syntax_names_the_line_and_hides_no_other_mistake() {
    let errors = Config::read(&file("[engine]\nroot = \nsocket_gid = \"wheel\"\n")).unwrap_err();
    insta::assert_snapshot!(errors);
}

#[test]
fn a_section_that_is_no_table_is_refused() {
    let errors = Config::read(&file("gc = 1\n")).unwrap_err();
    insta::assert_snapshot!(errors, @r"
    the configuration has an error
      /etc/orlop/config.toml:1: gc: must be a table, not integer
    ");
}

#[test]
fn unknown_keys_warn_with_the_nearest_known_one() {
    let mut sources = file(
        "[gc]\nstartup_dely = \"1s\"\n[plugins]\n[enginee]\n[runtime.handlers.runc]\nshimm = \"\"\n",
    );
    sources.environment = pairs(&[
        ("ORLOPD_GC_MUTATIONSMAX", "1"),
        ("ORLOPD_CONFIG", "/x"),
        ("PATH", "/bin"),
    ]);
    let loaded = Config::read(&sources).unwrap();
    insta::assert_snapshot!(warnings(&loaded));
}

#[test]
fn later_sources_win_flag_over_environment_over_file() {
    let mut sources =
        file("[registry]\nattempts_max = 1\n[gc]\nmutations_max = 1\nschedule_delay = \"1m\"\n");
    sources.environment = pairs(&[
        ("ORLOPD_REGISTRY_ATTEMPTS_MAX", "2"),
        ("ORLOPD_GC_MUTATIONS_MAX", "2"),
        ("ORLOPD_RUNTIME_OCI_RUNTIMES", "/bin/a, b"),
    ]);
    sources.flags = pairs(&[
        ("registry.attempts_max", "3"),
        ("registry.attempts_max", "4"),
    ]);
    let config = Config::read(&sources).unwrap().config;
    assert_eq!(config.registry.attempts_max, 4);
    assert_eq!(config.gc.mutations_max, 2);
    assert_eq!(config.gc.schedule_delay, Duration::from_secs(60));
    assert_eq!(config.runtime.oci_runtimes, ["/bin/a", "b"]);
}

#[test]
fn handlers_have_names_the_operator_chooses() {
    let text = "[runtime.handlers.\"io.containerd.runc.v2\"]\noci_runtime = \"crun\"\n";
    let config = Config::read(&file(text)).unwrap().config;
    let handler = &config.runtime.handlers["io.containerd.runc.v2"];
    assert_eq!(handler.oci_runtime, "crun");
    assert_eq!(handler.shim, "");
}

#[test]
fn folders_that_would_eat_each_other_are_refused() {
    let errors = Config::read(&file("[engine]\nstate = \"/var/lib/orlop/state\"\n")).unwrap_err();
    assert_eq!(errors.errors().len(), 1);
    assert_eq!(errors.errors()[0].key, "engine.state");
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    let errors = Sources::of_process(Some(Path::new("/nonexistent/orlop.toml"))).unwrap_err();
    assert!(errors.to_string().contains("/nonexistent/orlop.toml"));
}

proptest::proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text: String) {
        let _read = Config::read(&file(&text)).is_ok();
    }
}
