//! Moves to another node: two places held, one quota, and nothing forgotten before it is seen to be gone.

use super::*;

#[test]
fn a_move_holds_both_places_and_one_quota_until_the_old_is_seen_to_be_gone() {
    let mut book = book(2, 5);
    let ann = UserId::try_new("ann").unwrap();
    let id = running(&mut book, 2);
    let (moved, changes) = book.transaction(|it| relocate(it, &id, NOW)).unwrap();
    assert_eq!((moved.from.as_str(), moved.generation), ("n0", 2));
    assert_eq!(moved.decision.node_id.as_str(), "n1");
    // The record, and two ports on each node.
    assert_eq!(changes.rows.len(), 5, "{changes:?}");
    assert_eq!(book.usage(&ann).instances, 1);
    assert_eq!((used(&book, "n0"), used(&book, "n1")), (1000, 1000));
    let instance = book.instance(&id).unwrap().clone();
    assert_eq!((instance.state, instance.container_id.clone()), (InstanceState::Pending, None));
    book.check().unwrap();

    // Terminated meanwhile: the quota is free, the lost node's part is not, and the record stays to say so.
    book.transaction(|it| {
        it.request(&id, Action::Terminate, NOW)?;
        it.set_terminated(&id, None, NOW);
        Ok(())
    })
    .unwrap();
    assert_eq!(book.usage(&ann).instances, 0);
    assert_eq!((used(&book, "n0"), used(&book, "n1")), (1000, 0));
    let later = NOW.plus_millis(100 * 3_600_000);
    assert_eq!(book.transaction(|it| Ok(it.expire_terminated(later))).unwrap().0, 0);
    let n0 = NodeId::try_new("n0").unwrap();
    let refusal = book.transaction(|it| it.remove_node(&n0)).unwrap_err();
    assert!(refusal.to_string().contains("force=true"), "{refusal}");
    book.check().unwrap();

    book.transaction(|it| {
        it.release_remnant(&id, &n0);
        Ok(())
    })
    .unwrap();
    assert_eq!(used(&book, "n0"), 0);
    assert!(book.slot(&n0).unwrap().ports.is_empty());
    assert_eq!(book.transaction(|it| Ok(it.expire_terminated(later))).unwrap().0, 1);
    book.check().unwrap();
}

#[test]
fn a_move_goes_where_the_instance_never_was_and_is_refused_whole() {
    let mut book = book(2, 5);
    let id = running(&mut book, 1);
    book.transaction(|it| relocate(it, &id, NOW)).unwrap();
    // It left something on the one and is on the other.
    let before = book.instance(&id).unwrap().clone();
    let refusal = book.transaction(|it| relocate(it, &id, NOW)).unwrap_err();
    assert!(matches!(refusal, Error::InsufficientCapacity(_)), "{refusal}");
    assert_eq!(*book.instance(&id).unwrap(), before);
    book.check().unwrap();
    // What was launched and never ran has no place to move from.
    let fresh = reserve(&mut book, &launch(1, 0), NOW).unwrap().0.ids[0].clone();
    let refusal = book.transaction(|it| relocate(it, &fresh, NOW)).unwrap_err();
    assert!(matches!(refusal, Error::IncorrectState { .. }), "{refusal}");
}

#[test]
fn a_node_given_up_frees_what_was_left_on_it_and_ends_nobody_elsewhere() {
    let mut book = book(2, 5);
    let id = running(&mut book, 1);
    book.transaction(|it| relocate(it, &id, NOW)).unwrap();
    let n0 = NodeId::try_new("n0").unwrap();
    let (ended, _) = book.transaction(|it| it.abandon_node(&n0, NOW)).unwrap();
    assert!(ended.is_empty(), "{ended:?}");
    let instance = book.instance(&id).unwrap();
    assert!(instance.remnants.is_empty() && instance.state == InstanceState::Pending);
    book.check().unwrap();
}

#[test]
fn a_row_that_names_a_lost_place_twice_does_not_load() {
    let mut book = book(2, 5);
    let id = running(&mut book, 1);
    book.transaction(|it| relocate(it, &id, NOW)).unwrap();
    let moved = (**book.instance(&id).unwrap()).clone();
    let rows = |instances: Vec<Instance>, nodes: &[&str]| Rows {
        instances,
        nodes: nodes.iter().map(|it| node(it)).collect(),
        ..Rows::default()
    };
    let range = book.port_range;
    assert!(Book::load(range, rows(vec![moved.clone()], &["n0", "n1"])).unwrap().check().is_ok());
    let err = Book::load(range, rows(vec![moved.clone()], &["n1"])).err().unwrap();
    assert!(err.contains("n0"), "{err}");
    // Another instance on the port that the remnant still holds.
    let other = Instance {
        node_id: NodeId::try_new("n0").unwrap(),
        ports: moved.remnants[0].ports.clone(),
        ..Instance::test(9)
    };
    let err = Book::load(range, rows(vec![moved, other], &["n0", "n1"])).err().unwrap();
    assert!(err.contains("two holders"), "{err}");
}
