//! Whether the Ray cluster that the configuration names can be used.

use orch_core::ports::ray::RayError;

use super::{Finding, bad, good, poor};
use crate::app::ray;
use crate::cli::chain;
use crate::config::Config;

const SUBJECT: &str = "ray";

/// None: no Ray is configured, which is no lack.
pub(super) async fn look(config: &Config) -> Option<Finding> {
    let dashboard = match ray::of(config) {
        Ok(it) => it?,
        Err(err) => return Some(bad(SUBJECT, chain(&err))),
    };
    let url = dashboard.dashboard_url();
    let err = match dashboard.cluster().await {
        Ok(it) => {
            let version = it.version.ray.as_deref().unwrap_or("(version unknown)").to_owned();
            let text = format!("{version} at `{url}`, {} nodes known", it.nodes.len());
            return Some(good(SUBJECT, text));
        }
        Err(err) => err,
    };
    let hint = match &err {
        RayError::Unreachable { .. } => {
            "start its head so that this machine reaches it (`ray start --head --dashboard-host ADDRESS`), or correct \
             `ray.dashboard_url`"
        }
        RayError::Timeout { .. } => {
            "look whether its head is overloaded, or give it longer with `ray.timeout`"
        }
        RayError::Unauthenticated => {
            "set `ray.token`, or RAY_AUTH_TOKEN, to the token of the cluster"
        }
        RayError::Garbage { .. } => {
            "`ray.dashboard_url` has to be the URL of the dashboard (port 8265 unless it was changed), not of another \
             port of the head"
        }
        RayError::Refused { .. } | RayError::TooLong { .. } => "look into the log of the dashboard",
    };
    Some(poor(SUBJECT, format!("`{url}`: {}\nhint: {hint}", chain(&err.into()))))
}
