//! From Ray's answers to ours. They are read as what they happen to be: an unknown field is passed over, a missing or
//! odd one is absent, and only an answer of another shape altogether is refused.
//!
//! `/nodes` and `/api/cluster_status` turn every key into camel case, names of resources and even ids among them, so
//! names and totals come from `/api/v0/nodes`, which does not.

use std::collections::{BTreeMap, HashMap};

use orch_core::ports::ray::{RayError, RayLogs, RayVersion};
use orch_domain::ray::{RayJob, RayJobStatus, RayNode, RayNodeState, RayUse};
use orch_domain::resource::{Cpu, Memory};
use orch_domain::text::sanitize;
use orch_domain::time::Timestamp;
use serde_json::{Map, Value};

/// CPU, GPU and bytes of memory that are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Taken {
    cpu: Option<f64>,
    gpu: Option<f64>,
    memory: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct InUse {
    /// By id in lower case, as some versions change that too.
    pub(super) by_node: HashMap<String, Taken>,
    pub(super) n_pending: Option<u64>,
}

pub(super) fn version(answer: &Value) -> RayVersion {
    RayVersion { ray: text(answer, "ray_version"), session: text(answer, "session_name") }
}

pub(super) fn nodes(answer: &Value, in_use: &InUse) -> Result<Vec<RayNode>, RayError> {
    let result = &answer["data"]["result"];
    let list = result["result"].as_array().or(result.as_array());
    let list = list.ok_or_else(|| garbage("`/api/v0/nodes` has no list of nodes"))?;
    Ok(list.iter().filter_map(|it| node(it, in_use)).collect())
}

fn node(entry: &Value, in_use: &InUse) -> Option<RayNode> {
    let node_id = text(entry, "node_id")?;
    let address = text(entry, "node_ip").unwrap_or_default();
    let state = match text(entry, "state").as_deref() {
        Some("ALIVE") => RayNodeState::Alive,
        Some("DEAD") => RayNodeState::Dead,
        _ => RayNodeState::Unknown,
    };
    let totals = entry["resources_total"].as_object();
    let total = |name: &str| totals.and_then(|it| it.get(name)).and_then(number).unwrap_or(0.0);
    let taken = in_use.by_node.get(&node_id.to_ascii_lowercase()).copied().unwrap_or_default();
    let has_gpu = total("GPU") != 0.0;
    let resources = totals
        .into_iter()
        .flatten()
        // These are told apart, or only mark the node.
        .filter(|(name, _)| !matches!(name.as_str(), "CPU" | "GPU" | "memory"))
        .filter(|(name, _)| !name.starts_with("node:"))
        .filter_map(|(name, it)| Some((sanitize(name), number(it)?)))
        .collect();
    Some(RayNode {
        name: text(entry, "node_name").unwrap_or_else(|| address.clone()),
        node_id,
        address,
        state,
        message: text(entry, "state_message").filter(|it| !it.is_empty()),
        is_head: entry["is_head_node"].as_bool().unwrap_or(false),
        usage: RayUse {
            cpu_used: taken.cpu.map(cpu),
            cpu_total: cpu(total("CPU")),
            gpu_used: taken.gpu.filter(|_| has_gpu),
            gpu_total: total("GPU"),
            memory_used: taken.memory.map(memory),
            memory_total: memory(total("memory")),
        },
        resources,
        labels: texts(&entry["labels"]),
        started_at: time(entry, "start_time_ms"),
        ended_at: time(entry, "end_time_ms"),
    })
}

/// Of `/api/cluster_status`.
pub(super) fn in_use(answer: &Value) -> InUse {
    let status = either(&answer["data"], "clusterStatus", "cluster_status");
    let report = either(status, "loadMetricsReport", "load_metrics_report");
    let by_node = either(report, "usageByNode", "usage_by_node").as_object();
    let by_node = by_node.into_iter().flatten().filter_map(|(id, used)| {
        let used = used.as_object()?;
        // A resource that a node does not have is not listed.
        let of = |name: &str| used.get(name).and_then(|it| number(&it[0]));
        let taken = Taken { cpu: of("CPU"), gpu: of("GPU"), memory: of("memory") };
        Some((id.to_ascii_lowercase(), taken))
    });
    let waiting = [("resourceDemand", "resource_demand"), ("pgDemand", "pg_demand")]
        .into_iter()
        .filter_map(|(camel, snake)| either(report, camel, snake).as_array())
        .map(|demands| demands.iter().filter_map(|it| it[1].as_u64()).fold(0, u64::saturating_add))
        .reduce(u64::saturating_add);
    InUse { by_node: by_node.collect(), n_pending: waiting }
}

/// Of `/nodes?view=summary`: lines such as `1.0/2.0 GPU` and `190.73MiB/4.66GiB memory`.
pub(super) fn logical_resources(answer: &Value) -> HashMap<String, Taken> {
    let data = &answer["data"];
    let by_node = either(data, "nodeLogicalResources", "node_logical_resources").as_object();
    let taken = |lines: &str| {
        let mut taken = Taken::default();
        for line in lines.lines() {
            let Some((amounts, name)) = line.trim().split_once(' ') else { continue };
            let used = amounts.split_once('/').and_then(|(used, _)| amount(used));
            match name {
                "CPU" => taken.cpu = used,
                "GPU" => taken.gpu = used,
                "memory" => taken.memory = used,
                _ => {}
            }
        }
        taken
    };
    by_node
        .into_iter()
        .flatten()
        .filter_map(|(id, lines)| Some((id.to_ascii_lowercase(), taken(lines.as_str()?))))
        .collect()
}

/// A number, with or without a unit of bytes.
fn amount(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    let it: f64 = digits.parse().ok()?;
    is_amount(it).then(|| it * (1u64 << factor) as f64)
}

pub(super) fn jobs(answer: &Value) -> Result<Vec<RayJob>, RayError> {
    let list = answer.as_array().ok_or_else(|| garbage("`/api/jobs/` is not a list"))?;
    // One odd entry does not hide the others.
    Ok(list.iter().filter_map(|it| job(it).ok()).collect())
}

pub(super) fn job(entry: &Value) -> Result<RayJob, RayError> {
    let submission_id = text(entry, "submission_id").filter(|it| !it.is_empty());
    let was_submitted = submission_id.is_some();
    let id = submission_id
        .or_else(|| text(entry, "job_id"))
        .ok_or_else(|| garbage("a job has no id"))?;
    let status = match text(entry, "status").as_deref() {
        Some("PENDING") => RayJobStatus::Pending,
        Some("RUNNING") => RayJobStatus::Running,
        Some("STOPPED") => RayJobStatus::Stopped,
        Some("SUCCEEDED") => RayJobStatus::Succeeded,
        Some("FAILED") => RayJobStatus::Failed,
        _ => RayJobStatus::Unknown,
    };
    let env = entry["runtime_env"]["env_vars"].as_object();
    Ok(RayJob {
        id,
        was_submitted,
        status,
        entrypoint: text(entry, "entrypoint").unwrap_or_default(),
        message: text(entry, "message"),
        error_type: text(entry, "error_type"),
        exit_code: entry["driver_exit_code"].as_i64(),
        started_at: time(entry, "start_time"),
        ended_at: time(entry, "end_time"),
        metadata: texts(&entry["metadata"]),
        env_names: env.map(Map::keys).into_iter().flatten().map(|it| sanitize(it)).collect(),
        driver_node_id: text(entry, "driver_node_id"),
        driver_address: text(&entry["driver_info"], "node_ip_address"),
    })
}

/// Of `/api/jobs/{id}/logs`, or of the end of it: one text in one object.
pub(super) fn logs(answer: &[u8], is_cut: bool) -> Result<RayLogs, RayError> {
    let whole = if is_cut {
        let line = first_line(answer).ok_or_else(|| garbage("a line of the logs is too long"))?;
        [br#"{"logs":""#, line].concat()
    } else {
        answer.to_vec()
    };
    let value: Value = serde_json::from_slice(&whole)
        .map_err(|err| RayError::Garbage { what: err.to_string() })?;
    match value {
        Value::Object(mut it) => match it.remove("logs") {
            Some(Value::String(text)) => Ok(RayLogs { text, is_cut }),
            // Nothing was written yet.
            None | Some(Value::Null) => Ok(RayLogs::default()),
            Some(_) => Err(garbage("the logs are no text")),
        },
        _ => Err(garbage("the logs are no object")),
    }
}

/// What follows the first newline of a JSON text whose beginning is gone, so that it is known where an escape ends.
fn first_line(end: &[u8]) -> Option<&[u8]> {
    let mut n_backslashes = 0;
    // How many stood before the cut is not known.
    let mut is_certain = false;
    for (i, byte) in end.iter().enumerate() {
        match byte {
            b'\\' => n_backslashes += 1,
            b'n' if is_certain && n_backslashes % 2 == 1 => return Some(&end[i + 1..]),
            _ => (n_backslashes, is_certain) = (0, true),
        }
    }
    None
}

fn garbage(what: &str) -> RayError {
    RayError::Garbage { what: what.to_owned() }
}

fn either<'a>(value: &'a Value, camel: &str, snake: &str) -> &'a Value {
    let it = &value[camel];
    if it.is_null() { &value[snake] } else { it }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(sanitize)
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((sanitize(key), sanitize(value.as_str()?)))).collect()
}

/// An amount; versions differ in whether some are written as text.
fn number(value: &Value) -> Option<f64> {
    let it = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    is_amount(it).then_some(it)
}

fn is_amount(it: f64) -> bool {
    it.is_finite() && 0.0 <= it
}

/// Milliseconds since 1970; 0 stands for never.
fn time(value: &Value, key: &str) -> Option<Timestamp> {
    let millis = number(&value[key])?;
    (0.0 < millis && millis < 1e14).then(|| Timestamp::from_millis(millis as i64))
}

fn cpu(it: f64) -> Cpu {
    // Saturates.
    Cpu::from_millis((it * 1000.0).round() as u32)
}

fn memory(bytes: f64) -> Memory {
    Memory::from_bytes(bytes as u64)
}

#[cfg(test)]
mod tests;
