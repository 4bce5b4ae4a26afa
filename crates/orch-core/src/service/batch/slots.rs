//! Places to run in, shared by all batches: so many altogether, so many for each server, and for each tool that is limited.
//!
//! Fair: where several batches wait for the same places, the next one goes to the owner who has the fewest, and among that
//! owner's batches to the one that has the fewest. Nobody waits for a place that nobody else wants.

use std::collections::HashMap;
use std::sync::Arc;

use orch_domain::name::UserId;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls of all batches at the same time.
    pub total: u32,
    /// Of these, to one server.
    pub per_server: u32,
    /// By server (`github`) or tool (`github.create_issue`), in place of `per_server` or beside it.
    pub named: HashMap<String, u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { total: 256, per_server: 128, named: HashMap::new() }
    }
}

type ResourceId = usize;
type Member = u64;

pub struct Slots(Mutex<State>);

struct State {
    limits: Limits,
    resources: Vec<Resource>,
    by_name: HashMap<String, ResourceId>,
    members: HashMap<Member, (UserId, Arc<Notify>)>,
    n_joined: u64,
}

struct Resource {
    limit: u32,
    n_used: u32,
    used: HashMap<Member, u32>,
    used_by: HashMap<UserId, u32>,
    /// Who was refused here since it last had a look.
    waiting: Vec<Member>,
}

impl Resource {
    fn new(limit: u32) -> Resource {
        Resource {
            limit: limit.max(1),
            n_used: 0,
            used: HashMap::new(),
            used_by: HashMap::new(),
            waiting: Vec::new(),
        }
    }

    fn share(&self, member: Member, owner: &UserId) -> (u32, u32) {
        let of_owner = self.used_by.get(owner).copied().unwrap_or(0);
        (of_owner, self.used.get(&member).copied().unwrap_or(0))
    }
}

/// The places that calls of one tool need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<ResourceId>);

/// A batch, as far as places are concerned. Leaves when it is dropped.
pub struct Seat {
    slots: Arc<Slots>,
    member: Member,
    /// Something that was refused may be free now.
    pub freed: Arc<Notify>,
}

/// One place of each kind; free again when it is dropped.
pub struct Place {
    slots: Arc<Slots>,
    member: Member,
    places: Places,
}

impl Slots {
    pub fn new(limits: Limits) -> Arc<Slots> {
        let total = Resource::new(limits.total);
        Arc::new(Slots(Mutex::new(State {
            limits,
            resources: vec![total],
            by_name: HashMap::new(),
            members: HashMap::new(),
            n_joined: 0,
        })))
    }

    /// `tool` is its canonical name.
    pub fn places(&self, server: &str, tool: &str) -> Places {
        let mut state = self.0.lock();
        let per_server = state.limits.per_server;
        let of_server = state.limits.named.get(server).copied().unwrap_or(per_server);
        let mut places = vec![0, state.resource(server, of_server)];
        if let Some(limit) = state.limits.named.get(tool).copied() {
            places.push(state.resource(tool, limit));
        }
        Places(places)
    }

    pub fn join(self: &Arc<Slots>, owner: &UserId) -> Seat {
        let mut state = self.0.lock();
        state.n_joined += 1;
        let (member, freed) = (state.n_joined, Arc::new(Notify::new()));
        state.members.insert(member, (owner.clone(), freed.clone()));
        Seat { slots: self.clone(), member, freed }
    }
}

impl State {
    fn resource(&mut self, name: &str, limit: u32) -> ResourceId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        self.resources.push(Resource::new(limit));
        self.by_name.insert(name.to_owned(), self.resources.len() - 1);
        self.resources.len() - 1
    }

    fn may_take(&self, id: ResourceId, member: Member, owner: &UserId) -> bool {
        let it = &self.resources[id];
        if it.limit <= it.n_used {
            return false;
        }
        let mine = it.share(member, owner);
        // What is left when everybody who waits has one more.
        let n_before = it.waiting.iter().filter(|other| {
            **other != member
                && self
                    .members
                    .get(other)
                    .is_some_and(|(theirs, _)| it.share(**other, theirs) < mine)
        });
        let n_before = u32::try_from(n_before.count()).unwrap_or(u32::MAX);
        it.n_used.saturating_add(n_before) < it.limit
    }

    fn wake(&self, id: ResourceId) {
        let it = &self.resources[id];
        if it.n_used < it.limit {
            for member in &it.waiting {
                if let Some((_, freed)) = self.members.get(member) {
                    freed.notify_one();
                }
            }
        }
    }
}

impl Seat {
    /// To be called before a round of `take`: what was refused before does not count as waiting any more.
    pub fn look_again(&self) {
        let mut state = self.slots.0.lock();
        for resource in &mut state.resources {
            if !resource.waiting.is_empty() {
                resource.waiting.retain(|it| *it != self.member);
            }
        }
    }

    /// Others may have been held up by this one's waiting, which is over.
    pub fn has_looked(&self) {
        let state = self.slots.0.lock();
        for id in 0..state.resources.len() {
            let it = &state.resources[id];
            if !it.waiting.is_empty() && !it.waiting.contains(&self.member) {
                state.wake(id);
            }
        }
    }

    pub fn take(&self, places: &Places) -> Option<Place> {
        let mut state = self.slots.0.lock();
        let owner = state.members.get(&self.member)?.0.clone();
        for id in &places.0 {
            if !state.may_take(*id, self.member, &owner) {
                let waiting = &mut state.resources[*id].waiting;
                if !waiting.contains(&self.member) {
                    waiting.push(self.member);
                }
                return None;
            }
        }
        for id in &places.0 {
            let resource = &mut state.resources[*id];
            resource.n_used += 1;
            *resource.used.entry(self.member).or_default() += 1;
            *resource.used_by.entry(owner.clone()).or_default() += 1;
        }
        Some(Place { slots: self.slots.clone(), member: self.member, places: places.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        for resource in &mut state.resources {
            resource.waiting.retain(|it| *it != self.member);
        }
        // Places are given back one by one, and need the owner until then.
        let is_idle = state.resources.iter().all(|it| !it.used.contains_key(&self.member));
        if is_idle {
            state.members.remove(&self.member);
        }
        for id in 0..state.resources.len() {
            state.wake(id);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        let owner = state.members.get(&self.member).map(|it| it.0.clone());
        for id in &self.places.0 {
            let resource = &mut state.resources[*id];
            resource.n_used -= 1;
            take_one(&mut resource.used, &self.member);
            if let Some(owner) = &owner {
                take_one(&mut resource.used_by, owner);
            }
            state.wake(*id);
        }
        let is_seated =
            state.members.get(&self.member).is_some_and(|it| Arc::strong_count(&it.1) > 1);
        if !is_seated && state.resources.iter().all(|it| !it.used.contains_key(&self.member)) {
            state.members.remove(&self.member);
        }
    }
}

fn take_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::try_new(name).unwrap()
    }

    #[test]
    fn limits_hold_and_places_come_back() {
        let named = HashMap::from([("a.slow".to_owned(), 1), ("b".to_owned(), 2)]);
        let slots = Slots::new(Limits { total: 3, per_server: 9, named });
        let seat = slots.join(&user("u"));
        let (slow, quick, other) =
            (slots.places("a", "a.slow"), slots.places("a", "a.quick"), slots.places("b", "b.x"));
        let first = seat.take(&slow).unwrap();
        assert!(seat.take(&slow).is_none(), "one at a time");
        let _second = seat.take(&other).unwrap();
        let _third = seat.take(&quick).unwrap();
        assert!(seat.take(&quick).is_none(), "three altogether");
        drop(first);
        assert!(seat.take(&slow).is_some());
    }

    #[tokio::test]
    async fn who_waits_with_fewer_comes_first() {
        let slots = Slots::new(Limits { total: 4, per_server: 9, named: HashMap::new() });
        let places = slots.places("s", "s.t");
        let (greedy, late) = (slots.join(&user("greedy")), slots.join(&user("late")));
        let mut taken: Vec<Place> = std::iter::from_fn(|| greedy.take(&places)).collect();
        assert_eq!(taken.len(), 4, "nobody else wants any");
        assert!(late.take(&places).is_none());
        taken.pop();
        late.freed.notified().await;
        assert!(greedy.take(&places).is_none(), "the place is for who has none");
        let _of_late = late.take(&places).unwrap();
        taken.pop();
        assert!(late.take(&places).is_some() || greedy.take(&places).is_some());
    }

    #[test]
    fn many_batches_of_one_owner_count_together() {
        let slots = Slots::new(Limits { total: 4, per_server: 9, named: HashMap::new() });
        let places = slots.places("s", "s.t");
        let many: Vec<Seat> = (0..4).map(|_| slots.join(&user("many"))).collect();
        let mut taken: Vec<Place> = many.iter().map(|it| it.take(&places).unwrap()).collect();
        let one = slots.join(&user("one"));
        let fifth = slots.join(&user("many"));
        assert!(one.take(&places).is_none() && fifth.take(&places).is_none());
        taken.pop();
        assert!(fifth.take(&places).is_none(), "its owner has three");
        assert!(one.take(&places).is_some());
    }

    #[test]
    fn who_waits_for_something_else_holds_nobody_up() {
        let named = HashMap::from([("rare".to_owned(), 1)]);
        let slots = Slots::new(Limits { total: 4, per_server: 9, named });
        let (rare, plenty) = (slots.places("rare", "rare.t"), slots.places("s", "s.t"));
        let (first, second) = (slots.join(&user("a")), slots.join(&user("b")));
        let _held = first.take(&rare).unwrap();
        assert!(second.take(&rare).is_none());
        let taken: Vec<Place> = std::iter::from_fn(|| first.take(&plenty)).collect();
        assert_eq!(taken.len(), 3);
    }
}
