//! From a row before and after a transaction to what that says. Pure, and called for every row that a transaction
//! touched, so that no change goes untold.

use crate::instance::Instance;
use crate::node::{Node, NodeStatus};
use crate::registry::RegistryCredential;
use crate::user::{ApiKey, Quota, User};

use super::{News, SubjectType};

pub(crate) fn instance(before: Option<&Instance>, after: Option<&Instance>, news: &mut Vec<News>) {
    let Some(it) = after.or(before) else { return };
    let shown = format!("`{}` ({})", it.name, it.id);
    let about = |kind: &str, message: String| {
        let about =
            News::about(kind, SubjectType::Instance, it.id.as_str(), it.name.as_str(), message);
        News { node_id: Some(it.node_id.clone()), owner: Some(it.owner.clone()), ..about }
    };
    let (old, new) = match (before, after) {
        (Some(old), Some(new)) if old == new => return,
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            let message =
                format!("{shown} was launched from `{}` on node `{}`", new.image, new.node_id);
            let about = about(&format!("instance.{}", new.state), message);
            return news.push(about.in_state(None, Some(&new.state)));
        }
        (Some(old), None) => {
            let message = format!("the record of {shown} was forgotten");
            return news
                .push(about("instance.forgotten", message).in_state(Some(&old.state), None));
        }
        (None, None) => return,
    };
    let has_moved = old.node_id != new.node_id || old.generation != new.generation;
    let moved = || match old.node_id == new.node_id {
        true => format!("generation {} on node `{}`", new.generation, new.node_id),
        false => format!(
            "moved from node `{}` to `{}`, generation {}",
            old.node_id, new.node_id, new.generation
        ),
    };
    if has_moved {
        news.push(about("instance.moved", format!("{shown} {}", moved())));
    }
    if old.state != new.state {
        let mut message =
            format!("{shown} is {} on node `{}` (was {})", new.state, new.node_id, old.state);
        if let Some(reason) = &new.state_reason {
            message.push_str(&format!(": {}", reason.message));
        }
        let about = about(&format!("instance.{}", new.state), message);
        news.push(about.in_state(Some(&old.state), Some(&new.state)));
    } else if !has_moved {
        let changed = changed(&[
            ("name", old.name != new.name),
            ("labels", old.labels != new.labels),
            ("termination protection", old.termination_protection != new.termination_protection),
            ("ports", old.ports != new.ports),
            ("size", old.resources != new.resources),
            ("reason of its state", old.state_reason != new.state_reason),
            ("goal", old.goal != new.goal),
            ("what becomes of it when its node is lost", old.on_node_loss != new.on_node_loss),
            ("what may be left of it on nodes it moved away from", old.remnants != new.remnants),
        ]);
        news.push(about("instance.changed", format!("{shown} was changed: {changed}")));
    }
}

pub(crate) fn node(before: Option<&Node>, after: Option<&Node>, news: &mut Vec<News>) {
    let Some(it) = after.or(before) else { return };
    let shown = format!("node `{}`", it.id);
    let about = |kind: &str, message: String| {
        let about = News::about(kind, SubjectType::Node, it.id.as_str(), &it.hostname, message);
        News { node_id: Some(it.id.clone()), ..about }
    };
    let (old, new) = match (before, after) {
        (Some(old), Some(new)) if old == new => return,
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            let message = format!("{shown} was registered and is {}", new.status);
            return news.push(about("node.registered", message).in_state(None, Some(&new.status)));
        }
        (Some(old), None) => {
            let message = format!("{shown} was removed");
            return news.push(about("node.removed", message).in_state(Some(&old.status), None));
        }
        (None, None) => return,
    };
    if old.status != new.status {
        let mut message = format!("{shown} is {} (was {})", new.status, old.status);
        // Of going bad; that it is well again explains itself.
        let fell = new.status_changes.first().filter(|it| it.to != NodeStatus::Healthy);
        if let Some(it) = fell {
            message.push_str(&format!(": {}", it.reason));
        }
        let about = about(&format!("node.{}", new.status), message);
        news.push(about.in_state(Some(&old.status), Some(&new.status)));
    }
    match (old.cordoned, new.cordoned) {
        (false, true) => {
            news.push(about("node.cordoned", format!("{shown} takes no new instances")));
        }
        (true, false) => {
            news.push(about("node.uncordoned", format!("{shown} takes new instances again")));
        }
        _ => {}
    }
    // All that is left once what was told of above is the same.
    let rest = Node {
        status: old.status,
        status_since: old.status_since,
        status_changes: old.status_changes.clone(),
        cordoned: old.cordoned,
        ..new.clone()
    };
    if rest != *old {
        let changed = changed(&[
            ("hostname", old.hostname != new.hostname),
            ("address", old.address != new.address),
            ("role", old.role != new.role),
            ("engine", old.engine != new.engine),
            ("tags", old.tags != new.tags),
            ("labels", old.labels != new.labels),
            ("description", old.description != new.description),
            ("capacity", old.capacity != new.capacity),
        ]);
        news.push(about("node.changed", format!("{shown} was changed: {changed}")));
    }
}

pub(crate) fn user(before: Option<&User>, after: Option<&User>, news: &mut Vec<News>) {
    let Some(it) = after.or(before) else { return };
    let shown = format!("user `{}`", it.name);
    let mut tell = |kind: &str, message: String| {
        let about = News::about(kind, SubjectType::User, it.id.as_str(), it.name.as_str(), message);
        news.push(News { owner: Some(it.id.clone()), ..about });
    };
    let (old, new) = match (before, after) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(_)) => return tell("user.created", format!("{shown} was created")),
        (Some(_), None) => return tell("user.removed", format!("{shown} was removed")),
        (None, None) => return,
    };
    if old.quota != new.quota {
        let message = format!(
            "the quota of {shown} is {} (was {})",
            quota_text(&new.quota),
            quota_text(&old.quota)
        );
        tell("quota.changed", message);
    }
    let rest = User { quota: old.quota, ..new.clone() };
    if rest != *old {
        let changed = changed(&[
            ("name", old.name != new.name),
            ("permissions", old.permissions != new.permissions),
            ("password", old.password_hash != new.password_hash),
            ("tools", old.tools != new.tools),
        ]);
        tell("user.changed", format!("{shown} was changed: {changed}"));
    }
}

pub(crate) fn api_key(before: Option<&ApiKey>, after: Option<&ApiKey>, news: &mut Vec<News>) {
    let Some(it) = after.or(before) else { return };
    let what = match (before, after) {
        (Some(old), Some(new)) if old == new => return,
        (None, _) => "created",
        (_, None) => "revoked",
        _ => "changed",
    };
    let message = format!("the API key `{}` ({}) of `{}` was {what}", it.name, it.id, it.user);
    let kind = format!("api_key.{what}");
    let about = News::about(&kind, SubjectType::ApiKey, it.id.as_str(), &it.name, message);
    news.push(News { owner: Some(it.user.clone()), ..about });
}

/// For administrators and whoever set it.
pub(crate) fn registry_credential(
    before: Option<&RegistryCredential>,
    after: Option<&RegistryCredential>,
    news: &mut Vec<News>,
) {
    let Some(it) = after.or(before) else { return };
    let (verb, what) = match (before, after) {
        (Some(old), Some(new)) if old == new => return,
        (None, _) => ("set", "set"),
        (_, None) => ("removed", "removed"),
        _ => ("set", "replaced"),
    };
    let registry = it.registry.as_str();
    let message = format!("the login of `{}` at the registry `{registry}` was {what}", it.username);
    let kind = format!("registry_credential.{verb}");
    let about = News::about(&kind, SubjectType::RegistryCredential, registry, registry, message);
    news.push(News { owner: Some(it.set_by.clone()), ..about });
}

fn quota_text(quota: &Quota) -> String {
    format!("{} instances, {}, {}", quota.instances, quota.cpu, quota.memory)
}

/// The names of what differs; a record has inner parts without a name for people.
fn changed(parts: &[(&str, bool)]) -> String {
    let names: Vec<&str> = parts.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    if names.is_empty() { "its record".to_owned() } else { names.join(", ") }
}
