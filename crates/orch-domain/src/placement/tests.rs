//! Which node is chosen, and what a refusal says.

use std::sync::Arc;

use super::*;
use crate::node::{EngineConfig, NodeStatus};
use crate::ray::{RayNode, RayNodeState, RayNodes};

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
fn simulated_nodes_are_for_those_who_ask_once_a_node_is_real() {
    let idle = Resources::default();
    let sim = Node { tags: [Tag::try_new("toy").unwrap()].into(), ..node("sim", 64, 64) };
    let engine = EngineConfig::Docker { endpoint: "unix:///run/docker.sock".to_owned() };
    let real = Node { engine, ..node("real", 2, 2) };
    let small = demand(1, 1, Strategy::Spread);
    let only_sim = [(sim.clone(), idle)];
    assert_eq!(decide(&only_sim, &small).unwrap().node_id.as_str(), "sim");

    let both = [(sim.clone(), idle), (real.clone(), idle)];
    let decision = decide(&both, &small).unwrap();
    assert_eq!(decision.node_id.as_str(), "real");
    assert!(decision.reasons[1].contains("simulated"), "{:?}", decision.reasons);
    let by_name = Demand { node_id: Some(sim.id.clone()), ..small.clone() };
    let by_tag = Demand { tags: sim.tags.clone(), ..small.clone() };
    for asked in [by_name, by_tag] {
        assert_eq!(decide(&both, &asked).unwrap().node_id.as_str(), "sim");
    }
    // Not even when the real one cannot take it.
    let down = Node { status: NodeStatus::Unreachable, ..real };
    let shortage = decide(&[(sim, idle), (down, idle)], &small).unwrap_err();
    assert!(shortage.reasons.iter().any(|it| it.contains("simulated")), "{:?}", shortage.reasons);
}

#[test]
fn asking_for_a_role_or_a_tag_that_is_not_there_is_answered_with_those_that_are() {
    let idle = Resources::default();
    let tags = |names: &[&str]| names.iter().map(|it| Tag::try_new(*it).unwrap()).collect();
    let nodes = [
        (Node { tags: tags(&["ssd", "eu"]), ..node("a", 8, 8) }, idle),
        (Node { role: Role::Storage, ..node("b", 8, 8) }, idle),
    ];
    let text = |demand: &Demand| {
        crate::Error::InsufficientCapacity(Box::new(decide(&nodes, demand).unwrap_err()))
            .to_string()
    };
    let small = demand(1, 1, Strategy::Spread);
    let said = text(&Demand { tags: tags(&["gpu"]), ..small.clone() });
    assert!(said.contains("has the tag `gpu`; they have the tags `eu`, `ssd`"), "{said}");
    assert!(!said.contains("vCPU"), "a size is not what is wrong: {said}");
    let said = text(&Demand { role: Some(Role::Master), ..small.clone() });
    assert!(said.contains("no node of the role `master`") && said.contains("`storage`"), "{said}");
    let mut gpu = small;
    gpu.resources.gpu = 2;
    let said = text(&gpu);
    assert!(said.contains("max available is 8 vCPU and 8 GiB and 0 GPU"), "{said}");
    assert!(said.contains("cpu 1 memory 1 gpu 0"), "{said}");
    // Asked for, they are taken, whatever their role.
    let storage = Demand { role: Some(Role::Storage), ..demand(1, 1, Strategy::Spread) };
    assert_eq!(decide(&nodes, &storage).unwrap().node_id.as_str(), "b");
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

/// Nodes `a`, `b` … at addresses of their own, and what Ray has in use there of 4 CPUs, in thousandths.
fn with_ray(ray: &[Option<u32>]) -> (Vec<(Node, Resources)>, RayFigures) {
    let id = |i: usize| char::from(b'a' + i as u8).to_string();
    let address = |i: usize| format!("10.0.0.{i}");
    let nodes = (0..ray.len())
        .map(|i| (Node { address: address(i), ..node(&id(i), 8, 16) }, Resources::default()))
        .collect();
    let of_ray = |(i, used): (usize, &Option<u32>)| {
        let mut it = RayNode::test(&format!("ray-{i}"), &address(i));
        it.usage.cpu_used = Some(Cpu::from_millis((*used)?));
        Some(it)
    };
    let known = ray.iter().enumerate().filter_map(of_ray).collect();
    let nodes_of_ray = Arc::new(RayNodes::new(known));
    (nodes, RayFigures::Fresh { age_ms: 7000, nodes: nodes_of_ray })
}

#[test]
fn what_ray_has_in_use_is_avoided_and_the_reasons_say_so() {
    let (mut nodes, ray) = with_ray(&[Some(4000), Some(1000), None]);
    let wanted = Demand { ray, ..demand(1, 1, Strategy::RayAware) };
    // The third is not in Ray and counts by its reservations, of which it has the most.
    nodes[2].1 = resources(4, 4);
    let decision = decide(&nodes, &wanted).unwrap();
    assert_eq!((decision.node_id.as_str(), decision.ray_load), ("b", Some(0.25)));
    assert_eq!(decision.load_after, 0.125);
    assert_eq!(
        decision.reasons,
        [
            "ray-aware: of 3 nodes with room, `b` stays least loaded (12 % reserved, 25 % in use by Ray)",
            "Ray's figures, 7 s old, were weighed for 2 of 3 nodes with room; the others count by their reservations"
        ]
    );
    // With less of its own than the others have of Ray's, it is the one.
    nodes[2].1 = resources(0, 0);
    let decision = decide(&nodes, &wanted).unwrap();
    assert_eq!((decision.node_id.as_str(), decision.ray_load), ("c", None));
    // Another strategy does not look at Ray.
    let spread = Demand { strategy: Strategy::Spread, ..wanted.clone() };
    assert_eq!(decide(&nodes, &spread).unwrap().node_id.as_str(), "a");
}

#[test]
fn figures_that_are_not_there_or_too_old_are_not_weighed() {
    for (ray, words) in [
        (RayFigures::NotConfigured, "not configured"),
        (RayFigures::Stale { age_ms: None }, "not answered yet"),
        (RayFigures::Stale { age_ms: Some(75_000) }, "75 s old, too old"),
    ] {
        let (nodes, _) = with_ray(&[Some(4000), Some(0)]);
        let decision = decide(&nodes, &Demand { ray, ..demand(1, 1, Strategy::RayAware) }).unwrap();
        assert_eq!(decision.node_id.as_str(), "a");
        assert!(decision.reasons[1].contains(words), "{:?}", decision.reasons);
    }
}

#[test]
fn a_dead_ray_node_takes_nothing_and_gpus_count_for_those_who_want_one() {
    let address = |i: usize| format!("10.0.0.{i}");
    let mut nodes: Vec<_> = (0..2)
        .map(|i| (Node { address: address(i), ..node(["a", "b"][i], 8, 16) }, resources(0, 0)))
        .collect();
    nodes.iter_mut().for_each(|it| it.0.capacity.gpu = 1);
    let mut busy = RayNode::test("r", &address(0));
    busy.usage.gpu_used = Some(1.0);
    busy.usage.gpu_total = 1.0;
    let ray =
        |it: RayNode| RayFigures::Fresh { age_ms: 0, nodes: Arc::new(RayNodes::new(vec![it])) };
    let mut wanted = Demand { ray: ray(busy.clone()), ..demand(1, 1, Strategy::RayAware) };
    assert_eq!(decide(&nodes, &wanted).unwrap().node_id.as_str(), "a");
    wanted.resources.gpu = 1;
    assert_eq!(decide(&nodes, &wanted).unwrap().node_id.as_str(), "b");
    wanted.ray = ray(RayNode { state: RayNodeState::Dead, ..busy });
    assert_eq!(decide(&nodes, &wanted).unwrap().node_id.as_str(), "a");
}

proptest::proptest! {
    #[test]
    fn no_other_node_with_room_is_less_loaded_by_instances_and_ray(
        sizes in proptest::collection::vec((0u32..8, 0u32..16, proptest::option::of(0u32..=4000)), 1..8),
    ) {
        let of_ray: Vec<Option<u32>> = sizes.iter().map(|it| it.2).collect();
        let (mut nodes, ray) = with_ray(&of_ray);
        for (node, (cpu, gib, _)) in nodes.iter_mut().zip(&sizes) {
            node.1 = resources(*cpu, *gib);
        }
        let wanted = Demand { ray, ..demand(1, 1, Strategy::RayAware) };
        let loaded = |i: usize| {
            let own = load(&nodes[i].1.plus(&wanted.resources), &nodes[i].0.capacity);
            own.max(of_ray[i].map_or(0.0, |it| f64::from(it) / 4000.0))
        };
        let decision = decide(&nodes, &wanted).unwrap();
        let chosen = nodes.iter().position(|it| it.0.id == decision.node_id).unwrap();
        for i in 0..nodes.len() {
            proptest::prop_assert!(loaded(chosen) <= loaded(i), "{i} against {chosen}");
        }
        // Nothing known of Ray: the same as spread.
        let blind = Demand { ray: RayFigures::NotConfigured, ..wanted.clone() };
        let spread = Demand { strategy: Strategy::Spread, ..wanted.clone() };
        proptest::prop_assert_eq!(decide(&nodes, &blind).unwrap().node_id, decide(&nodes, &spread).unwrap().node_id);
    }

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
