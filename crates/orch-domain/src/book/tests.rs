//! Reservations, ports, tokens and quotas, one transaction after another.

mod life;
mod relocation;

use std::collections::BTreeMap;

use super::*;
use crate::image::ImageRef;
use crate::instance::{Action, InstanceState, LaunchToken, ReasonCode};
use crate::label::Labels;
use crate::name::InstanceName;
use crate::node::EngineConfig;
use crate::node_loss::OnNodeLoss;
use crate::placement::Demand;
use crate::port::{PortRequest, Protocol};
use crate::ray::RayFigures;
use crate::resource::{Cpu, Memory};
use crate::time::Timestamp;
use crate::user::Quota;

const NOW: Timestamp = Timestamp::ZERO;

fn book(n_nodes: usize, quota: u32) -> Book {
    let mut book = Book::new(PortRange::try_new(8000, 8009).unwrap());
    let (_, changes) = book
        .transaction(|it| {
            for n in 0..n_nodes {
                it.add_node(node(&format!("n{n}")))?;
            }
            it.add_user(user("ann", quota))
        })
        .unwrap();
    assert_eq!((changes.rows.len(), changes.news.len()), (n_nodes + 1, n_nodes + 1));
    book
}

fn node(id: &str) -> Node {
    let capacity = Resources::new(Cpu::from_millis(4000), Memory::from_mib(4096), 3);
    Node { capacity, capacity_is_fixed: true, ..Node::test(id) }
}

fn user(name: &str, n_instances: u32) -> User {
    let user = User::test(name);
    User { quota: Quota { instances: n_instances, ..user.quota }, ..user }
}

fn launch(count: u32, n_ports: u16) -> Launch {
    Launch {
        name: InstanceName::try_new("web").unwrap(),
        image: ImageRef::try_new("nginx").unwrap(),
        count,
        ports: (0..n_ports)
            .map(|it| PortRequest { container_port: 80 + it, protocol: Protocol::Tcp })
            .collect(),
        env: BTreeMap::new(),
        command: Vec::new(),
        labels: Labels::default(),
        owner: UserId::try_new("ann").unwrap(),
        termination_protection: false,
        on_node_loss: OnNodeLoss::Reschedule,
        demand: Demand {
            resources: Resources::new(Cpu::from_millis(1000), Memory::from_mib(512), 0),
            ..Demand::default()
        },
        token: None,
    }
}

fn with_token(mut launch: Launch, token: &str, is_derived: bool, arguments: &str) -> Launch {
    let token = ClientToken::try_new(token).unwrap();
    launch.token = Some(LaunchToken { token, is_derived, arguments_sha256: arguments.to_owned() });
    launch
}

fn reserve(book: &mut Book, launch: &Launch, now: Timestamp) -> Result<(Reserved, Changes), Error> {
    let mut seed = book.instances.len() as u32;
    book.transaction(|it| {
        it.reserve(launch, now, || {
            seed += 1;
            seed
        })
    })
}

#[test]
fn a_reservation_is_record_ports_and_quota_in_one_piece() {
    let mut book = book(1, 5);
    let (reserved, changes) = reserve(&mut book, &launch(1, 2), NOW).unwrap();
    let id = &reserved.ids[0];
    assert_eq!(changes.rows.len(), 3, "{changes:?}");
    assert_eq!(book.usage(&UserId::try_new("ann").unwrap()).instances, 1);
    assert_eq!(
        book.slot(&NodeId::try_new("n0").unwrap()).unwrap().ports[&8001],
        Holder::Instance(id.clone())
    );
    book.check().unwrap();
}

#[test]
fn all_or_none_of_a_count() {
    let mut book = book(1, 50);
    // Four fit by CPU; the fifth does not, so none is kept.
    assert!(matches!(reserve(&mut book, &launch(5, 1), NOW), Err(Error::InsufficientCapacity(_))));
    assert_eq!(book.instances.len(), 0);
    book.check().unwrap();
    assert_eq!(reserve(&mut book, &launch(4, 1), NOW).unwrap().0.ids.len(), 4);
    book.check().unwrap();
}

#[test]
fn quota_counts_until_the_container_is_gone() {
    let mut book = book(2, 1);
    let id = reserve(&mut book, &launch(1, 1), NOW).unwrap().0.ids[0].clone();
    let refused =
        |book: &mut Book| matches!(reserve(book, &launch(1, 1), NOW), Err(Error::QuotaExceeded(_)));
    assert!(refused(&mut book));
    book.transaction(|it| it.request(&id, Action::Terminate, NOW)).unwrap();
    assert!(refused(&mut book));
    book.transaction(|it| {
        it.set_terminated(&id, None, NOW);
        Ok(())
    })
    .unwrap();
    assert!(!refused(&mut book));
    book.check().unwrap();
}

#[test]
fn the_same_token_is_the_same_launch() {
    let mut book = book(1, 5);
    let first = reserve(&mut book, &with_token(launch(1, 0), "t", false, "a"), NOW).unwrap().0;
    let second = reserve(&mut book, &with_token(launch(1, 0), "t", false, "a"), NOW).unwrap().0;
    assert!(second.existed);
    assert_eq!(first.ids, second.ids);
    let other = reserve(&mut book, &with_token(launch(1, 0), "t", false, "b"), NOW);
    assert!(matches!(other, Err(Error::IdempotentParameterMismatch { .. })));
}

#[test]
fn a_derived_token_guards_ten_minutes_and_not_the_dead() {
    let mut book = book(1, 5);
    let it = with_token(launch(1, 0), "derived", true, "a");
    let first = reserve(&mut book, &it, NOW).unwrap().0.ids;
    assert_eq!(reserve(&mut book, &it, NOW.plus_millis(599_999)).unwrap().0.ids, first);
    let later = NOW.plus_millis(600_000);
    let second = reserve(&mut book, &it, later).unwrap().0.ids;
    assert_ne!(second, first);
    book.transaction(|it| it.request(&second[0], Action::Terminate, later)).unwrap();
    assert_ne!(reserve(&mut book, &it, later).unwrap().0.ids, second);
}

#[test]
fn a_derived_token_does_not_answer_fewer_than_are_asked_for() {
    let mut book = book(1, 10);
    let three = with_token(launch(3, 0), "derived-1", true, "x");
    let first = reserve(&mut book, &three, NOW).unwrap().0;
    book.transaction(|it| it.request(&first.ids[0], Action::Terminate, NOW)).unwrap();
    let small = |it: &mut Launch| it.demand.resources.cpu = Cpu::from_millis(100);
    let mut again = three.clone();
    small(&mut again);
    let second = reserve(&mut book, &again, NOW).unwrap().0;
    assert!(!second.existed);
    assert_eq!(second.ids.len(), 3);
    let third = reserve(&mut book, &again, NOW).unwrap().0;
    assert!(third.existed);
    assert_eq!(third.ids, second.ids);
}

#[test]
fn ports_of_an_older_range_do_not_count_in_the_present_one() {
    let mut old = book(1, 50);
    let three = reserve(&mut old, &launch(3, 3), NOW).unwrap().0;
    // As loaded after the range was made smaller: nine ports are held, and there are two.
    let mut book = Book::new(PortRange::try_new(9000, 9001).unwrap());
    book.put_node(node("n0"));
    book.put_user(user("ann", 50));
    for id in &three.ids {
        book.put_instance((**old.instance(id).unwrap()).clone());
    }
    book.journal.clear();
    let two = reserve(&mut book, &launch(1, 2), NOW).unwrap().0;
    let ports: Vec<u16> =
        book.instance(&two.ids[0]).unwrap().ports.iter().map(|it| it.host_port).collect();
    assert_eq!(ports, [9000, 9001]);
    let refusal = reserve(&mut book, &launch(1, 1), NOW).unwrap_err();
    assert!(matches!(refusal, Error::InsufficientCapacity(_)), "{refusal}");
}

#[test]
fn taken_ports_are_passed_with_growing_strides() {
    let mut book = book(1, 5);
    let id = reserve(&mut book, &launch(1, 1), NOW).unwrap().0.ids[0].clone();
    let until = NOW.plus_millis(1000);
    book.transaction(|it| it.move_ports(&id, &[8000], 0, until, NOW)).unwrap();
    assert_eq!(book.instance(&id).unwrap().ports[0].host_port, 8001);
    book.transaction(|it| it.move_ports(&id, &[8001], 1, until, NOW)).unwrap();
    assert_eq!(book.instance(&id).unwrap().ports[0].host_port, 8003);
    book.check().unwrap();
    book.transaction(|it| Ok(it.release_quarantines(until))).unwrap();
    assert_eq!(book.slot(&NodeId::try_new("n0").unwrap()).unwrap().ports.len(), 1);
}

#[test]
fn a_node_with_instances_and_the_last_admin_stay() {
    let mut book = book(1, 5);
    reserve(&mut book, &launch(1, 0), NOW).unwrap();
    let node_id = NodeId::try_new("n0").unwrap();
    assert!(matches!(book.transaction(|it| it.remove_node(&node_id)), Err(Error::Conflict { .. })));
    let ann = UserId::try_new("ann").unwrap();
    assert!(matches!(
        book.transaction(|it| it.change_user(&ann, |it| it.permissions.clear())),
        Err(Error::Conflict { .. })
    ));
    assert_eq!(book.user(&ann).unwrap().permissions, user("ann", 5).permissions);
}

#[test]
fn terminated_records_are_forgotten_after_an_hour() {
    let mut book = book(1, 5);
    let id = reserve(&mut book, &launch(1, 0), NOW).unwrap().0.ids[0].clone();
    book.transaction(|it| {
        it.shut_down(&id, ReasonCode::EngineError.because("x"), NOW);
        it.set_terminated(&id, None, NOW);
        Ok(())
    })
    .unwrap();
    assert_eq!(
        book.instance(&id).unwrap().state_reason.as_ref().unwrap().code,
        ReasonCode::EngineError
    );
    assert_eq!(
        book.transaction(|it| Ok(it.expire_terminated(NOW.plus_millis(3_599_999)))).unwrap().0,
        0
    );
    let (n, changes) =
        book.transaction(|it| Ok(it.expire_terminated(NOW.plus_millis(3_600_000)))).unwrap();
    assert_eq!((n, &changes.rows[0]), (1, &Change::Instance(id, None)));
    assert_eq!(changes.news[0].kind, "instance.forgotten");
}

fn relocate(book: &mut Book, id: &InstanceId, now: Timestamp) -> Result<Moved, Error> {
    let why = ReasonCode::NodeUnreachable.because("its node is lost");
    book.relocate(id, why, &BTreeSet::new(), &RayFigures::NotConfigured, now)
}

fn running(book: &mut Book, n_ports: u16) -> InstanceId {
    let id = reserve(book, &launch(1, n_ports), NOW).unwrap().0.ids[0].clone();
    book.transaction(|it| {
        it.set_running(&id, "c".to_owned(), NOW);
        Ok(())
    })
    .unwrap();
    id
}

fn used(book: &Book, node_id: &str) -> u32 {
    book.slot(&NodeId::try_new(node_id).unwrap()).unwrap().used.cpu.millis()
}

#[test]
fn a_gpu_is_held_until_the_container_is_seen_gone() {
    let mut book = book(1, 10);
    let with_gpus = |n| {
        let mut launch = launch(1, 0);
        launch.demand.resources.gpu = n;
        launch
    };
    let (first, changes) = reserve(&mut book, &with_gpus(2), NOW).unwrap();
    let first = first.ids[0].clone();
    assert_eq!(book.instance(&first).unwrap().gpus, [0, 1]);
    assert!(matches!(&changes.rows[0], Change::Instance(_, Some(it)) if it.gpus == [0, 1]));
    let second = reserve(&mut book, &with_gpus(1), NOW).unwrap().0.ids[0].clone();
    assert_eq!(book.instance(&second).unwrap().gpus, [2]);
    let refused = reserve(&mut book, &with_gpus(1), NOW).unwrap_err();
    assert!(matches!(refused, Error::InsufficientCapacity(_)), "{refused}");

    // Asked to end is not yet gone.
    book.transaction(|it| it.request(&first, Action::Terminate, NOW)).unwrap();
    reserve(&mut book, &with_gpus(1), NOW).unwrap_err();
    book.transaction(|it| {
        it.set_terminated(&first, None, NOW);
        Ok(())
    })
    .unwrap();
    let third = reserve(&mut book, &with_gpus(2), NOW).unwrap().0.ids[0].clone();
    assert_eq!(book.instance(&third).unwrap().gpus, [0, 1]);
    assert_eq!(book.check(), Ok(()));
}

#[test]
fn rows_that_say_how_many_gpus_and_not_which_get_those_that_are_left() {
    let on = |n, gpu, gpus: &[u32]| {
        let plain = Instance::test(n);
        let resources = Resources { gpu, ..plain.resources };
        Instance {
            node_id: NodeId::try_new("n0").unwrap(),
            resources,
            gpus: gpus.to_vec(),
            ..plain
        }
    };
    let rows = |instances| Rows { nodes: vec![node("n0")], instances, ..Rows::default() };
    let range = PortRange::try_new(8000, 8009).unwrap();
    let (old, new) = (on(1, 2, &[]), on(2, 1, &[1]));
    let book = Book::load(range, rows(vec![old.clone(), new])).unwrap();
    assert_eq!(book.instance(&old.id).unwrap().gpus, [0, 2]);
    assert_eq!(book.check(), Ok(()));
    let twice = Book::load(range, rows(vec![on(1, 1, &[1]), on(2, 1, &[1])]));
    assert!(twice.err().unwrap().contains("GPU 1 of node n0 has two holders"));
}

#[test]
fn a_node_given_up_ends_its_instances_and_frees_all_they_held() {
    let mut book = book(2, 10);
    let id = NodeId::try_new("n0").unwrap();
    let on_n0 = Launch {
        demand: Demand { node_id: Some(id.clone()), ..launch(2, 1).demand },
        ..launch(2, 1)
    };
    let mut random = 0..;
    let (reserved, _) =
        book.transaction(|it| it.reserve(&on_n0, NOW, || random.next().unwrap())).unwrap();
    assert!(book.transaction(|it| it.remove_node(&id)).is_err());
    let (mut ended, _) = book.transaction(|it| it.abandon_node(&id, NOW)).unwrap();
    ended.sort();
    let mut ids = reserved.ids.clone();
    ids.sort();
    assert_eq!(ended, ids);
    let instance = book.instance(&ended[0]).unwrap();
    assert_eq!(instance.state, InstanceState::Terminated);
    assert_eq!(instance.state_reason.as_ref().unwrap().code, ReasonCode::NodeLost);
    assert!(book.slot(&id).is_none());
    assert_eq!(book.usage(&instance.owner).instances, 0);
    book.check().unwrap();
}

#[test]
fn an_engine_belongs_to_one_node_and_is_not_changed_under_instances() {
    let docker = |path: &str| EngineConfig::Docker { endpoint: format!("unix://{path}") };
    let mut book = book(1, 10);
    let local = Node { engine: docker("/var/run/docker.sock"), ..node("local") };
    book.transaction(|it| it.add_node(local)).unwrap();
    let again = Node { engine: docker("/run/docker.sock"), ..node("again") };
    let err = book.transaction(|it| it.add_node(again)).unwrap_err();
    assert!(err.to_string().contains("`local`"), "{err}");

    let id = NodeId::try_new("local").unwrap();
    let there = Launch {
        demand: Demand { node_id: Some(id.clone()), ..launch(1, 0).demand },
        ..launch(1, 0)
    };
    book.transaction(|it| it.reserve(&there, NOW, || 7)).unwrap();
    let mut move_to = |path: &str| {
        book.transaction(|it| it.change_node(&id, |node| node.engine = docker(path))).map(|_| ())
    };
    assert!(move_to("/run/other.sock").is_err());
    assert!(move_to("/run/docker.sock").is_ok());
}
