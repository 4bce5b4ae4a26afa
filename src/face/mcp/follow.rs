//! Notices that subscribed logs grow. What was written is not looked at: a client that hears of it reads the resource.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, future, stream};
use orch_core::ports::engine::LogQuery;
use orch_core::{Cx, Orch};
use orch_domain::caller::Caller;
use orch_domain::name::InstanceId;
use tokio_stream::StreamMap;

/// Each is an open stream to an engine. Beyond it, logs are told of when their instance changes.
const MAX_FOLLOWED: usize = 32;

/// The logs that one subscription follows.
#[derive(Default)]
pub(super) struct LogWatch {
    streams: StreamMap<InstanceId, BoxStream<'static, ()>>,
    /// Also those whose stream ended, because their container does not run or is not there.
    tried: HashSet<InstanceId>,
}

impl LogWatch {
    /// Follows exactly `wanted`, as far as that can be done.
    pub(super) fn follow(&mut self, orch: &Arc<Orch>, caller: &Caller, wanted: &[InstanceId]) {
        if self.tried.is_empty() && wanted.is_empty() {
            return;
        }
        let unwanted: Vec<InstanceId> =
            self.tried.iter().filter(|it| !wanted.contains(it)).cloned().collect();
        for id in unwanted {
            self.tried.remove(&id);
            self.streams.remove(&id);
        }
        for id in wanted {
            if self.streams.len() < MAX_FOLLOWED && self.tried.insert(id.clone()) {
                self.streams.insert(id.clone(), lines(orch.clone(), caller.clone(), id.clone()));
            }
        }
    }

    /// The instance changed: if its stream ended, `follow` tries again.
    pub(super) fn retry(&mut self, id: &InstanceId) {
        if !self.streams.contains_key(id) {
            self.tried.remove(id);
        }
    }

    /// The next that grew; never, while none is followed.
    pub(super) async fn next(&mut self) -> InstanceId {
        match self.streams.next().await {
            Some((id, ())) => id,
            None => future::pending().await,
        }
    }
}

fn lines(orch: Arc<Orch>, caller: Caller, id: InstanceId) -> BoxStream<'static, ()> {
    let opened = async move {
        let query = LogQuery { tail: Some(0), since: None, follow: true };
        match orch.logs(&Cx::new(Some(caller)), &id, query).await {
            Ok(lines) => lines,
            Err(_) => stream::empty().boxed(),
        }
    };
    stream::once(opened)
        .flatten()
        .take_while(|line| future::ready(line.is_ok()))
        .map(|_| ())
        .boxed()
}
