//! Random lives of a book: whatever happens, the sums agree.

use super::*;

/// One step of a random life of the book.
#[derive(Clone, Debug)]
enum Step {
    Launch {
        count: u32,
        n_ports: u16,
        gpu: u32,
    },
    Act {
        at: usize,
        action: usize,
    },
    Settle {
        at: usize,
    },
    Move {
        at: usize,
        attempt: u32,
    },
    Relocate {
        at: usize,
    },
    Release {
        at: usize,
    },
    Expire,
    Abandon,
    /// A node reports another number of GPUs, perhaps fewer than are held.
    Gpus {
        on_second: bool,
        n: u32,
    },
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        (1u32..4, 0u16..4, 0u32..3).prop_map(|(count, n_ports, gpu)| Step::Launch {
            count,
            n_ports,
            gpu
        }),
        (any::<bool>(), 0u32..5).prop_map(|(on_second, n)| Step::Gpus { on_second, n }),
        (0usize..20, 0usize..4).prop_map(|(at, action)| Step::Act { at, action }),
        (0usize..20).prop_map(|at| Step::Settle { at }),
        (0usize..20, 0u32..4).prop_map(|(at, attempt)| Step::Move { at, attempt }),
        (0usize..20).prop_map(|at| Step::Relocate { at }),
        (0usize..20).prop_map(|at| Step::Relocate { at }),
        (0usize..20).prop_map(|at| Step::Release { at }),
        Just(Step::Expire),
        Just(Step::Abandon),
    ]
}

proptest::proptest! {
    /// Whatever happens, sums agree, quota holds, and what is stored loads into the same book.
    #[test]
    fn invariants_survive_any_life(steps in proptest::collection::vec(step(), 1..60)) {
        let mut book = book(3, 6);
        let mut stored: BTreeMap<InstanceId, Arc<Instance>> = BTreeMap::new();
        // The state of each instance, as the news have it.
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        let ann = UserId::try_new("ann").unwrap();
        for (n, step) in steps.into_iter().enumerate() {
            let now = NOW.plus_millis(n as u64 * 1000);
            let pick = |book: &Book, at: usize| book.instances.keys().nth(at).cloned();
            let result = match step {
                Step::Launch { count, n_ports, gpu } => {
                    let mut launch = launch(count, n_ports);
                    launch.demand.resources.gpu = gpu;
                    reserve(&mut book, &launch, now).map(|it| it.1)
                }
                Step::Gpus { on_second, n } => {
                    let id = NodeId::try_new(if on_second { "n1" } else { "n0" }).unwrap();
                    book.transaction(|it| it.change_node(&id, |it| it.capacity.gpu = n)).map(|it| it.1)
                }
                Step::Act { at, action } => match pick(&book, at) {
                    Some(id) => book.transaction(|it| it.request(&id, Action::ALL[action], now)).map(|it| it.1),
                    None => continue,
                },
                Step::Settle { at } => match pick(&book, at) {
                    Some(id) => book.transaction(|it| {
                        match it.instances[&id].state {
                            InstanceState::Pending => it.set_running(&id, "c".to_owned(), now),
                            InstanceState::Stopping => it.set_stopped(&id, None, now),
                            InstanceState::ShuttingDown => it.set_terminated(&id, None, now),
                            _ => {}
                        }
                        Ok(())
                    }).map(|it| it.1),
                    None => continue,
                },
                Step::Move { at, attempt } => match pick(&book, at) {
                    Some(id) if book.instances[&id].state == InstanceState::Pending && !book.instances[&id].ports.is_empty() => {
                        let taken = [book.instances[&id].ports[0].host_port];
                        book.transaction(|it| it.move_ports(&id, &taken, attempt, now.plus_millis(5000), now)).map(|it| it.1)
                    }
                    _ => continue,
                },
                Step::Relocate { at } => match pick(&book, at) {
                    Some(id) => book.transaction(|it| relocate(it, &id, now)).map(|it| it.1),
                    None => continue,
                },
                Step::Release { at } => match pick(&book, at) {
                    Some(id) => book.transaction(|it| {
                        let left: Vec<NodeId> = it.instances[&id].remnants.iter().map(|it| it.node_id.clone()).collect();
                        left.iter().take(1).for_each(|node_id| it.release_remnant(&id, node_id));
                        Ok(())
                    }).map(|it| it.1),
                    None => continue,
                },
                Step::Expire => book.transaction(|it| Ok(it.expire_terminated(now.plus_millis(3_600_000)))).map(|it| it.1),
                Step::Abandon => {
                    let id = NodeId::try_new("n2").unwrap();
                    let given_up = book.transaction(|it| {
                        it.abandon_node(&id, now)?;
                        it.add_node(node("n2"))
                    });
                    given_up.map(|it| it.1)
                }
            };
            let changes = result.unwrap_or_default();
            for it in changes.news {
                if let Some(state) = it.state {
                    proptest::prop_assert_eq!(told.insert(it.subject.id, state), it.previous);
                }
            }
            for change in changes.rows {
                if let Change::Instance(id, value) = change {
                    match value {
                        Some(it) => drop(stored.insert(id, it)),
                        None => {
                            // Its end was told before; that its record goes is no news.
                            told.remove(&id.to_string());
                            stored.remove(&id);
                        }
                    }
                }
            }
            proptest::prop_assert_eq!(book.check(), Ok(()));
            let mut given: Vec<(&NodeId, u32)> = book
                .instances
                .values()
                .filter(|it| it.state.holds_reservation())
                .flat_map(|it| it.gpus.iter().map(|gpu| (&it.node_id, *gpu)))
                .collect();
            let n_given = given.len();
            given.sort();
            given.dedup();
            proptest::prop_assert_eq!(given.len(), n_given, "a GPU was given twice");
            proptest::prop_assert!(book.usage(&ann).instances <= 6);
            proptest::prop_assert_eq!(&stored, &book.instances);
            let states = book.instances.values().map(|it| (it.id.to_string(), it.state.to_string()));
            proptest::prop_assert_eq!(&told, &states.collect::<BTreeMap<_, _>>());
        }
        let rows = Rows {
            instances: stored.values().map(|it| (**it).clone()).collect(),
            nodes: book.nodes.values().map(|it| (*it.node).clone()).collect(),
            users: book.users.values().map(|it| (**it).clone()).collect(),
            ..Rows::default()
        };
        let loaded = Book::load(book.port_range, rows).map_err(proptest::test_runner::TestCaseError::fail)?;
        proptest::prop_assert_eq!(loaded.usage(&ann), book.usage(&ann));
        proptest::prop_assert_eq!(&loaded.instances, &book.instances);
    }
}
