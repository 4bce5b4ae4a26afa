use super::*;
use crate::caller::{Channel, Permission};
use crate::instance::{Instance, InstanceState, ReasonCode};
use crate::node::{Node, NodeStatus};
use crate::user::{Quota, User};

fn kinds(news: &[News]) -> Vec<&str> {
    news.iter().map(|it| it.kind.as_str()).collect()
}

fn told<T>(
    derive: fn(Option<&T>, Option<&T>, &mut Vec<News>),
    before: Option<&T>,
    after: Option<&T>,
) -> Vec<News> {
    let mut news = Vec::new();
    derive(before, after, &mut news);
    news
}

#[test]
fn what_stays_as_it_was_is_no_news() {
    let (it, n1, ann) = (Instance::test(1), Node::test("n1"), User::test("ann"));
    assert!(told(instance, Some(&it), Some(&it)).is_empty());
    assert!(told(node, Some(&n1), Some(&n1)).is_empty());
    assert!(told(user, Some(&ann), Some(&ann)).is_empty());
    assert!(told(instance, None, None).is_empty());
}

#[test]
fn an_instance_tells_each_state_with_its_reason() {
    let before = Instance::test(1);
    let launched = told(instance, None, Some(&before));
    assert_eq!(kinds(&launched), ["instance.pending"]);
    assert_eq!((&launched[0].previous, launched[0].state.as_deref()), (&None, Some("pending")));
    for state in InstanceState::ALL.into_iter().filter(|it| *it != before.state) {
        let mut after = before.clone();
        after.enter(
            state,
            Some(ReasonCode::OutOfMemory.because("too\u{1b}[31m much")),
            before.state_since,
        );
        let [it] = &told(instance, Some(&before), Some(&after))[..] else {
            panic!("one for {state}")
        };
        assert_eq!(it.kind, format!("instance.{state}"));
        assert_eq!(
            (it.previous.as_deref(), it.state.as_deref()),
            (Some("pending"), Some(state.as_str()))
        );
        assert!(it.message.ends_with(": too much"), "{}", it.message);
        assert_eq!((&it.owner, &it.node_id), (&Some(after.owner), &Some(after.node_id)));
    }
    assert_eq!(kinds(&told(instance, Some(&before), None)), ["instance.forgotten"]);
    let named = Instance { name: "other".parse().unwrap(), ..before.clone() };
    let [it] = &told(instance, Some(&before), Some(&named))[..] else { panic!() };
    assert_eq!(
        (it.kind.as_str(), it.message.contains("changed: name")),
        ("instance.changed", true)
    );
    let moved = Instance {
        node_id: NodeId::try_new("n2").unwrap(),
        generation: 2,
        state: InstanceState::Running,
        ..before.clone()
    };
    assert_eq!(
        kinds(&told(instance, Some(&before), Some(&moved))),
        ["instance.moved", "instance.running"]
    );
    let inner = Instance { container_id: Some("c".to_owned()), ..before.clone() };
    assert_eq!(kinds(&told(instance, Some(&before), Some(&inner))), ["instance.changed"]);
}

#[test]
fn a_node_tells_all_that_changed_at_once() {
    let before = Node::test("n1");
    let after = Node {
        status: NodeStatus::Unreachable,
        cordoned: true,
        description: "rack 3".to_owned(),
        ..before.clone()
    };
    let news = told(node, Some(&before), Some(&after));
    assert_eq!(kinds(&news), ["node.unreachable", "node.cordoned", "node.changed"]);
    assert!(news.iter().all(|it| it.owner.is_none() && it.node_id.is_some()));
    assert_eq!(
        kinds(&told(node, Some(&after), Some(&Node { cordoned: false, ..after.clone() }))),
        ["node.uncordoned"]
    );
}

#[test]
fn a_user_tells_quota_and_the_rest_apart_and_no_secret() {
    let before = User { password_hash: "$argon2id$before".to_owned(), ..User::test("ann") };
    let after = User {
        quota: Quota { instances: 3, ..before.quota },
        password_hash: "$argon2id$after".to_owned(),
        ..before.clone()
    };
    let news = told(user, Some(&before), Some(&after));
    assert_eq!(kinds(&news), ["quota.changed", "user.changed"]);
    assert!(news.iter().all(|it| !it.message.contains("argon2")), "{news:?}");
    assert!(news[0].message.contains("3 instances"), "{}", news[0].message);
}

fn caller(user: &str, permissions: &[Permission]) -> Caller {
    Caller::new(UserId::try_new(user).unwrap(), permissions.to_vec(), Channel::Rest)
}

#[test]
fn others_see_nothing_and_not_who_did_it() {
    let (ann, bob) = (caller("ann", &[Permission::Read]), caller("bob", &[Permission::Read]));
    let admin = caller("root", &[Permission::Admin]);
    let actor = Some(UserId::try_new("root").unwrap());
    let news = &told(instance, None, Some(&Instance::test(1)))[0];
    let of_ann = news.clone().event(7, Timestamp::ZERO, actor.clone(), Some(AuditId(3)));
    assert_eq!(of_ann.seen_by(&bob), None);
    assert_eq!(of_ann.seen_by(&admin).as_ref(), Some(&of_ann));
    let seen = of_ann.seen_by(&ann).unwrap();
    assert_eq!((seen.actor, seen.audit_id, seen.revision), (None, None, 7));
    let of_all = told(node, None, Some(&Node::test("n1")))[0].clone();
    let of_all = of_all.event(8, Timestamp::ZERO, Some(bob.user.clone()), Some(AuditId(4)));
    assert_eq!(of_all.seen_by(&bob).unwrap().actor, Some(bob.user));
    assert_eq!(of_all.seen_by(&ann).unwrap().audit_id, None);
}

#[test]
fn a_filter_takes_a_kind_or_its_group_and_refuses_what_is_none() {
    let event = told(node, None, Some(&Node::test("n1")))[0].clone();
    let event = event.event(1, Timestamp::from_millis(5), None, None);
    let of = |kind: &str| EventFilter { kind: Some(kind.to_owned()), ..EventFilter::default() };
    assert!(of("node").matches(&event) && of("node.registered").matches(&event));
    assert!(!of("node.reg").matches(&event) && !of("instance").matches(&event));
    assert!(of("node.exploded").check().is_ok() && of("nodes").check().is_err());
    let at = |after, before| EventFilter {
        after: Some(Timestamp::from_millis(after)),
        before: Some(Timestamp::from_millis(before)),
        ..EventFilter::default()
    };
    assert!(at(5, 6).matches(&event) && !at(6, 9).matches(&event) && !at(1, 5).matches(&event));
}
