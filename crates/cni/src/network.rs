//! Attaching and detaching: the plugins of one list, in order (CNI 1.1, section 3).
//!
//! Crash: `add` writes the attachment to the cache first without and then with its result, so that a restart finds
//! whatever an interrupted ADD may have left and can `del` it. Cancellation: none; every plugin has a deadline.
//! Ordering: calls for one attachment must not overlap; calls for different ones may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::id::AttachmentId;
use serde_json::Value;

use crate::cache::{Cache, CacheFault, Entry};
use crate::config::{ConfigList, Plugin, candidates, read_text};
use crate::error::Error;
use crate::exec::{Invocation, Run, Runner, answer};
use crate::protocol::{Command, request};
use crate::result::Outcome;

/// What a list is called that comes from the cache and from no file.
const KEPT_LIST: &str = "cached.conflist";

/// Where things are, and how long a plugin may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Network configurations, usually `/etc/cni/net.d`.
    pub config_folder: PathBuf,
    /// Plugins' executables, usually `/opt/cni/bin` and `/usr/lib/cni`; the first match counts.
    pub plugin_folders: Vec<PathBuf>,
    /// Results, usually `/var/lib/cni`.
    pub cache_folder: PathBuf,
    /// The time there is for one command: all plugins of the chain together for ADD, each of them for any other.
    pub plugin_limit: Duration,
}

/// What is attached to a network.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    /// The container or sandbox.
    pub container: &'a AttachmentId,
    /// Its network namespace. For `del` it may be gone.
    pub namespace_path: &'a Path,
    /// The name the interface gets inside, usually `eth0`.
    pub interface: &'a str,
    /// Arguments of capabilities by name: `portMappings`, `bandwidth`, `ips`, `dns`, `aliases`, ….
    pub capabilities: BTreeMap<String, Value>,
    /// `KEY=value;…` in `CNI_ARGS`, such as Kubernetes' pod name and namespace.
    pub arguments: String,
}

/// One command to the plugins of a list.
struct Call<'a> {
    command: Command,
    attachment: Option<&'a Attachment<'a>>,
    previous: Option<&'a Value>,
    valid: Option<&'a [(String, String)]>,
    limit: Duration,
}

/// One network and what runs its plugins.
pub struct Network<R> {
    list: ConfigList,
    text: String,
    settings: Settings,
    cache: Cache,
    runner: R,
}

impl<R: Runner> Network<R> {
    /// Loads the first usable configuration of the folder, by name.
    ///
    /// # Errors
    /// There is none, or the first one is broken: a broken file is reported rather than passed over, because the next one
    /// would give pods a network nobody meant.
    pub fn load(settings: Settings, runner: R) -> Result<Self, Error> {
        let folder = &settings.config_folder;
        let paths = candidates(folder).map_err(|source| Error::Folder {
            folder: folder.clone(),
            source,
        })?;
        let path = paths.into_iter().next().ok_or_else(|| Error::NoNetwork {
            folder: folder.clone(),
        })?;
        // Read once: what is kept with an attachment is what it was made with, even if the file changes meanwhile.
        let text = read_text(&path).map_err(Error::Config)?;
        let list = ConfigList::parse(&text, &path).map_err(Error::Config)?;
        let cache = Cache::new(&settings.cache_folder);
        Ok(Self {
            list,
            text,
            settings,
            cache,
            runner,
        })
    }

    /// The network of an attachment as it was when that was made; today's, if what was kept is damaged.
    fn of_entry(settings: &Settings, runner: R, entry: &Entry) -> Result<Self, Error> {
        let kept = entry.config_text().and_then(|text| {
            let list = ConfigList::parse(&text, Path::new(KEPT_LIST)).ok()?;
            Some((list, text))
        });
        let Some((list, text)) = kept else {
            return Self::load(settings.clone(), runner);
        };
        Ok(Self {
            list,
            text,
            settings: settings.clone(),
            cache: Cache::new(&settings.cache_folder),
            runner,
        })
    }

    /// The network's configuration.
    #[must_use]
    pub const fn list(&self) -> &ConfigList {
        &self.list
    }

    /// Attaches a container. On failure it has been detached again, best effort.
    ///
    /// # Errors
    /// A plugin that is missing: then none was asked. Else the first plugin that failed.
    pub fn add(&self, attachment: &Attachment<'_>) -> Result<Outcome, Error> {
        for plugin in &self.list.plugins {
            // What a chain had begun could not be taken down in full without it either.
            self.executable(plugin).map(drop)?;
        }
        let mut entry = Entry::new(
            &self.list.name,
            attachment.interface,
            attachment.container,
            attachment.namespace_path,
        );
        entry.capability_args.clone_from(&attachment.capabilities);
        entry.set_arguments(&attachment.arguments);
        entry.set_config(&self.text);
        self.write(&entry, attachment)?;
        match self.add_chain(attachment) {
            Ok((result, outcome)) => {
                entry.result = result;
                self.write(&entry, attachment)?;
                Ok(outcome)
            }
            Err(error) => {
                if let Err(second) = self.del(attachment) {
                    tracing::warn!(container = %attachment.container, error = %second, "a failed network attachment could not be undone");
                }
                Err(error)
            }
        }
    }

    fn add_chain(&self, attachment: &Attachment<'_>) -> Result<(Value, Outcome), Error> {
        let mut result: Option<Value> = None;
        // One time for all of them: whoever waits for the pod does not wait longer for a longer chain.
        let deadline = Instant::now() + self.settings.plugin_limit;
        for plugin in &self.list.plugins {
            let call = Call {
                attachment: Some(attachment),
                previous: result.as_ref(),
                limit: deadline.saturating_duration_since(Instant::now()),
                ..self.call(Command::Add)
            };
            result = Some(self.run(plugin, &call)?);
        }
        let result = result.unwrap_or(Value::Null);
        let outcome = Outcome::parse(&result).map_err(|source| Error::Answer {
            plugin: self
                .list
                .plugins
                .last()
                .map(|plugin| plugin.kind.clone())
                .unwrap_or_default(),
            command: Command::Add.as_str(),
            source,
        })?;
        Ok((result, outcome))
    }

    /// Detaches a container from every network it is attached to, each with the configuration, capabilities and result it
    /// was attached with, last plugin first. The network may be another than today's: renamed, or replaced. Succeeds if
    /// it is not attached; then today's plugins are asked, who may know of an attachment of another engine.
    ///
    /// # Errors
    /// The first plugin that failed, after all of them have been asked. The cached attachment stays for the next try.
    pub fn del(&self, attachment: &Attachment<'_>) -> Result<(), Error> {
        if detach(&self.settings, &self.runner, attachment)? {
            return Ok(());
        }
        self.del_from(attachment, None)
    }

    fn del_from(&self, attachment: &Attachment<'_>, previous: Option<&Value>) -> Result<(), Error> {
        let call = Call {
            attachment: Some(attachment),
            previous,
            ..self.call(Command::Del)
        };
        let mut outcome = Ok(());
        for plugin in self.list.plugins.iter().rev() {
            outcome = outcome.and(self.run(plugin, &call).map(drop));
        }
        outcome
    }

    /// Asks every plugin whether the attachment is still as it was made. Nothing to ask before version 0.4.
    ///
    /// # Errors
    /// The first plugin that finds a difference.
    pub fn check(&self, attachment: &Attachment<'_>) -> Result<(), Error> {
        let entry = self
            .cache
            .read(&self.list.name, attachment.container, attachment.interface)
            .map_err(|source| cache_error("read", attachment, source))?;
        let Some(entry) = entry.filter(|_| self.list.is_at_least(0, 4) && !self.list.disable_check)
        else {
            return Ok(());
        };
        let call = Call {
            attachment: Some(attachment),
            previous: Some(&entry.result),
            ..self.call(Command::Check)
        };
        for plugin in &self.list.plugins {
            self.run(plugin, &call)?;
        }
        Ok(())
    }

    /// Tells whether attaching could work now: every executable is there, and every plugin of version 1.1 says so.
    ///
    /// # Errors
    /// What is missing, or the first plugin that is not ready.
    pub fn status(&self) -> Result<(), Error> {
        for plugin in &self.list.plugins {
            let _path: PathBuf = self.executable(plugin)?;
            if self.list.is_at_least(1, 1) {
                self.run(plugin, &self.call(Command::Status))?;
            }
        }
        Ok(())
    }

    /// Frees what belongs to no attachment of `valid` (container, interface). Only plugins of version 1.1 know this.
    ///
    /// # Errors
    /// The first plugin that failed, after all of them have been asked.
    pub fn gc(&self, valid: &[(String, String)]) -> Result<(), Error> {
        if !self.list.is_at_least(1, 1) || self.list.disable_gc {
            return Ok(());
        }
        let call = Call {
            valid: Some(valid),
            ..self.call(Command::Gc)
        };
        // Every plugin is asked before the first failure is told.
        let asked: Vec<_> = self
            .list
            .plugins
            .iter()
            .map(|plugin| self.run(plugin, &call))
            .collect();
        asked.into_iter().try_for_each(|answer| answer.map(drop))
    }

    const fn call<'a>(&self, command: Command) -> Call<'a> {
        Call {
            command,
            attachment: None,
            previous: None,
            valid: None,
            limit: self.settings.plugin_limit,
        }
    }

    fn run(&self, plugin: &Plugin, call: &Call<'_>) -> Result<Value, Error> {
        let executable = self.executable(plugin)?;
        let none = BTreeMap::new();
        let attachment = call.attachment;
        let capabilities = attachment.map_or(&none, |attachment| &attachment.capabilities);
        let request = request(&self.list, plugin, capabilities, call.previous, call.valid);
        let invocation = Invocation {
            plugin: &plugin.kind,
            executable: &executable,
            command: call.command,
            container: attachment.map(|attachment| attachment.container),
            namespace_path: attachment
                .map_or(Path::new(""), |attachment| attachment.namespace_path),
            interface: attachment.map_or("", |attachment| attachment.interface),
            arguments: attachment.map_or("", |attachment| &attachment.arguments),
            folders: &self.settings.plugin_folders,
            request: &request,
            limit: call.limit,
        };
        let run: Run = self.runner.run(&invocation)?;
        answer(&invocation, &run)
    }

    fn executable(&self, plugin: &Plugin) -> Result<PathBuf, Error> {
        let folders = &self.settings.plugin_folders;
        folders
            .iter()
            .map(|folder| folder.join(&plugin.kind))
            .find(|path| path.is_file())
            .ok_or_else(|| Error::PluginMissing {
                plugin: plugin.kind.clone(),
                network: self.list.name.clone(),
                folders: folders.clone(),
            })
    }

    fn write(&self, entry: &Entry, attachment: &Attachment<'_>) -> Result<(), Error> {
        self.cache
            .write(entry)
            .map_err(|source| cache_error("write", attachment, source))
    }
}

/// Detaches a container from every network that the cache knows it to be attached to, each with the configuration,
/// capabilities and result it was attached with; today's configuration is not needed. Whether there was any.
///
/// # Errors
/// The first plugin that failed, after all of them have been asked. The cached attachment stays for the next try.
pub fn detach(
    settings: &Settings,
    runner: &impl Runner,
    attachment: &Attachment<'_>,
) -> Result<bool, Error> {
    let entries = Cache::new(&settings.cache_folder)
        .entries_of(attachment.container, attachment.interface)
        .map_err(|source| cache_error("read", attachment, source))?;
    let was_attached = !entries.is_empty();
    let mut outcome = Ok(was_attached);
    for entry in entries {
        let gone = detach_entry(settings, runner, attachment.clone(), entry);
        outcome = outcome.and_then(|found| gone.map(|()| found));
    }
    outcome
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Containers whose attachments were taken down.
    pub detached: Vec<String>,
    /// What could not be.
    pub failures: Vec<Error>,
}

/// Takes down every cached attachment that is not in `valid` (container, interface), each as it was made, and has the
/// plugins of today's network free what else belongs to nobody; what a killed process had begun to write goes too.
/// Nothing may be attached meanwhile: it would not be in `valid`.
#[must_use]
pub fn collect<R: Runner>(settings: &Settings, runner: R, valid: &[(String, String)]) -> Collected {
    let mut collected = Collected::default();
    let cache = Cache::new(&settings.cache_folder);
    let entries = match cache
        .remove_stale_temporaries()
        .and_then(|()| cache.entries())
    {
        Ok(entries) => entries,
        Err(source) => {
            let container = "*".to_owned();
            collected.failures.push(Error::Cache {
                operation: "read",
                container,
                source,
            });
            return collected;
        }
    };
    for entry in entries {
        let subject = (entry.container.clone(), entry.interface.clone());
        if valid.contains(&subject) {
            continue;
        }
        let Ok(container) = AttachmentId::new(&entry.container) else {
            continue;
        };
        let namespace_path = PathBuf::from(&entry.namespace_path);
        let attachment = Attachment {
            container: &container,
            namespace_path: &namespace_path,
            interface: &subject.1,
            capabilities: BTreeMap::new(),
            arguments: entry.arguments(),
        };
        match detach_entry(settings, &runner, attachment, entry) {
            Ok(()) => collected.detached.push(subject.0),
            Err(error) => collected.failures.push(error),
        }
    }
    match Network::load(settings.clone(), runner).and_then(|network| network.gc(valid)) {
        // Without a network there is nothing to free.
        Ok(()) | Err(Error::NoNetwork { .. }) => {}
        Err(error) => collected.failures.push(error),
    }
    collected
}

fn detach_entry(
    settings: &Settings,
    runner: &impl Runner,
    attachment: Attachment<'_>,
    entry: Entry,
) -> Result<(), Error> {
    let attachment = Attachment {
        capabilities: entry.capability_args.clone(),
        ..attachment
    };
    let network = Network::of_entry(settings, runner, &entry)?;
    let previous = Some(entry.result).filter(|result| !result.is_null());
    let detached = network.del_from(&attachment, previous.as_ref());
    if let (Err(error), None) = (&detached, &previous) {
        // It was never attached, perhaps because that configuration was wrong: then it can take nothing down either, but
        // one that has been mended since can.
        let todays = Network::load(settings.clone(), runner).ok();
        let other = todays.filter(|todays| todays.text != network.text);
        let mended = other.map(|other| other.del_from(&attachment, None));
        if !matches!(mended, Some(Ok(()))) {
            return detached;
        }
        tracing::info!(container = %attachment.container, %error, "an attempt to attach is undone by the network of today, as its own could not");
    } else {
        detached?;
    }
    network
        .cache
        .remove(
            &entry.network_name,
            attachment.container,
            attachment.interface,
        )
        .map_err(|source| cache_error("remove", &attachment, source))
}

fn cache_error(operation: &'static str, attachment: &Attachment<'_>, source: CacheFault) -> Error {
    Error::Cache {
        operation,
        container: attachment.container.to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    /// Answers from a table and remembers what it was asked.
    #[derive(Default)]
    struct Script {
        fail: &'static [(&'static str, Command)],
        asked: Mutex<Vec<(String, &'static str, Value)>>,
    }

    impl Runner for &Script {
        fn run(&self, invocation: &Invocation<'_>) -> Result<Run, Error> {
            let asked = (
                invocation.plugin.to_owned(),
                invocation.command.as_str(),
                invocation.request.clone(),
            );
            self.asked.lock().unwrap().push(asked);
            let fails = self.fail.contains(&(invocation.plugin, invocation.command));
            let answer = if fails {
                json!({"code": 11, "msg": "later"})
            } else {
                json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]})
            };
            Ok(Run {
                succeeded: !fails,
                stdout: answer.to_string().into_bytes(),
                stderr: Vec::new(),
            })
        }
    }

    struct Bench {
        _folder: tempfile::TempDir,
        settings: Settings,
        container: AttachmentId,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["net.d", "bin"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b","capabilities":{"portMappings":true}}]}"#;
        for (name, text) in [("net.d/10.conflist", list), ("bin/a", ""), ("bin/b", "")] {
            write(&at(name), text);
        }
        let settings = Settings {
            config_folder: at("net.d"),
            plugin_folders: vec![at("bin")],
            cache_folder: at("cache"),
            plugin_limit: Duration::from_secs(1),
        };
        Bench {
            _folder: folder,
            settings,
            container: AttachmentId::new("web").unwrap(),
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a test's own folder needs no durability"
    )]
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    fn attachment(bench: &Bench) -> Attachment<'_> {
        Attachment {
            container: &bench.container,
            namespace_path: Path::new("/run/netns/x"),
            interface: "eth0",
            capabilities: BTreeMap::from([(
                "portMappings".to_owned(),
                json!([{"hostPort": 8080}]),
            )]),
            arguments: String::new(),
        }
    }

    fn commands(script: &Script) -> Vec<String> {
        script
            .asked
            .lock()
            .unwrap()
            .iter()
            .map(|(plugin, command, _)| format!("{command} {plugin}"))
            .collect()
    }

    #[test]
    fn plugins_are_added_forwards_and_deleted_backwards() {
        let (bench, script) = (bench(), Script::default());
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        let outcome = network.add(&attachment(&bench)).unwrap();
        assert_eq!(outcome.addresses().collect::<Vec<_>>(), ["10.0.0.2"]);
        network.del(&attachment(&bench)).unwrap();
        assert_eq!(commands(&script), ["ADD a", "ADD b", "DEL b", "DEL a"]);
    }

    #[test]
    fn del_uses_what_add_was_given_even_if_the_configuration_has_changed() {
        let (bench, script) = (bench(), Script::default());
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .add(&attachment(&bench))
            .unwrap();
        let other = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#;
        write(&bench.settings.config_folder.join("10.conflist"), other);
        let forgetful = Attachment {
            capabilities: BTreeMap::new(),
            ..attachment(&bench)
        };
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .del(&forgetful)
            .unwrap();
        assert_eq!(commands(&script)[2..], ["DEL b", "DEL a"]);
        let asked = script.asked.lock().unwrap();
        assert_eq!(
            asked[2].2["runtimeConfig"]["portMappings"][0]["hostPort"],
            8080
        );
        assert_eq!(asked[2].2["prevResult"]["ips"][0]["address"], "10.0.0.2/24");
    }

    #[test]
    fn del_finds_the_attachment_of_a_network_that_has_another_name_by_now() {
        let (bench, script) = (bench(), Script::default());
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .add(&attachment(&bench))
            .unwrap();
        let other = r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"a"}]}"#;
        write(&bench.settings.config_folder.join("10.conflist"), other);
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        network.del(&attachment(&bench)).unwrap();
        assert_eq!(commands(&script)[2..], ["DEL b", "DEL a"]);
        assert_eq!(script.asked.lock().unwrap()[2].2["name"], "n");
        network.del(&attachment(&bench)).unwrap();
        assert_eq!(commands(&script)[4..], ["DEL a"]);
    }

    #[test]
    fn a_failed_add_is_followed_by_del() {
        let (bench, script) = (
            bench(),
            Script {
                fail: &[("b", Command::Add)],
                ..Script::default()
            },
        );
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        let error = network.add(&attachment(&bench)).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(commands(&script), ["ADD a", "ADD b", "DEL b", "DEL a"]);
    }

    #[test]
    fn del_goes_on_after_a_failure_and_can_be_repeated() {
        let (bench, mut script) = (bench(), Script::default());
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .add(&attachment(&bench))
            .unwrap();
        script.fail = &[("b", Command::Del)];
        let error = Network::load(bench.settings.clone(), &script)
            .unwrap()
            .del(&attachment(&bench))
            .unwrap_err();
        assert_eq!(error.code(), "ORL-E6207");
        script.fail = &[];
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .del(&attachment(&bench))
            .unwrap();
        assert_eq!(commands(&script)[2..], ["DEL b", "DEL a", "DEL b", "DEL a"]);
    }

    #[test]
    fn what_its_own_configuration_cannot_undo_todays_does() {
        let (bench, mut script) = (bench(), Script::default());
        script.fail = &[("b", Command::Add), ("b", Command::Del)];
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        network.add(&attachment(&bench)).unwrap_err();
        let again = detach(&bench.settings, &&script, &attachment(&bench));
        assert_eq!(again.unwrap_err().code(), "ORL-E6207");
        let mended = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#;
        write(&bench.settings.config_folder.join("10.conflist"), mended);
        assert!(detach(&bench.settings, &&script, &attachment(&bench)).unwrap());
        assert!(!detach(&bench.settings, &&script, &attachment(&bench)).unwrap());
        // What was attached once is only ever detached as it was.
        script.fail = &[];
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        network.add(&attachment(&bench)).unwrap();
        script.fail = &[("a", Command::Del)];
        detach(&bench.settings, &&script, &attachment(&bench)).unwrap_err();
        let deletions = commands(&script).into_iter().filter(|one| one == "DEL a");
        assert_eq!(deletions.count(), 5);
    }

    #[test]
    fn detaching_needs_no_configuration_and_says_whether_there_was_anything() {
        let (bench, script) = (bench(), Script::default());
        Network::load(bench.settings.clone(), &script)
            .unwrap()
            .add(&attachment(&bench))
            .unwrap();
        std::fs::remove_file(bench.settings.config_folder.join("10.conflist")).unwrap();
        assert!(detach(&bench.settings, &&script, &attachment(&bench)).unwrap());
        assert!(!detach(&bench.settings, &&script, &attachment(&bench)).unwrap());
        assert_eq!(commands(&script)[2..], ["DEL b", "DEL a"]);
    }

    #[test]
    fn a_collection_takes_down_what_nobody_has_and_asks_plugins_that_know_how() {
        let (bench, script) = (bench(), Script::default());
        let list = r#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"a"}]}"#;
        write(&bench.settings.config_folder.join("10.conflist"), list);
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        let leaked = AttachmentId::new("leaked").unwrap();
        network.add(&attachment(&bench)).unwrap();
        let lost = Attachment {
            container: &leaked,
            arguments: "IgnoreUnknown=1;K8S_POD_NAME=x".to_owned(),
            ..attachment(&bench)
        };
        network.add(&lost).unwrap();
        let half_written = bench.settings.cache_folder.join("results/.orlop-tmp-1-0");
        write(&half_written, "{");
        let valid = [("web".to_owned(), "eth0".to_owned())];
        let collected = collect(&bench.settings, &script, &valid);
        assert_eq!(collected.detached, ["leaked"]);
        assert!(!half_written.exists());
        assert!(collected.failures.is_empty(), "{:?}", collected.failures);
        assert_eq!(commands(&script)[2..], ["DEL a", "GC a"]);
        let asked = script.asked.lock().unwrap();
        let listed = &asked[3].2["cni.dev/valid-attachments"];
        assert_eq!(*listed, json!([{"containerID": "web", "ifname": "eth0"}]));
    }

    #[test]
    fn a_missing_plugin_or_configuration_says_where_it_was_looked_for() {
        let (bench, script) = (bench(), Script::default());
        std::fs::remove_file(bench.settings.plugin_folders[0].join("b")).unwrap();
        let network = Network::load(bench.settings.clone(), &script).unwrap();
        let shown = network.status().unwrap_err().to_string();
        assert!(shown.contains("\"b\"") && shown.contains("/bin"), "{shown}");
        std::fs::remove_file(bench.settings.config_folder.join("10.conflist")).unwrap();
        let error = Network::load(bench.settings.clone(), &script)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.code(), "ORL-E6201");
    }
}
