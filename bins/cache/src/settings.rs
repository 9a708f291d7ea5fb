//! `/etc/orlop/cache.toml`: every setting, with its default and its explanation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use orlop_base::config::{Program, Reader, Section, Setting, Telemetry, quoted};
use orlop_base::units::ByteSize;
use orlop_types::Glob;

use crate::shared::SharedSettings;

/// Who is configured.
pub(crate) const PROGRAM: Program = Program {
    default_path: "/etc/orlop/cache.toml",
    environment_prefix: "ORLOP_CACHE_",
    environment_config: "ORLOP_CACHE_CONFIG",
    heading: "# The blob cache's configuration. Every line shows its default; remove the # in front of a key to change it.",
};

/// Names the folder on the command line of every command, and so is no setting.
pub(crate) const ENVIRONMENT_ROOT: &str = "ORLOP_CACHE_ROOT";

/// Public registries, served without being named.
const REGISTRIES: [&str; 8] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
];

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) serve: Serve,
    pub(crate) access: Access,
    pub(crate) origin: Origin,
    pub(crate) tags: Tags,
    pub(crate) store: Store,
    pub(crate) telemetry: Telemetry,
    pub(crate) shared: SharedSettings,
}

/// Section `serve`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Serve {
    pub(crate) address: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) client_ca: String,
    pub(crate) connections_max: u32,
    pub(crate) answers_per_client_max: u32,
    pub(crate) head_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) headers_within: Duration,
    pub(crate) shutdown_grace: Duration,
}

/// Section `access`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Access {
    pub(crate) mode: Mode,
    pub(crate) htpasswd: String,
    pub(crate) tokens: String,
    pub(crate) grants_for: Duration,
}

/// How clients show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    None,
    Basic,
    Bearer,
    Certificate,
    PassThrough,
}

/// Section `origin`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Origin {
    pub(crate) registries: Vec<String>,
    pub(crate) any_registry: bool,
    pub(crate) default: String,
    pub(crate) hosts_dirs: Vec<PathBuf>,
    pub(crate) credentials_file: PathBuf,
    pub(crate) negative_for: Duration,
    pub(crate) rest_after: u32,
    pub(crate) rest: Duration,
    pub(crate) progress_timeout: Duration,
    pub(crate) attempts_max: u32,
    pub(crate) range_threshold: ByteSize,
    pub(crate) range_size: ByteSize,
    pub(crate) ranges_at_once: u32,
    pub(crate) download_memory: ByteSize,
    pub(crate) upstreams: BTreeMap<String, Upstream>,
}

/// Section `origin.upstreams."<host>"`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) username: String,
    pub(crate) password_file: String,
    pub(crate) helper: String,
    pub(crate) anonymous: bool,
}

/// Section `tags`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tags {
    pub(crate) fresh: Duration,
    pub(crate) stale: Duration,
    pub(crate) immutable: Vec<Glob>,
    pub(crate) lists_stale: Duration,
    pub(crate) rules: Vec<Rule>,
}

/// Section `tags.rules.<name>`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) pattern: Glob,
    pub(crate) fresh: Duration,
    pub(crate) stale: Duration,
}

/// Section `store`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
    pub(crate) cap: ByteSize,
    pub(crate) ttl: Duration,
    pub(crate) small_max: ByteSize,
    pub(crate) scrub_rate: ByteSize,
}

impl Setting for Mode {
    const EXPECTS: &'static str =
        "\"none\", \"basic\", \"bearer\", \"certificate\" or \"pass-through\"";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "basic" => Ok(Self::Basic),
            "bearer" => Ok(Self::Bearer),
            "certificate" => Ok(Self::Certificate),
            "pass-through" => Ok(Self::PassThrough),
            other => Err(format!("{other:?} must be {}", Self::EXPECTS)),
        }
    }

    fn to_toml(&self) -> String {
        quoted(match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::Certificate => "certificate",
            Self::PassThrough => "pass-through",
        })
    }
}

impl Settings {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let settings = Self {
            serve: reader.section("serve", Serve::read),
            access: reader.section("access", Access::read),
            origin: reader.section("origin", Origin::read),
            tags: reader.section("tags", Tags::read),
            store: reader.section("store", Store::read),
            telemetry: reader.section("telemetry", Telemetry::read),
            shared: SharedSettings::from_reader(reader),
        };
        settings.check(reader);
        settings
    }

    /// What no setting can say about itself.
    fn check(&self, reader: &mut Reader<'_>) {
        self.serve.check(reader);
        self.access.check(&self.serve, reader);
        self.origin.check(reader);
        if self.store.cap.as_u64() == 0 {
            reader.refuse_key("store.cap", "must be more than nothing".to_owned());
        }
        if let Err(reason) = orlop_base::telemetry::check_filter(&self.telemetry.log_level) {
            reader.refuse_key("telemetry.log_level", reason);
        }
        let address = &self.telemetry.metrics_address;
        if !address.is_empty() && address.parse::<SocketAddr>().is_err() {
            let reason =
                format!("{address:?} must be an address and a port, such as \"127.0.0.1:9465\"");
            reader.refuse_key("telemetry.metrics_address", reason);
        }
    }
}

impl Serve {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            address: s.setting("address", "127.0.0.1:5015".to_owned(), "Where clients are served; 0.0.0.0 for other machines' too."),
            certificate: s.setting("certificate", String::new(), "PEM file with the server's certificate; empty for plain HTTP."),
            key: s.setting("key", String::new(), "PEM file with its key."),
            client_ca: s.setting("client_ca", String::new(), "PEM file with the authorities of clients' certificates; empty to ask for none."),
            connections_max: s.setting("connections_max", 1024, "Connections at once; others wait."),
            answers_per_client_max: s.setting("answers_per_client_max", 256, "Answers under way for one address; 0 for any number."),
            head_timeout: s.span("head_timeout", 30_000, "How long a client may take to send its request, and how long a connection may be idle."),
            stall_timeout: s.span("stall_timeout", 60_000, "How long a client may take nothing of its answer."),
            headers_within: s.span("headers_within", 25_000, "An answer begins within this time, or is 504: containerd gives a mirror 30s."),
            shutdown_grace: s.span("shutdown_grace", 20_000, "How long answers under way may take to end when the cache stops."),
        }
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if self.address.parse::<SocketAddr>().is_err() {
            let address = &self.address;
            let reason =
                format!("{address:?} must be an address and a port, such as \"127.0.0.1:5015\"");
            reader.refuse_key("serve.address", reason);
        }
        if self.certificate.is_empty() != self.key.is_empty() {
            let reason = "must be given together with serve.certificate, or not at all";
            reader.refuse_key("serve.key", reason.to_owned());
        }
        if self.certificate.is_empty() && !self.client_ca.is_empty() {
            let reason = "needs serve.certificate: without it there is no TLS";
            reader.refuse_key("serve.client_ca", reason.to_owned());
        }
        if self.connections_max == 0 {
            reader.refuse_key("serve.connections_max", "must be at least 1".to_owned());
        }
    }
}

impl Access {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            mode: s.setting("mode", Mode::None, "How clients show who they are: \"none\", \"basic\" (htpasswd), \"bearer\" (tokens), \"certificate\", or \"pass-through\": with their own credential for the registry, which decides what they may have."),
            htpasswd: s.setting("htpasswd", String::new(), "File with users and bcrypt hashes, as htpasswd -B writes it."),
            tokens: s.setting("tokens", String::new(), "File with a line \"NAME TOKEN\" for each client."),
            grants_for: s.span("grants_for", 3_600_000, "How long a right that a registry has shown for a client's credential is believed."),
        }
    }

    fn check(&self, serve: &Serve, reader: &mut Reader<'_>) {
        let needs = |file: &str, what: &str| {
            file.is_empty()
                .then(|| format!("must be given with access.mode = {what:?}"))
        };
        let missing = match self.mode {
            Mode::Basic => needs(&self.htpasswd, "basic").map(|reason| ("access.htpasswd", reason)),
            Mode::Bearer => needs(&self.tokens, "bearer").map(|reason| ("access.tokens", reason)),
            Mode::Certificate => {
                needs(&serve.client_ca, "certificate").map(|reason| ("serve.client_ca", reason))
            }
            Mode::None | Mode::PassThrough => None,
        };
        if let Some((key, reason)) = missing {
            reader.refuse_key(key, reason);
        }
    }
}

impl Origin {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            registries: s.setting("registries", REGISTRIES.map(str::to_owned).to_vec(), "The registries that are served."),
            any_registry: s.setting("any_registry", false, "Serve every other registry too: a client can then make this host speak to any other."),
            default: s.setting("default", "docker.io".to_owned(), "The registry of requests that name none, as Docker's; empty to refuse them."),
            hosts_dirs: s.setting("hosts_dirs", vec!["/etc/orlop/cache/certs.d".into()], "Folders with <host>/hosts.toml for registries with hosts, certificates or schemes of their own. Not the engine's: its mirrors may be this cache."),
            credentials_file: s.setting("credentials_file", "/root/.docker/config.json".into(), "Docker's config.json with the service's credentials and helpers. It need not exist."),
            negative_for: s.span("negative_for", 15_000, "How long a registry's 404 is believed; nothing else is remembered as missing."),
            rest_after: s.setting("rest_after", 5, "A registry that fails so often in a row is left alone for a while; 0 for never."),
            rest: s.span("rest", 5_000, "For how long at first; it doubles up to twelve times as long."),
            progress_timeout: s.span("progress_timeout", 20_000, "How long a registry may take to answer, and a download to stand still."),
            attempts_max: s.setting("attempts_max", 5, "How often a fill that fails for a passing reason is tried; what came is kept."),
            range_threshold: s.setting("range_threshold", ByteSize::mib(0), "Blobs from this size on are fetched in ranges side by side; 0 for never: one stream is one GET."),
            range_size: s.setting("range_size", ByteSize::mib(8), "The size of such a range."),
            ranges_at_once: s.setting("ranges_at_once", 4, "And how many of one blob at once."),
            download_memory: s.setting("download_memory", ByteSize::mib(32), "Memory all fills together may use for bytes not yet written."),
            upstreams: s.each("upstreams", Upstream::read).into_iter().collect(),
        }
    }

    fn check(&self, reader: &mut Reader<'_>) {
        if self.attempts_max == 0 {
            reader.refuse_key("origin.attempts_max", "must be at least 1".to_owned());
        }
        if self.ranges_at_once == 0 {
            reader.refuse_key("origin.ranges_at_once", "must be at least 1".to_owned());
        }
        if self.range_size.as_u64() < 64 << 10 {
            reader.refuse_key("origin.range_size", "must be at least 64KiB".to_owned());
        }
        for registry in self.registries.iter().chain([&self.default]) {
            let sounds_right = format!("{registry}/name")
                .parse::<orlop_types::Reference>()
                .is_ok_and(|reference| reference.registry() == registry);
            if !registry.is_empty() && !sounds_right {
                let reason =
                    format!("{registry:?} is no registry: write a host, with a port if it has one");
                reader.refuse_key("origin.registries", reason);
            }
        }
        for (host, upstream) in &self.upstreams {
            let key = format!("origin.upstreams.{host}");
            let ways = [
                !upstream.username.is_empty(),
                !upstream.helper.is_empty(),
                upstream.anonymous,
            ];
            if ways.into_iter().filter(|way| *way).count() > 1 {
                let reason = "must have one of username, helper and anonymous";
                reader.refuse_key(&key, reason.to_owned());
            }
            if upstream.username.is_empty() != upstream.password_file.is_empty() {
                let reason = "must have username and password_file together";
                reader.refuse_key(&key, reason.to_owned());
            }
        }
    }
}

impl Upstream {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            username: s.setting("username", String::new(), "The user name of the service."),
            password_file: s.setting(
                "password_file",
                String::new(),
                "The file with its password, read each time.",
            ),
            helper: s.setting(
                "helper",
                String::new(),
                "Or a helper: \"ecr-login\" for docker-credential-ecr-login.",
            ),
            anonymous: s.setting(
                "anonymous",
                false,
                "Or nothing, whatever credentials_file says.",
            ),
        }
    }
}

impl Tags {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            fresh: s.span("fresh", 60_000, "How long what a tag stands for is believed before the registry is asked again (a HEAD request)."),
            stale: s.span("stale", 7 * 86_400_000, "How long it is served, with a warning, while the registry cannot say."),
            immutable: s.setting("immutable", Vec::new(), "Tags that never move: patterns of registry/repository:tag, such as [\"docker.io/library/*:v*\"]."),
            lists_stale: s.span("lists_stale", 3_600_000, "How long lists of tags and referrers are served while the registry cannot say."),
            rules: s.each("rules", Rule::read).into_iter().map(|(_, rule)| rule).collect(),
        }
    }
}

impl Rule {
    fn read(s: &mut Section<'_, '_>) -> Self {
        let every = "*".parse().expect("a star is a pattern");
        Self {
            pattern: s.setting(
                "pattern",
                every,
                "Which tags: a pattern of registry/repository:tag.",
            ),
            fresh: s.span("fresh", 60_000, "As tags.fresh, for these."),
            stale: s.span("stale", 7 * 86_400_000, "As tags.stale, for these."),
        }
    }
}

impl Store {
    fn read(s: &mut Section<'_, '_>) -> Self {
        Self {
            root: s.setting(
                "root",
                "/var/lib/orlop-cache".into(),
                "The folder for blobs, database and ledger.",
            ),
            cap: s.setting(
                "cap",
                ByteSize::mib(50 << 10),
                "The most bytes of blobs on disk.",
            ),
            ttl: s.span(
                "ttl",
                30 * 86_400_000,
                "What was not used for so long goes; 0s for only when there is no room.",
            ),
            small_max: s.setting(
                "small_max",
                ByteSize::mib(1),
                "What is no larger has a tenth of the cap for itself.",
            ),
            scrub_rate: s.setting(
                "scrub_rate",
                ByteSize::mib(8),
                "Bytes a second that are read to look for damage; 0 for none.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use orlop_base::config::Sources;

    use super::*;

    fn sources(text: &str) -> Sources {
        Sources {
            program: PROGRAM,
            file: Some(("/etc/orlop/cache.toml".into(), text.to_owned())),
            ..Sources::default()
        }
    }

    #[test]
    fn the_default_text_shows_every_setting_and_reads_back_as_the_defaults() {
        let text = PROGRAM.default_text(Settings::read);
        insta::assert_snapshot!("default_text", text);
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let (settings, warnings) = sources(&uncommented).read(Settings::read).unwrap();
        let (defaults, _) = sources("").read(Settings::read).unwrap();
        assert_eq!(settings, defaults);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let mut sources = sources(
            r#"
[serve]
address = "everywhere"
certificate = "/a.pem"
[access]
mode = "basic"
[origin]
registries = ["docker.io", "not a host"]
[origin.upstreams."ghcr.io"]
username = "u"
helper = "h"
[tags.rules.nightly]
pattern = "[a-"
[stoer]
"#,
        );
        sources.flags = vec![("store.cap".to_owned(), "0".to_owned())];
        let errors = sources.read(Settings::read).unwrap_err().to_string();
        insta::assert_snapshot!("all_mistakes", errors);
    }
}
