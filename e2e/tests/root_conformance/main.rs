//! What CRI says, case by case: each holds on Debian's containerd where that serves it, and on orlopd.
//!
//! `both` are facts of the interface: a case that fails on containerd is a wrong case. `orlop` are calls of later versions
//! than containerd 1.6, and what only Orlop promises.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod containers;
mod errors;
mod images;
mod later;
mod logs;
mod namespaces;
mod pods;
mod processes;
mod resources;
mod security;
mod streams;
mod support;

use orlop_e2e::{Kind, Site};

/// One case on one engine, which is started for it and left clean.
fn hold(kind: Kind, case: fn(&Site)) {
    let site = Site::start(kind).unwrap();
    case(&site);
    site.close().unwrap();
}

macro_rules! suite {
    (
        both { $($module:ident { $($case:ident),+ $(,)? })+ }
        orlop { $($own:ident { $($own_case:ident),+ $(,)? })+ }
    ) => {
        mod orlop {
            use orlop_e2e::Kind::Orlop;
            $(mod $module {
                $(#[test] fn $case() { crate::hold(super::Orlop, crate::$module::$case); })+
            })+
            $(mod $own {
                $(#[test] fn $own_case() { crate::hold(super::Orlop, crate::$own::$own_case); })+
            })+
        }
        mod containerd {
            use orlop_e2e::Kind::Containerd;
            $(mod $module {
                $(#[test] fn $case() { crate::hold(super::Containerd, crate::$module::$case); })+
            })+
        }
    };
}

suite! {
    both {
        pods {
            a_pod_is_ready_until_it_is_stopped_and_there_until_it_is_removed,
            pods_are_found_by_id_state_and_labels,
            a_pod_has_the_names_and_servers_it_asked_for,
        }
        containers {
            a_container_is_created_runs_and_ends,
            containers_are_found_by_id_state_pod_and_labels,
            what_the_image_says_holds_unless_the_container_says_otherwise,
            a_container_that_does_not_listen_is_killed_after_its_grace,
            a_container_that_cannot_be_started_says_why,
            files_of_the_host_are_seen_as_they_were_mounted,
        }
        errors {
            what_is_not_there_can_be_stopped_and_removed_but_not_asked_about,
            a_name_in_use_is_refused,
            what_needs_a_running_container_is_refused_without_one,
        }
        images {
            an_image_is_pulled_listed_described_and_removed,
            what_cannot_be_pulled_is_refused,
        }
        logs {
            a_log_has_every_line_with_its_stream_and_long_ones_in_parts,
            a_log_that_was_moved_away_is_begun_anew,
        }
        namespaces {
            containers_share_what_their_pod_shares,
            processes_are_shared_with_the_pod_the_host_or_another_container,
        }
        processes {
            a_command_gives_its_outputs_and_its_code,
            a_command_that_takes_too_long_is_ended,
        }
        resources {
            limits_are_in_force_and_can_be_changed,
            what_is_used_is_told_of_containers_and_pods,
        }
        security {
            a_container_runs_as_whom_it_was_asked_to,
            capabilities_are_what_was_asked_for,
            paths_are_masked_and_the_root_is_read_only,
            a_system_call_that_a_profile_forbids_fails,
        }
        streams {
            a_command_is_streamed_both_ways,
            a_container_is_attached_to,
            a_url_is_good_for_one_connection,
        }
    }
    orlop {
        later {
            the_runtime_tells_its_version_and_readiness_and_its_cgroup_driver,
            what_changes_is_told_as_it_changes,
            lists_in_pieces_say_what_lists_say,
            every_metric_of_a_pod_is_described,
            a_pods_resources_are_kept_with_it,
            a_container_that_cannot_be_checkpointed_says_why,
            a_user_namespace_maps_the_containers_superuser_away,
            an_image_is_mounted_in_a_container,
        }
    }
}
