//! Which server a task is at: clients name it by its id alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::frame::Frame;
use crate::members::Members;

/// The oldest are forgotten; a task that matters is asked about again and again, and soon.
const MAX: usize = 20_000;

#[derive(Default)]
pub struct Tasks(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// By user and id: what one user began is not there for another.
    servers: HashMap<(Arc<str>, String), Arc<str>>,
    in_order: VecDeque<(Arc<str>, String)>,
}

impl Tasks {
    /// Remembers the task that an answer names, if it names one.
    pub fn note(&self, answer: &Frame, user: &Arc<str>, server: &Arc<str>) {
        let Some(result) = answer.result.as_ref().filter(|it| it.get().contains("\"taskId\""))
        else {
            return;
        };
        let Some(result) = Members::of(result) else { return };
        let id = result.object("task").and_then(|it| it.text("taskId"));
        let Some(id) = id.or_else(|| result.text("taskId")) else { return };
        let mut known = self.0.lock();
        let key = (user.clone(), id);
        if known.servers.insert(key.clone(), server.clone()).is_none() {
            known.in_order.push_back(key);
        }
        while MAX < known.in_order.len() {
            if let Some(oldest) = known.in_order.pop_front() {
                known.servers.remove(&oldest);
            }
        }
    }

    pub fn server_of(&self, user: &Arc<str>, id: &str) -> Option<Arc<str>> {
        self.0.lock().servers.get(&(user.clone(), id.to_owned())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::raw;

    #[test]
    fn a_task_is_found_by_whose_it_is_alone() {
        let tasks = Tasks::default();
        let (me, server): (Arc<str>, Arc<str>) = ("me".into(), "a".into());
        let answer = |text: &str| Frame::result(raw(&1), serde_json::from_str(text).unwrap());
        tasks.note(&answer(r#"{"task":{"taskId":"t1","status":"working"}}"#), &me, &server);
        tasks.note(&answer(r#"{"resultType":"task","taskId":"t2"}"#), &me, &server);
        tasks.note(&answer(r#"{"content":[{"text":"\"taskId\""}]}"#), &me, &server);
        assert_eq!(tasks.server_of(&me, "t1").as_deref(), Some("a"));
        assert_eq!(tasks.server_of(&me, "t2").as_deref(), Some("a"));
        assert_eq!(tasks.server_of(&"other".into(), "t1"), None);
    }
}
