//! The Ray cluster that the configuration names.

use std::sync::Arc;

use anyhow::Context;
use orch_adapters::ray::{RayDashboard, RaySettings};
use orch_core::ports::ray::Ray;

use crate::config::Config;

/// None: there is none configured. Nothing is asked yet.
pub fn of(config: &Config) -> anyhow::Result<Option<Arc<dyn Ray>>> {
    let Some(url) = &config.ray.dashboard_url else { return Ok(None) };
    let settings = RaySettings {
        url: url.trim_end_matches('/').to_owned(),
        token: config.ray.token.clone(),
        timeout: config.ray.timeout.duration(),
    };
    let dashboard = RayDashboard::new(settings).context("no client for Ray can be made")?;
    Ok(Some(Arc::new(dashboard)))
}
