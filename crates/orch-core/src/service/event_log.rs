//! The events that are kept, in memory as the book is: listing and following them never touches the disk, and nothing is
//! held for a follower but its place.
//!
//! An event gets its revision while its commit is queued, and is shown once that commit is durable. Commits become
//! durable in the order of the queue, so that when one has, all before it have.

use std::collections::VecDeque;
use std::sync::Arc;

use orch_domain::event::Event;
use parking_lot::RwLock;
use tokio::sync::watch;

pub struct EventLog {
    kept: usize,
    log: RwLock<Log>,
    /// The newest revision that is durable.
    shown: watch::Sender<u64>,
}

/// Invariant: revisions grow by one from event to event.
#[derive(Default)]
struct Log {
    events: VecDeque<Arc<Event>>,
    /// Of the last event ever, kept or not.
    last: u64,
}

impl Log {
    fn oldest(&self) -> u64 {
        self.events.front().map_or(self.last + 1, |it| it.revision)
    }
}

/// Which revisions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of the oldest event that is kept; one more than `newest` when none is.
    pub oldest: u64,
    /// Of the last event; 0 before the first.
    pub newest: u64,
}

impl Extent {
    /// Whether everything after `revision` is still there, and there ever was such a revision.
    pub fn has_all_after(&self, revision: u64) -> bool {
        self.oldest <= revision.saturating_add(1) && revision <= self.newest
    }
}

impl EventLog {
    /// `events` oldest first; only the last `kept` of them are shown.
    pub(crate) fn new(events: Vec<Event>, kept: usize) -> EventLog {
        let log =
            EventLog { kept: kept.max(1), log: RwLock::default(), shown: watch::Sender::new(0) };
        log.replace(events);
        log
    }

    /// What is durable takes the place of what was believed.
    pub(crate) fn replace(&self, events: Vec<Event>) {
        let last = events.last().map_or(0, |it| it.revision);
        let mut events: VecDeque<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        // After a hole there is nothing that could be followed over it.
        let sound = (1..events.len())
            .rev()
            .find(|at| events[*at].revision != events[at - 1].revision + 1)
            .unwrap_or(0);
        events.drain(..sound.max(events.len().saturating_sub(self.kept)));
        *self.log.write() = Log { events, last };
        self.show(last);
    }

    /// Numbers what `make` makes of the revisions it is given. To be called in the order in which commits are queued.
    pub(crate) fn append<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        make: impl Fn(T, u64) -> Event,
    ) -> Vec<Arc<Event>> {
        let mut log = self.log.write();
        let mut appended = Vec::new();
        for item in items {
            log.last += 1;
            let event = Arc::new(make(item, log.last));
            log.events.push_back(event.clone());
            appended.push(event);
        }
        appended
    }

    /// Everything up to `revision` is durable.
    pub(crate) fn show(&self, revision: u64) {
        {
            let mut log = self.log.write();
            // What is not durable yet does not push out what followers may still want.
            while self.kept < log.events.len()
                && log.events.front().is_some_and(|it| it.revision + self.kept as u64 <= revision)
            {
                log.events.pop_front();
            }
        }
        self.shown.send_if_modified(|it| {
            let is_newer = *it < revision;
            *it = (*it).max(revision);
            is_newer
        });
    }

    pub fn extent(&self) -> Extent {
        let newest = *self.shown.borrow();
        Extent { oldest: self.log.read().oldest().min(newest + 1), newest }
    }

    /// Calls `visit` with the events between the two revisions, newest first, until it says false.
    pub fn each_back(&self, after: u64, up_to: u64, mut visit: impl FnMut(&Arc<Event>) -> bool) {
        let log = self.log.read();
        let up_to = up_to.min(*self.shown.borrow());
        let n = usize::try_from((up_to + 1).saturating_sub(log.oldest())).unwrap_or(0);
        for event in log.events.range(..n.min(log.events.len())).rev() {
            if event.revision <= after || !visit(event) {
                return;
            }
        }
    }

    /// From the first event after `revision` on.
    pub fn follow(self: &Arc<EventLog>, revision: u64) -> Follower {
        Follower { log: self.clone(), shown: self.shown.subscribe(), at: revision }
    }
}

/// A place in the log.
pub struct Follower {
    log: Arc<EventLog>,
    shown: watch::Receiver<u64>,
    at: u64,
}

/// What a follower gets.
#[derive(Debug, PartialEq)]
pub enum Followed {
    /// In order, and none left out.
    Events(Vec<Arc<Event>>),
    /// It was away for longer than events are kept, or its place never was; it goes on after `newest`.
    Missed(Extent),
}

/// Events handed over at once.
const BATCH: usize = 256;

impl Follower {
    /// Waits until there is something after its place. It may be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Followed {
        loop {
            self.shown.borrow_and_update();
            if let Some(followed) = self.take() {
                return followed;
            }
            // The log has the sender, and the follower has the log.
            self.shown.changed().await.expect("the sender is not dropped");
        }
    }

    fn take(&mut self) -> Option<Followed> {
        let log = self.log.log.read();
        let newest = *self.log.shown.borrow();
        let extent = Extent { oldest: log.oldest().min(newest + 1), newest };
        if !extent.has_all_after(self.at) {
            self.at = newest;
            return Some(Followed::Missed(extent));
        }
        if self.at == newest {
            return None;
        }
        let start = usize::try_from(self.at + 1 - extent.oldest).expect("the log is in memory");
        let n = usize::try_from(newest - self.at).unwrap_or(BATCH).min(BATCH);
        let events: Vec<_> = log.events.range(start..start + n).cloned().collect();
        self.at += n as u64;
        Some(Followed::Events(events))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use orch_domain::event::News;
    use orch_domain::image::ImageRef;
    use orch_domain::name::NodeId;
    use orch_domain::time::Timestamp;

    use super::*;

    fn event((): (), revision: u64) -> Event {
        let image = ImageRef::try_new("web:1").unwrap();
        let news = News::image_pulled(&image, &NodeId::try_new("n1").unwrap());
        news.event(revision, Timestamp::ZERO, None, None)
    }

    fn add(log: &EventLog, n: usize) {
        log.append(vec![(); n], event);
    }

    fn revisions(followed: Followed) -> Vec<u64> {
        match followed {
            Followed::Events(events) => events.iter().map(|it| it.revision).collect(),
            Followed::Missed(extent) => panic!("{extent:?}"),
        }
    }

    #[test]
    fn what_is_not_durable_is_not_shown() {
        let log = Arc::new(EventLog::new(Vec::new(), 10));
        let mut follower = log.follow(0);
        add(&log, 3);
        assert!(follower.next().now_or_never().is_none());
        assert_eq!(log.extent(), Extent { oldest: 1, newest: 0 });
        log.show(2);
        assert_eq!(revisions(follower.next().now_or_never().unwrap()), [1, 2]);
        // An earlier commit may be told of later.
        log.show(1);
        assert!(follower.next().now_or_never().is_none());
        let mut seen = Vec::new();
        log.each_back(0, u64::MAX, |it| {
            seen.push(it.revision);
            true
        });
        assert_eq!(seen, [2, 1]);
    }

    #[test]
    fn who_is_away_too_long_is_told_and_goes_on_from_now() {
        let log = Arc::new(EventLog::new(Vec::new(), 5));
        let mut follower = log.follow(0);
        add(&log, 9);
        log.show(9);
        let missed = Followed::Missed(Extent { oldest: 5, newest: 9 });
        assert_eq!(follower.next().now_or_never().unwrap(), missed);
        add(&log, 1);
        log.show(10);
        assert_eq!(revisions(follower.next().now_or_never().unwrap()), [10]);
        assert_eq!(revisions(log.follow(5).next().now_or_never().unwrap()), [6, 7, 8, 9, 10]);
        assert!(matches!(log.follow(4).next().now_or_never(), Some(Followed::Missed(_))));
        // A place that never was, as after a backup was restored.
        assert!(matches!(log.follow(11).next().now_or_never(), Some(Followed::Missed(_))));
    }

    #[test]
    fn revisions_of_what_failed_are_given_again() {
        let log = Arc::new(EventLog::new(Vec::new(), 10));
        add(&log, 2);
        log.show(2);
        add(&log, 3);
        log.replace((1..=2).map(|it| event((), it)).collect());
        let again = log.append([()], event);
        assert_eq!(again[0].revision, 3);
        log.show(3);
        assert_eq!(revisions(log.follow(1).next().now_or_never().unwrap()), [2, 3]);
    }

    #[test]
    fn only_the_last_are_kept_and_none_before_a_hole() {
        let log = EventLog::new((3..=9).map(|it| event((), it)).collect(), 4);
        assert_eq!(log.extent(), Extent { oldest: 6, newest: 9 });
        let holed = [3, 4, 8, 9].map(|it| event((), it)).to_vec();
        assert_eq!(EventLog::new(holed, 10).extent(), Extent { oldest: 8, newest: 9 });
    }

    #[test]
    fn many_come_in_batches_without_a_gap() {
        let log = Arc::new(EventLog::new(Vec::new(), 5000));
        add(&log, 1000);
        log.show(1000);
        let (mut follower, mut seen) = (log.follow(10), Vec::new());
        while let Some(it) = follower.next().now_or_never() {
            seen.extend(revisions(it));
        }
        assert_eq!(seen, (11..=1000).collect::<Vec<_>>());
    }
}
