//! Which node is chosen, and what a refusal says.

use super::*;
use crate::node::NodeStatus;

fn resources(cpu: u32, gib: u32) -> Resources {
    Resources::new(Cpu::from_millis(cpu * 1000), Memory::from_mib(gib * 1024), 0)
}

fn node(id: &str, cpu: u32, gib: u32) -> Node {
    Node { capacity: resources(cpu, gib), ..Node::test(id) }
}

fn demand(cpu: u32, gib: u32, strategy: Strategy) -> Demand {
    Demand { resources: resources(cpu, gib), strategy, ..Demand::default() }
}

fn decide(nodes: &[(Node, Resources)], demand: &Demand) -> Result<Decision, Shortage> {
    place(
        nodes.iter().map(|(node, used)| Candidate {
            node,
            used: *used,
            n_instances: 0,
            n_free_ports: 10,
        }),
        demand,
    )
}

#[test]
fn spread_takes_the_emptier_and_binpack_the_fuller() {
    let nodes = [(node("a", 8, 16), resources(4, 4)), (node("b", 8, 16), resources(1, 1))];
    assert_eq!(decide(&nodes, &demand(1, 1, Strategy::Spread)).unwrap().node_id.as_str(), "b");
    assert_eq!(decide(&nodes, &demand(1, 1, Strategy::Binpack)).unwrap().node_id.as_str(), "a");
}

#[test]
fn a_refusal_says_what_is_there_and_what_would_fit() {
    let nodes = [(node("a", 4, 2), resources(0, 0)), (node("b", 2, 8), resources(0, 0))];
    let shortage = decide(&nodes, &demand(8, 16, Strategy::Spread)).unwrap_err();
    assert_eq!(shortage.max_cpu_available, Cpu::from_millis(4000));
    assert_eq!(shortage.max_memory_available, Memory::from_mib(8192));
    assert_eq!(shortage.feasible, vec![resources(2, 8), resources(4, 2)]);
    for size in &shortage.feasible {
        let fits = Demand { resources: *size, ..Demand::default() };
        assert!(decide(&nodes, &fits).is_ok(), "{size:?}");
    }
}

#[test]
fn cordon_health_role_tags_and_ports_pass_a_node_over() {
    let good = node("good", 8, 16);
    type Spoil = fn(&mut Node);
    let spoil: [(&str, Spoil); 4] = [
        ("cordoned", |it| it.cordoned = true),
        ("not healthy", |it| it.status = NodeStatus::Unreachable),
        ("another role", |it| it.role = Role::Storage),
        ("lack a tag", |it| it.tags.clear()),
    ];
    let mut wanted = demand(1, 1, Strategy::Spread);
    wanted.tags.insert(Tag::try_new("gpu").unwrap());
    for (words, spoil) in spoil {
        let mut it = good.clone();
        it.tags = wanted.tags.clone();
        assert!(decide(&[(it.clone(), Resources::default())], &wanted).is_ok());
        spoil(&mut it);
        let shortage = decide(&[(it, Resources::default())], &wanted).unwrap_err();
        assert!(shortage.reasons[0].contains(words), "{:?}", shortage.reasons);
    }
    wanted.tags.clear();
    wanted.n_ports = 11;
    assert!(
        decide(&[(good, Resources::default())], &wanted).unwrap_err().reasons[0].contains("ports")
    );
}

#[test]
fn a_named_node_is_taken_whatever_its_role() {
    let mut storage = node("store", 8, 16);
    storage.role = Role::Storage;
    let mut wanted = demand(1, 1, Strategy::Spread);
    wanted.node_id = Some(storage.id.clone());
    let nodes = [(node("a", 8, 16), Resources::default()), (storage, Resources::default())];
    assert_eq!(decide(&nodes, &wanted).unwrap().node_id.as_str(), "store");
}

proptest::proptest! {
    #[test]
    fn the_chosen_node_has_room_and_none_is_refused_that_had(
        sizes in proptest::collection::vec((1u32..16, 1u32..64, 0u32..16, 0u32..64), 0..12),
        cpu in 1u32..16, gib in 1u32..64, binpack: bool,
    ) {
        let nodes: Vec<(Node, Resources)> = sizes.iter().enumerate()
            .map(|(i, (c, m, uc, um))| (node(&format!("n{i}"), *c, *m), resources(*uc.min(c), *um.min(m))))
            .collect();
        let strategy = if binpack { Strategy::Binpack } else { Strategy::Spread };
        let wanted = demand(cpu, gib, strategy);
        let fits = |it: &(Node, Resources)| wanted.resources.fits_in(&it.0.capacity.minus(&it.1));
        match decide(&nodes, &wanted) {
            Ok(decision) => {
                let chosen = nodes.iter().find(|it| it.0.id == decision.node_id).unwrap();
                proptest::prop_assert!(fits(chosen));
                proptest::prop_assert_eq!(decision.n_feasible, nodes.iter().filter(|it| fits(it)).count());
            }
            Err(_) => proptest::prop_assert!(!nodes.iter().any(fits)),
        }
    }
}
