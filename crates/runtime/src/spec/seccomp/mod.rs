//! Which system calls a container may make: profiles as Docker and OCI write them, and the engine's own.
//!
//! A profile may hold rules for some capabilities, processors or kernels only; [`SeccompProfile::resolve`] picks those
//! that apply and gives what the OCI runtime takes. The engine's own ([`SeccompProfile::engine`]) is such a profile too:
//! `default.json`, explained in ADR 18.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::SpecError;

/// The engine's own profile.
const ENGINE_PROFILE: &str = include_str!("default.json");

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Those of the engine's own profile.
    #[default]
    Engine,
    /// All.
    Unconfined,
    /// Those of a profile.
    Profile(Box<SeccompProfile>),
}

/// A machine, as far as profiles distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompMachine {
    /// Its processor.
    pub architecture: Architecture,
    /// The first two numbers of its kernel's version.
    pub kernel: (u32, u32),
}

/// A processor that containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Architecture {
    /// What this program was built for.
    pub const OWN: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    const fn seccomp(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::Aarch64 => Arch::ScmpArchAarch64,
        }
    }

    /// As Docker's profiles name it: Go's word.
    const fn word(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

/// A profile: the `linux.seccomp` of an OCI spec, with what Docker adds to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompProfile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<ArchitectureFamily>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(default)]
    listener_path: Option<std::path::PathBuf>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureFamily {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Vec<Arch>,
}

/// One rule. Docker's older profiles name a single call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl SeccompProfile {
    /// Reads a profile.
    ///
    /// # Errors
    /// It is not JSON of that form, or names an action, operator or architecture that does not exist.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The engine's own.
    #[must_use]
    pub fn engine() -> Self {
        Self::parse(ENGINE_PROFILE.as_bytes()).expect("the file is part of the program and tested")
    }

    /// What of it applies to a container with these capabilities on this machine.
    pub(super) fn resolve(
        &self,
        capabilities: &HashSet<Capability>,
        machine: SeccompMachine,
    ) -> Result<LinuxSeccomp, SpecError> {
        let applying = self
            .syscalls
            .iter()
            .filter(|rule| rule.applies(capabilities, machine));
        let syscalls: Vec<LinuxSyscall> = applying.map(Rule::resolve).collect::<Result<_, _>>()?;
        let mut seccomp = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(self.architectures(machine.architecture))
            .syscalls(syscalls)
            .build()
            .map_err(model)?;
        seccomp
            .set_default_errno_ret(self.default_errno_ret)
            .set_flags(Some(self.flags.clone()).filter(|flags| !flags.is_empty()))
            .set_listener_path(self.listener_path.clone())
            .set_listener_metadata(self.listener_metadata.clone());
        Ok(seccomp)
    }

    fn architectures(&self, own: Architecture) -> Vec<Arch> {
        let family = self
            .arch_map
            .iter()
            .find(|family| family.architecture == own.seccomp());
        match family {
            Some(family) => std::iter::once(family.architecture)
                .chain(family.sub_architectures.iter().copied())
                .collect(),
            None => self.architectures.clone(),
        }
    }
}

impl Rule {
    fn applies(&self, capabilities: &HashSet<Capability>, machine: SeccompMachine) -> bool {
        let (included, excluded) = (&self.includes, &self.excludes);
        included.has_all_capabilities(capabilities)
            && (included.arches.is_empty() || included.names(machine.architecture))
            && included.is_old_enough(machine.kernel)
            && !excluded.has_a_capability(capabilities)
            && !excluded.names(machine.architecture)
            && !(excluded.min_kernel.is_some() && excluded.is_old_enough(machine.kernel))
    }

    fn resolve(&self) -> Result<LinuxSyscall, SpecError> {
        let names: Vec<String> = self.name.iter().chain(&self.names).cloned().collect();
        let mut syscall = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action)
            .build()
            .map_err(model)?;
        syscall
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.clone().filter(|args| !args.is_empty()));
        Ok(syscall)
    }
}

impl Condition {
    fn has_all_capabilities(&self, set: &HashSet<Capability>) -> bool {
        self.caps.iter().all(|word| has_capability(set, word))
    }

    fn has_a_capability(&self, set: &HashSet<Capability>) -> bool {
        self.caps.iter().any(|word| has_capability(set, word))
    }

    fn names(&self, architecture: Architecture) -> bool {
        self.arches.iter().any(|word| word == architecture.word())
    }

    /// A version that is not `MAJOR.MINOR` is newer than any: its rule gives nothing.
    fn is_old_enough(&self, kernel: (u32, u32)) -> bool {
        let Some(text) = &self.min_kernel else {
            return true;
        };
        let least = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        least.is_some_and(|least: (u32, u32)| kernel >= least)
    }
}

fn has_capability(set: &HashSet<Capability>, word: &str) -> bool {
    super::process::capability(word).is_ok_and(|capability| set.contains(&capability))
}

const fn model(source: oci_spec::OciSpecError) -> SpecError {
    SpecError::Model {
        part: "seccomp profile",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: SeccompMachine = SeccompMachine {
        architecture: Architecture::X86_64,
        kernel: (6, 1),
    };

    /// The action for each rule that names `call`.
    fn rules(seccomp: &LinuxSeccomp, call: &str) -> Vec<(LinuxSeccompAction, bool)> {
        let syscalls = seccomp.syscalls().iter().flatten();
        syscalls
            .filter(|rule| rule.names().iter().any(|name| name == call))
            .map(|rule| (rule.action(), rule.args().is_some()))
            .collect()
    }

    fn engine(capabilities: &[Capability]) -> LinuxSeccomp {
        let set = capabilities.iter().copied().collect();
        SeccompProfile::engine().resolve(&set, MACHINE).unwrap()
    }

    #[test]
    fn the_engines_own_profile_follows_the_capabilities() {
        use LinuxSeccompAction::{ScmpActAllow as Allow, ScmpActErrno as Errno};
        let (plain, admin) = (engine(&[]), engine(&[Capability::SysAdmin]));
        assert_eq!(plain.default_action(), Errno);
        assert_eq!(rules(&plain, "read"), [(Allow, false)]);
        for call in ["mount", "unshare", "bpf", "keyctl", "add_key", "kexec_load"] {
            assert!(rules(&plain, call).is_empty(), "{call}");
        }
        assert_eq!(rules(&plain, "clone"), [(Allow, true)]);
        assert_eq!(rules(&plain, "clone3"), [(Errno, false)]);
        assert_eq!(rules(&admin, "mount"), [(Allow, false)]);
        assert_eq!(rules(&admin, "clone"), [(Allow, false)]);
        assert_eq!(rules(&admin, "clone3"), [(Allow, false)]);
        assert_eq!(
            rules(&engine(&[Capability::SysTime]), "clock_settime").len(),
            1
        );
        assert!(rules(&admin, "keyctl").is_empty());
    }

    #[test]
    fn no_new_namespace_passes_the_engines_clone_rule() {
        let plain = engine(&[]);
        let rule = plain.syscalls().iter().flatten();
        let clone = rule
            .clone()
            .find(|rule| rule.names().iter().any(|name| name == "clone"))
            .unwrap();
        let mask = clone.args().as_ref().unwrap()[0].value();
        let all = [
            0x0002_0000_u64, // CLONE_NEWNS
            0x0200_0000,     // CLONE_NEWCGROUP
            0x0400_0000,     // CLONE_NEWUTS
            0x0800_0000,     // CLONE_NEWIPC
            0x1000_0000,     // CLONE_NEWUSER
            0x2000_0000,     // CLONE_NEWPID
            0x4000_0000,     // CLONE_NEWNET
        ];
        assert_eq!(mask, all.iter().sum::<u64>());
    }

    #[test]
    fn a_profile_is_resolved_for_the_processor_and_the_kernel() {
        let plain = engine(&[]);
        assert_eq!(
            plain.architectures().as_deref().unwrap(),
            [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
        );
        assert_eq!(rules(&plain, "arch_prctl").len(), 1);
        assert!(rules(&plain, "cacheflush").is_empty());
        let arm = SeccompMachine {
            architecture: Architecture::Aarch64,
            kernel: (4, 4),
        };
        let arm = SeccompProfile::engine()
            .resolve(&HashSet::new(), arm)
            .unwrap();
        assert_eq!(rules(&arm, "cacheflush").len(), 1);
        assert!(rules(&arm, "arch_prctl").is_empty() && rules(&arm, "ptrace").is_empty());
        assert_eq!(rules(&plain, "ptrace").len(), 1);
    }

    #[test]
    fn a_profile_of_the_oci_form_is_passed_on_as_it_is() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"flags":[
            "SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","errnoRet":1,
            "args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let resolved = SeccompProfile::parse(text)
            .unwrap()
            .resolve(&HashSet::new(), MACHINE)
            .unwrap();
        let expected: LinuxSeccomp = serde_json::from_slice(text).unwrap();
        assert_eq!(resolved, expected);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_PLEASE"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"]}]}"#,
        ] {
            assert!(SeccompProfile::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_for_an_unreadable_kernel_version_gives_nothing() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"name":"one","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"soon"}},
            {"name":"two","action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"soon"}}]}"#;
        let resolved = SeccompProfile::parse(text)
            .unwrap()
            .resolve(&HashSet::new(), MACHINE)
            .unwrap();
        assert!(rules(&resolved, "one").is_empty());
        assert_eq!(rules(&resolved, "two").len(), 1);
    }
}
